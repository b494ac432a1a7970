# FleetLoop. Two commands do everything on a fresh machine: `make demo` and `make test`.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Three on two cores, because many tests wait for processes. Whole files go to one worker, so that a file's broker or workspace is made once; tests/conftest.py puts long files first.
TEST_WORKERS ?= 3
PYTEST := $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder
unexport PYTHONDONTWRITEBYTECODE
DEMO_ARGS ?=

.PHONY: help demo test test-fast test-e2e test-avx2 test-vnni torture torture-full torture-broken soak bench check format lint types imports schemas lock clean
help: ## Say what can be made.
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  \1\t\2/' | expand -t 18

include mk/setup.mk
-include mk/kafka.mk
include mk/runtimes.mk

demo: $(DEMO_READY) $(DATA_READY) ## The whole loop, from a frame on a vehicle to a better model on that vehicle.
	$(BIN)/fleetloop demo $(DEMO_ARGS)

test: $(DEV_READY) $(DATA_READY) ## Every test that this machine can run (Kafka tests skip by name without it).
	$(PYTEST) tests

test-fast: $(DEV_READY) ## Unit and property tests only.
	$(PYTEST) tests -m "not slow and not e2e and not kafka"

test-e2e: $(DEV_READY) $(DATA_READY) ## The long ones: real processes, brokers, DVC, the demo, the tutorial.
	$(PYTEST) tests -m "slow or e2e or kafka"

# FLEETLOOP_AS_CPU is a program that runs a command as on an older processor (`$FLEETLOOP_AS_CPU avx2 COMMAND...`), which is no
# part of this repository; single tests look for it, too.
AS_CPU := $(FLEETLOOP_AS_CPU)
define as_cpu
	@[ -n "$(AS_CPU)" ] || { echo "make $@: set FLEETLOOP_AS_CPU to a program that hides instruction sets (\$$FLEETLOOP_AS_CPU avx2 COMMAND...)" >&2; exit 2; }
	$(AS_CPU) $(1) $(PYTEST) tests/modelkit tests/training tests/edge_agent/models
endef

test-avx2: $(DEV_READY) $(DATA_READY) ## The tests of models as on a processor with AVX2 and without VNNI (needs FLEETLOOP_AS_CPU).
	$(call as_cpu,avx2)

test-vnni: $(DEV_READY) $(DATA_READY) ## The same as on one with VNNI and without AMX.
	$(call as_cpu,vnni)

torture: $(DEV_READY) ## The fault campaign in a box of time: SECONDS=600 SEED=7.
	$(BIN)/python -m tests.torture box --seconds $(or $(SECONDS),600) --seed $(or $(SEED),7)

torture-full: $(DEV_READY) ## Every fault to its full count; goes on where it was stopped.
	$(BIN)/python -m tests.torture full --seed $(or $(SEED),7)

torture-broken: $(DEV_READY) ## Every fault on builds that are broken on purpose.
	$(BIN)/python -m tests.torture broken --seed $(or $(SEED),7)

soak: $(DEV_READY) ## Real processes for a long time; fails when anything grows: SECONDS=1200.
	$(BIN)/python -m tests.soak --seconds $(or $(SECONDS),1200)

bench: $(DEV_READY) $(DATA_READY) ## Speed beside the raw limit and a peer; writes docs/benchmarks.md.
	$(BIN)/python -m benchmarks --seed $(or $(SEED),7)

check: lint types imports schemas test ## The same checks as CI.

format: $(DEV_READY) ## Format the code.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(DEV_READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(DEV_READY)
	$(BIN)/mypy

imports: $(DEV_READY)
	$(BIN)/lint-imports

schemas: $(DEV_READY)
	$(BIN)/python -m scripts.schema_compatibility
	$(BIN)/python -m scripts.golden_vectors

lock: $(DEV_READY) ## Write the lock files again.
	scripts/lock.sh

clean: ## Remove what the demo and the tests wrote (the virtual environment stays).
	rm -rf out .pytest_cache .mypy_cache .ruff_cache .hypothesis
