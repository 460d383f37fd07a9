# make setup: .venv with everything; make demo: the whole method at work; make test: the unit tests; make test-slow: kill -9 and other slow ones
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-slow lint requirements docs clean

setup: .venv/.ready

.venv/.ready: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bluemask needs Python 3.11 or later; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

demo: setup
	$(BIN)/bluemask demo --out demo

# two processes of one thread each are quicker than one of two
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "slow and not long"

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy bluemask.py flows tasks models storage viewer bench

# the one command that makes requirements.txt; no addresses in it
requirements: setup
	$(BIN)/uv pip compile --quiet pyproject.toml --extra dev --universal --python-version 3.11 \
		--no-emit-index-url --no-header --upgrade --output-file requirements.txt

docs: setup
	$(BIN)/python -m tasks.document
	$(BIN)/python bluemask.py write-reference docs/commands.md

clean:
	rm -rf .venv demo build *.egg-info
