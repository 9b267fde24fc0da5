# make test: all that CI runs. make demo: the four verbs on the phantom, and a report.
PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
# The runtime and the server as they are deployed: no PyTorch, no onnx but for the tests' stand-ins.
LEAN = $(VENV)-lean
PAGE = tlp_server/page/index.html
NODE = web/node_modules/.package-lock.json

.PHONY: help install page types web wheel ready test lint floors newest demo proof clean

help:
	@echo "make install   a virtual environment in $(VENV) with everything"
	@echo "make page      the viewer's page, by Node.js (make install does it too)"
	@echo "make web       checks of the page: types, lint and tests"
	@echo "make types     the page's types of the API, made again"
	@echo "make wheel     a wheel with the page, in dist/"
	@echo "make test      format, lint, types, import rules and tests: what CI runs"
	@echo "make demo      train, export, infer, evaluate on the phantom; report in demo/"
	@echo "make floors    the runtime's tests at the lowest versions that are declared"
	@echo "make newest    the same at the newest ones, by each Python from 3.11 to 3.13 that is there"
	@echo "make proof     the long proofs that CI has no time for"

# torch first, by its exact version: a range would bring gigabytes of CUDA to a CPU machine.
$(VENV)/.installed: pyproject.toml constraints.txt
	command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found; use make PYTHON=python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) "$$(grep '^torch==' constraints.txt)"
	$(INSTALL) -e '.[cpu,openvino,train,export,trt-rtx,dicom,ray,serve,dev]'
	touch $@

install: $(VENV)/.installed

$(LEAN)/.installed: pyproject.toml constraints.txt $(PAGE)
	$(PYTHON) -m venv $(LEAN)
	$(LEAN)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,serve,dicom,test]'
	! $(LEAN)/bin/python -c 'import torch' 2>/dev/null
	touch $@

# Built by setup.py at installation as well; this is for when its sources change.
$(NODE): web/package-lock.json
	cd web && npm ci
$(PAGE): $(NODE) $(shell find web -path web/node_modules -prune -o -type f -print)
	cd web && npm run build

page: $(PAGE)

# The page's own checks: types of the API as the server describes them, lint, tests of its logic.
SCHEMAS = from tlp_server.app import description; import json; \
	print(json.dumps({**description(), "paths": {}}, indent=1))
build/openapi.json: install tlp_server/*.py
	mkdir -p build
	$(BIN)/python -c '$(SCHEMAS)' > $@

types: build/openapi.json $(NODE)
	cd web && npm run --silent types

web: build/openapi.json page
	cd web && npm run --silent types -- --check && npm run --silent lint && npm test --silent

wheel: install $(PAGE)
	TLP_PAGE=required $(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One thread a process: PyTorch's threads wait for each other badly when several processes run.
# What both environments' tests work on is made once, by the first.
PYTEST = OMP_NUM_THREADS=1 TLP_TEST_ASSETS=$(CURDIR)/build/assets
SHARED = -n 2 --dist loadfile --no-loadscope-reorder --durations=20
AT_FLOORS = tests/server tests/runtime/test_dicom_whole.py
build/assets: install
	rm -rf $@ && OMP_NUM_THREADS=1 $(BIN)/python -m tests.assets $@
ready: lint web $(LEAN)/.installed $(VENV)-floors/.installed build/assets
test: install
	rm -rf build/assets
	$(MAKE) --no-print-directory -j2 ready
	$(PYTEST) $(LEAN)/bin/pytest $(SHARED) tests/runtime tests/server
	$(PYTEST) $(VENV)-floors/bin/pytest $(SHARED) $(AT_FLOORS)
	$(PYTEST) $(BIN)/pytest $(SHARED) tests/cli tests/e2e tests/engines tests/export tests/train

# The lowest versions that pyproject.toml declares, and the newest there are; PyTorch is in neither.
OTHERS = $(VENV)-floors $(VENV)-newest
build/floors.txt: pyproject.toml tests/floors.py install
	mkdir -p build
	$(BIN)/python -m tests.floors cpu serve dicom > $@
$(VENV)-floors/.installed: build/floors.txt $(PAGE)
	$(PYTHON) -m venv $(VENV)-floors
	$(VENV)-floors/bin/pip install --quiet --disable-pip-version-check -c $< -e '.[cpu,serve,dicom,test]'
	touch $@
floors: build/assets $(VENV)-floors/.installed
	$(PYTEST) $(VENV)-floors/bin/pytest $(SHARED) tests/runtime tests/server
newest: $(patsubst %,newest-%,3.11 3.12 3.13)
newest-%: build/assets
	@python$* -c "" 2>/dev/null || { echo "python$* is not installed: not tested"; exit 0; }; \
	rm -rf $(VENV)-newest && python$* -m venv $(VENV)-newest && \
	$(VENV)-newest/bin/pip install --quiet --disable-pip-version-check -e '.[cpu,serve,dicom,test]' && \
	$(PYTEST) $(VENV)-newest/bin/pytest $(SHARED) tests/runtime tests/server

demo: install
	$(BIN)/python -m benchmarks.demo --out demo

proof: install page
	$(BIN)/pytest -m proof

clean:
	rm -rf $(VENV) $(LEAN) $(OTHERS) demo build dist web/node_modules tlp_server/page *.egg-info .pytest_cache .mypy_cache .ruff_cache
