# make demo   sets up .venv and serves the page with the bundled weights on http://127.0.0.1:7860 (PORT= for another)
# make test   sets up .venv and runs the tests
# make lint   formatting, lint and the import contract
# make screenshots  renews the pictures of the page in assets/screens
# make clean  removes .venv

PYTHON ?= python3
PORT ?= 7860
BIN := .venv/bin

.PHONY: demo test lint format screenshots clean

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

screenshots: .venv/dev
	$(BIN)/python tests/helpers/screenshots.py
	$(BIN)/python tests/helpers/screenshots.py --theme dark --tabs generate

clean:
	rm -rf .venv

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

.venv/dev: requirements-dev.txt requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	touch .venv/demo $@
