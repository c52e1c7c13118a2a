# make docs builds the site of docs/.
# make demo | test | lint | sanitize | env, each with STACK=NAME for the stack of requirements/constraints-NAME.txt.
# PYTHON makes the environment; the first line of the constraints says which it may be.
PYTHON ?= python3
STACK ?= reference
ARGS ?=

VENV := .venv$(if $(filter-out reference,$(STACK)),-$(STACK))

# Workers x threads must not exceed the cores: OpenMP spins when they do.
CORES   := $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
WORKERS := $(shell echo $$(( $(CORES) < 4 ? $(CORES) : 4 )))
THREADS := $(shell echo $$(( $(CORES) / $(WORKERS) )))

.PHONY: env demo test lint sanitize docs

env:
	@$(PYTHON) requirements/make_env.py $(STACK)

demo: env
	$(VENV)/bin/python tools/demo.py $(ARGS)

test: env
	OMP_NUM_THREADS=$(THREADS) $(VENV)/bin/python -m pytest tests -n $(WORKERS) --dist worksteal $(ARGS)

lint: env
	$(VENV)/bin/ruff check .
	$(VENV)/bin/python tools/check_imports.py
	$(VENV)/bin/mypy

sanitize: env
	$(VENV)/bin/python tests/sanitize.py $(ARGS)

docs: .venv-docs/made
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict $(ARGS)

.venv-docs/made: requirements/docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@
