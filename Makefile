# make test: all that CI runs. make demo: the four verbs on the phantom, and a report.
PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help install test lint demo proof clean

help:
	@echo "make install   a virtual environment in $(VENV) with everything"
	@echo "make test      format, lint, types, import rules and tests: what CI runs"
	@echo "make demo      train, export, infer, evaluate on the phantom; report in demo/"
	@echo "make proof     the long proofs that CI has no time for"

# torch first, by its exact version: a range would bring gigabytes of CUDA to a CPU machine.
$(VENV)/.installed: pyproject.toml constraints.txt
	command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found; use make PYTHON=python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) "$$(grep '^torch==' constraints.txt)"
	$(INSTALL) -e '.[cpu,train,export,trt-rtx,dicom,ray,dev]'
	touch $@

install: $(VENV)/.installed

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One thread a process: PyTorch's threads wait for each other badly when several processes run.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

demo: install
	$(BIN)/python benchmarks/demo.py --out demo

proof: install
	$(BIN)/pytest -m proof

clean:
	rm -rf $(VENV) demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache
