# `make runtimes` adds the runtimes beside ONNX Runtime, each from its own lock file. Tests of a runtime that is not there are
# skipped by name. `qnn` is the vendor's emulator of a Hexagon NPU and has a licence of its own.
RUNTIMES ?= openvino litert
RUNTIMES_READY := $(foreach one,$(RUNTIMES),$(VENV)/.ready-runtime-$(one))

.PHONY: runtimes
runtimes: $(RUNTIMES_READY) ## Install further runtimes for models (RUNTIMES="openvino litert").

$(VENV)/.ready-runtime-%: requirements/%.txt $(DEV_READY)
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --quiet --require-hashes -r $<
	@touch $@
