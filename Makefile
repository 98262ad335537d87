# Policies in Concert. `make help` lists the targets; everything they need is set up on first use.

PYTHON := .venv/bin/python
READY := .venv/ready
JOBS ?= 2
PROFILE ?= default

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONNOUSERSITE := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1
export JUPYTER_PREFER_ENV_PATH := 1
# Compiling takes most of what the pages and tests of the JAX suites take: programs are kept, for one kind of processor.
export JAX_COMPILATION_CACHE_DIR := $(CURDIR)/build/jax/$(shell (grep -m 1 ^flags /proc/cpuinfo || uname -m) 2>/dev/null | cksum | cut -d ' ' -f 1)
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS := 0.2
unexport PYTHONPATH PYTHONHOME

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup football starcraft book test lab runs bench lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  make runs EXHIBIT=magpo-table-1 TIER=laptop [JOBS=2] [PROFILE=slurm]"
	@echo "  EXHIBIT is an id of book/exhibits.yml, TIER one of smoke, laptop, paper"

setup: $(READY) ## create .venv from requirements.lock

$(READY): requirements.lock pyproject.toml
	@workflow/setup.sh
	@touch $@

football: $(READY) ## build Google Research Football and install it (about ten minutes of one core)
	@workflow/football.sh .venv

starcraft: $(READY) ## install the packages SMAC and SMACv2 (StarCraft II and its maps come by hand)
	@workflow/starcraft.sh .venv

book: $(READY) ## execute the notebooks that are out of date and build the HTML book
	@$(PYTHON) workflow/build.py book --jobs $(JOBS)
	@$(PYTHON) workflow/pages.py check
	@echo "The book is ready. Open:"
	@echo "$(CURDIR)/book/_build/html/index.html"

test: book ## run all tests: unit tests, notebooks at the smoke tier, the book in a browser
	@command -v chromium >/dev/null || workflow/debian.sh chromium
	OMP_NUM_THREADS=1 INCONCERT_REQUIRE_BROWSER=1 $(PYTHON) -m pytest -n $(JOBS) --dist loadfile --nbval-lax --nbval-current-env tests notebooks

lab: $(READY) ## open the notebooks in JupyterLab
	cd notebooks && "$(CURDIR)/$(PYTHON)" -m jupyterlab $(shell [ "$$(id -u)" != 0 ] || echo --allow-root)

runs: $(READY) ## make the run records of an exhibit: EXHIBIT=... TIER=...
	@$(PYTHON) workflow/build.py runs "$(EXHIBIT)" "$(TIER)" --profile "$(PROFILE)" --jobs $(JOBS)

bench: $(READY) ## measure training and environment speed on this machine
	@for script in benchmarks/*.py; do OMP_NUM_THREADS=1 $(PYTHON) "$$script" || exit 1; done

lint: $(READY) ## check style and types
	$(PYTHON) -m ruff check
	$(PYTHON) -m mypy

clean: ## remove what `make book` made (never the records in runs/, nor .venv)
	rm -rf build book/_build .snakemake
