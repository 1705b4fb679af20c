# make demo         sets up .venv and serves the page with the bundled weights on http://127.0.0.1:7860 (PORT= for another)
# make test         sets up .venv and runs the tests
# make lint         style, formatting and the import contract
# make format       formats the code and mends what ruff can mend
# make types        checks the types of the library, the training code and app.py
# make wheel        builds dist/audiodear-VERSION-py3-none-any.whl with the bundled weights
# make docs         draws the figures and builds the documentation into site/; any warning is an error
# make constraints  renews the exact versions in constraints.txt from the ranges in pyproject.toml
# make audit        looks the exact versions up in PyPI's database of known vulnerabilities
# make space        fills SPACE= with the files of a Hugging Face Space, its own requirements at exact versions
# make screenshots  renews the pictures of the page in assets/screens, and that of previews
# make clean        removes .venv and what was built

PYTHON ?= python3
PORT ?= 7860
SPACE ?= ../space
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
COMPILE := $(BIN)/uv pip compile --quiet --no-header --no-annotate --no-emit-index-url

.PHONY: demo test lint format types wheel docs constraints audit space screenshots clean

demo: .venv/demo
	PORT=$(PORT) $(BIN)/python app.py

# Two processes of one thread each: half the time of one with two.
test: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/dev
	$(BIN)/mypy

wheel: | .venv/bin/python
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

docs: .venv/docs
	$(BIN)/python docs/figures/draw.py
	$(BIN)/mkdocs build --quiet --strict

# One file for every supported Python and platform; markers tell the lines apart.
constraints: .venv/tools
	{ echo "# Exact versions for CI and the Space, renewed by 'make constraints'. Use: pip install --constraint constraints.txt"; \
	  $(COMPILE) --universal --upgrade --python-version 3.11 --all-extras pyproject.toml; } > constraints.new
	mv constraints.new constraints.txt

# Needs PyPI's JSON interface (or OSV's, with AUDIT="--vulnerability-service osv"). Ends with "Error 1" if a version has
# a known vulnerability, and with "Error 3" and a sentence if the database cannot be reached and nothing was checked.
# Lines for other platforms and Pythons are left out.
audit: .venv/tools
	$(BIN)/python .ci/audit.py $(AUDIT)

space: .venv/tools
	mkdir -p $(SPACE)
	git archive HEAD README.md LICENSE CITATION.cff app.py dear assets | tar x -C $(SPACE)
	$(COMPILE) --python-version 3.12 --python-platform x86_64-manylinux_2_28 --constraint constraints.txt \
	  --extra ui --output-file $(SPACE)/requirements.txt pyproject.toml

screenshots: .venv/dev
	$(BIN)/python tests/helpers/screenshots.py --preview
	$(BIN)/python tests/helpers/screenshots.py --theme dark --tabs generate

clean:
	rm -rf .venv dist site build

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: requirements.txt constraints.txt | .venv/bin/python
	$(PIP) --requirement requirements.txt
	touch $@

.venv/dev: pyproject.toml requirements.txt constraints.txt | .venv/bin/python
	$(PIP) --requirement requirements.txt --editable '.[dev]'
	touch .venv/demo $@

.venv/docs: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable '.[docs]'
	touch $@

# Not under the constraints, which these tools renew.
.venv/tools: | .venv/bin/python
	$(BIN)/python -m pip install --quiet 'uv>=0.9,<1' 'pip-audit>=2.9,<3'
	touch $@
