# make demo     set up once, then run the main job on the packaged model and the generated corpus
# make test     set up once, then run the tests
# make check    ruff, the type checker, and the documentation built with warnings as errors
# make chaos    inject faults into real jobs (over an hour), and say what became of every promise
# make docs     the documentation, as a site in build/site
#
# TORCH_INDEX=<URL>  take PyTorch from this package index: the one of its CPU build, or of the CUDA
#                    build that fits the machine (PyTorch's installation page lists them)
# PYTHON=python3.12  use this interpreter

PYTHON ?= python3
TORCH_INDEX ?=
TORCH_VERSION := $(shell sed -n 's/^torch==//p' constraints.txt | cut -d' ' -f1)
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: demo test check docs chaos setup clean

demo: $(STAMP)
	"$(BIN)/python" jobs/sweep.py jobs/recipes/demo.yaml

# Tests that start a Ray take all cores by themselves.
test: $(STAMP)
	"$(BIN)/python" -m pytest -m "not ray" -n 2 --dist loadfile
	"$(BIN)/python" -m pytest -m ray

check: $(STAMP)
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"
	@$(MAKE) --no-print-directory docs

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 "$(BIN)/python" -m mkdocs build --strict

chaos: $(STAMP)
	"$(BIN)/python" benchmarks/chaos.py

setup: $(STAMP)

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else "adapt_ray needs Python 3.11 or newer, %s is Python %d.%d; give another with PYTHON=python3.11" % (sys.executable, v[0], v[1]))'
	@echo "setting up .venv (a few minutes the first time)"
	$(PYTHON) -m venv .venv
	"$(BIN)/python" -m pip install --quiet --no-deps --require-hashes -r requirements.lock
	"$(BIN)/python" -m pip install --quiet torch==$(TORCH_VERSION) $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)")
	"$(BIN)/python" -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $(STAMP)

clean:
	rm -rf .venv runs
