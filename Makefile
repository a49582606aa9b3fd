# make book  - install into .venv, run the notebooks of an edition, build the HTML
# make test  - install into .venv, run the whole test suite
# make study STUDY=name JOBS=2 - train and record a study of data/studies by two processes (hours)
# The same without make: python -m cat_core.bootstrap --extras book; then .venv's python -m cat_core.runs book

.DEFAULT_GOAL := help
.PHONY: help book study gpu test lint venv clean distclean

EDITION ?= quick
PAIR ?=
STUDY ?= reference
JOBS ?= 1
TORCH_INDEX ?=
PYTEST_ARGS ?=

# The first Python >= 3.11 that runs and can make virtual environments (a pyenv shim may exist and not run).
# Without one, the first that merely runs, so that the message below names the module that is missing.
find_python = for needs in "import ensurepip, venv" "import sys"; do \
	for candidate in python3.11 python3.12 python3.13 python3 python; do \
	"$$candidate" -c "$$needs; import sys; sys.exit(sys.version_info < (3, 11))" >/dev/null 2>&1 \
	&& { echo "$$candidate"; exit; }; done; done
ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell $(find_python))
endif

VENV_PYTHON := .venv/bin/python
WORKERS ?= auto

# $(call bootstrap,extras): does nothing when .venv already holds them.
bootstrap = test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found: install one," \
	"or name it: make $@ PYTHON=/path/to/python3.11" >&2; exit 1; }; \
	"$(PYTHON)" -m cat_core.bootstrap --extras $(1) $(if $(TORCH_INDEX),--torch-index "$(TORCH_INDEX)")

# Nothing from outside .venv gets in.
unexport PYTHONPATH
unexport PYTHONHOME
export PYTHONNOUSERSITE := 1

help:
	@echo "make book                  run edition 'quick' and build the book (prints its path and the time taken)"
	@echo "                           and the slides of the lecture, _build/html/slides.html"
	@echo "make book EDITION=NAME     another edition: a parameter file book/params/NAME.yml"
	@echo "make book PAIR=NAME        with another pair of models (python -m cat_core.pairs lists them); none: from scratch"
	@echo "make study STUDY=NAME      train what study data/studies/NAME.yaml lacks, record it (hours; goes on where it was);"
	@echo "                           JOBS=2: by two processes"
	@echo "make gpu                   benchmarks, study smol-gpu and a page on a GPU, in parts (a quarter of an hour);"
	@echo "                           TOY=1: at toy size on a CPU"
	@echo "make test                  the whole test suite; PYTEST_ARGS='-m \"not slow\"' for the quick part"
	@echo "make lint                  ruff, and no outputs left in the notebooks"
	@echo "make venv                  only the environment, with everything a contributor needs"
	@echo "make clean                 remove the built book and the caches (runs stay)"
	@echo "make distclean             remove the environment, too"
	@echo
	@echo "TORCH_INDEX=https://download.pytorch.org/whl/cpu   take torch from there (CPU build, small)"
	@echo "PYTHON=python3.12                                  make .venv with this Python (>= 3.11)"

book:
	@$(call bootstrap,book)
	@$(VENV_PYTHON) -m cat_core.runs book --edition "$(EDITION)" $(if $(PAIR),--pair "$(PAIR)")

gpu:
	@$(call bootstrap,book)
	@$(VENV_PYTHON) -m benchmarks.gpu run $(if $(TOY),--toy)

study:
	@$(call bootstrap,book)
	@$(VENV_PYTHON) -m cat_core.study run "$(STUDY)" --jobs "$(JOBS)"

# One thread a worker: as many workers as there are cores fill the machine, at most four fill the memory.
test:
	@$(call bootstrap,book$(comma)test)
	@OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n $(WORKERS) --maxprocesses 4 --dist worksteal $(PYTEST_ARGS)

lint:
	@$(call bootstrap,book$(comma)dev)
	@$(VENV_PYTHON) -m ruff check .
	@$(VENV_PYTHON) -m nbstripout --verify --keep-id --extra-keys "$(STRIPPED_KEYS)" book/*.ipynb

venv:
	@$(call bootstrap,book$(comma)test$(comma)dev)

clean:
	rm -rf _build build .pytest_cache .ruff_cache .hypothesis
	find cat_core tests book -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv *.egg-info

comma := ,
STRIPPED_KEYS := metadata.papermill cell.metadata.papermill cell.metadata.execution
