# Everything runs in .venv, made on first use; stamp files make later calls quick.
#   make demo     train a DMMD on handwritten digits, sample it, judge it; then a one-step generator for a minute
#   make test     run the tests
#   make release  build the distributions and try them
# With a CUDA build of PyTorch already in $(PYTHON): make TORCH=system demo
PYTHON ?= python3
TORCH ?= cpu
ifeq ($(TORCH),system)
VENV ?= .venv-system
VENV_FLAGS := --system-site-packages
CONSTRAINTS :=
else
VENV ?= .venv
VENV_FLAGS :=
CONSTRAINTS := -c constraints-cpu.txt
endif
BIN := $(VENV)/bin
# Modules are compiled when they are first imported, for of what is installed few are; and the bytecode is kept, whatever the
# environment says: the tests and `make demo` start Python anew dozens of times
export PYTHONDONTWRITEBYTECODE :=
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q --no-compile $(CONSTRAINTS)
RUN ?= runs/demo

.PHONY: install dev demo test test-gpu web-test faults check lock reproduce docs bench release clean
install: $(VENV)/.installed
dev: $(VENV)/.dev

$(BIN)/python:
	$(PYTHON) -m venv $(VENV_FLAGS) $(VENV)

$(VENV)/.installed: pyproject.toml constraints-cpu.txt | $(BIN)/python
	$(INSTALL) -e '.[train,images,plots]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints-cpu.txt | $(BIN)/python
	$(INSTALL) -e '.[dev]'
	touch $(VENV)/.installed $@

$(VENV)/.docs: $(VENV)/.installed
	$(INSTALL) -e '.[docs]'
	touch $@

demo: install
	@if [ -f $(RUN)/recipe.yaml ]; then $(BIN)/mmdflow train --resume $(RUN); \
	else $(BIN)/mmdflow train dmmd-digits --output=$(RUN); fi
	$(BIN)/mmdflow sample $(RUN) -n 64 -o $(RUN)/samples.png --save $(RUN)/samples.npz --overwrite
	$(BIN)/mmdflow sample $(RUN) -n 64 -o $(RUN)/flow.gif --overwrite
	$(BIN)/mmdflow evaluate $(RUN)
	@if [ -f $(RUN)-onestep/recipe.yaml ]; then $(BIN)/mmdflow train --resume $(RUN)-onestep; \
	else $(BIN)/mmdflow train drifting-digits --output=$(RUN)-onestep --training.max_seconds=60; fi
	$(BIN)/mmdflow sample $(RUN)-onestep -n 64 -o $(RUN)-onestep/samples.png --overwrite

test: dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'

check: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The GPU backend's laws: on a GPU where there is one, else in Triton's interpreter
test-gpu: dev
	$(INSTALL) 'triton>=3.6'
	$(BIN)/python -m pytest tests/test_ops_gpu.py

# The live page in headless Chromium (Debian: apt-get install nodejs chromium), screenshots in build/web-test
web-test: install
	$(BIN)/python tools/web_test.py

# 100 000 damaged files over every reader: refused in one line or read, and no other content where a checksum can tell
faults: dev
	$(BIN)/python -W ignore -m tests.faults.readers 100000
	$(BIN)/python -W ignore -m tests.faults.kills

reproduce: dev
	MMDFLOW_REPRODUCE=1 $(BIN)/python -m pytest -m slow -s

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

bench: dev
	$(INSTALL) -r benchmarks/requirements.txt
	$(BIN)/python benchmarks/run.py --output results
	$(BIN)/python tools/speed_page.py

# Sdist and wheel in dist, and the wheel tried in a clean environment as the README has it
release: | $(BIN)/python
	$(INSTALL) build
	rm -rf dist $(VENV)-release
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv $(VENV)-release
	$(VENV)-release/bin/python -m pip install --disable-pip-version-check -q -c constraints-cpu.txt "$$(ls dist/*.whl)[plots]"
	$(VENV)-release/bin/python -I tools/try_release.py README.md
	rm -rf $(VENV)-release
	ls -l dist

# The versions that the newest allowed packages resolve to, in a fresh environment
lock:
	rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --disable-pip-version-check -q -c constraints-cpu.txt '.[train,images,plots,dev]'
	$(VENV)-lock/bin/python -m pip freeze --exclude mmdflow | sed 's/+cpu$$//' | grep -v ' @ ' > constraints-lock.txt
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
