# onecard: one card, many uses. `make help` lists what there is.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --disable-pip-version-check --quiet install --require-hashes
ARGS   ?=

.PHONY: help demo test lint bench mutants fuzz oracles machine walk soak lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/base ## play two business days of a city and prove them (ARGS="--seed 7 --out DIR")
	@$(BIN)/onecard demo $(ARGS)

test: $(VENV)/test ## install what the tests need, system packages included, and run them
	@$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/test ## ruff and mypy --strict, as the tests run them
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet . && $(BIN)/mypy

bench: $(VENV)/test ## speed as ratios, written to bench/results.json (exit status 1 under a floor)
	@$(BIN)/python -m bench $(ARGS)

mutants: $(VENV)/test ## break the product on purpose and name the auditor that sees it
	@$(BIN)/python -m tests.mutants $(ARGS)

fuzz: $(VENV)/test ## feed broken bytes to all that reads them (ARGS="--runs 1000000")
	@$(BIN)/python -m tests.fuzz $(ARGS)

oracles: $(VENV)/test ## every cryptogram against strangers' libraries (ARGS="--cases 100000")
	@$(BIN)/python -W ignore -m tests.oracles $(ARGS)

machine: $(VENV)/test ## card, terminal and flows in any order of acts, against models (ARGS="--steps 100000")
	@$(BIN)/python -m tests.machines $(ARGS)

walk: $(VENV)/test ## a clearing house to which anything comes in any order (WALKS=100 WALK_STEPS=400)
	@WALKS=$${WALKS:-100} WALK_STEPS=$${WALK_STEPS:-400} $(BIN)/python -m pytest tests/test_clearing_walk.py

soak: $(VENV)/test ## a long day at a reader on pcscd (ARGS="--taps 10000 --reconnects 1000")
	@$(BIN)/python -m tests.reader_soak $(ARGS)

lock: $(VENV)/test ## renew the three lock files from pyproject.toml
	@$(BIN)/python tests/lock.py

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The lock files name wheels by hash; onecard itself is installed in place, with the build tool that the lock names.
$(VENV)/base: requirements.txt pyproject.toml
	@echo "setting up $(VENV) (wheels named by hash in $<) …"
	@$(PYTHON) -m venv $(VENV) || { echo "python3's venv module is missing: install it (Debian: apt install python3-venv)"; exit 1; }
	@$(PIP) --only-binary :all: -r requirements.txt
	@$(BIN)/pip --disable-pip-version-check --quiet install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/test: $(VENV)/base requirements-test.txt requirements-pcsc.txt tests/system-packages.sh
	@bash tests/system-packages.sh
	@echo "adding the tests' libraries and pyscard …"
	@$(PIP) --only-binary :all: -r requirements-test.txt
	@$(PIP) -r requirements-pcsc.txt
	@touch $@
