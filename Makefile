# make demo | test | test-all | bench | lint | setup | clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The first interpreter that is new enough; PYTHON=… on the command line chooses another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$python; break; fi; done)
SOURCES := onnxmtl passes tests samples
# Two workers with a thread each keep two cores busy; more threads than cores only wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all bench lint clean

help:
	@echo "make demo      the main job on built-in data: one backbone, three tasks, one model (about 6 minutes on 2 cores)"
	@echo "make test      every check and test (without the slow ones)"
	@echo "make test-all  the slow ones too"
	@echo "make bench     timings, as ratios"
	@echo "make lint      ruff, mypy, import-linter"
	@echo "make setup     only the virtual environment, in $(VENV)"
	@echo "make clean     removes $(VENV) and caches; runs/ stays"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@if ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		echo "error: onnxmtl needs Python 3.11 or newer; install one or call make PYTHON=/path/to/python" >&2; exit 1; fi
	@if [ ! -x $(BIN)/python ]; then \
		echo "setting up $(VENV) with $$($(PYTHON) --version)"; \
		$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
			echo "error: cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }; fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[train,cpu,gs,test]"
	@touch $@

demo: setup
	@number=1; while [ -e runs/demo-$$number ]; do number=$$((number + 1)); done; \
	$(BIN)/onnxmtl compile samples/backbones/resnet18-small.onnx --tasks seg=segmentation,depth,normals \
		--output runs/demo-$$number

lint: setup
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(PYTEST) -m "not slow"

test-all: lint
	$(PYTEST)

bench: setup
	@for file in tests/benchmarks/bench_*.py; do echo "== $$file"; PYTHONPATH=tests $(BIN)/python $$file || exit 1; done

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
