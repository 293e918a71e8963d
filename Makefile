# make setup | demo | test | test-all | test-faults | test-slow | lint | format | docs | clean
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo
SHAPES := --jaxtyping-packages=crosslayer.mechanisms,crosslayer.models,crosslayer.data,beartype.beartype

.PHONY: setup demo test test-all test-exhaustive test-faults test-slow lint format docs clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "crosslayer needs Python 3.11 or newer; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'
	touch $@

# The main job on real images: the plain network and DLA-L on handwritten digits, about two minutes on two cores.
demo: setup
	$(BIN)/crosslayer train digits --mechanism none --output $(DEMO)/none --overwrite
	$(BIN)/crosslayer train digits --mechanism dla_l --output $(DEMO)/dla_l --overwrite
	$(BIN)/crosslayer attention $(DEMO)/dla_l --output $(DEMO)/attention
	$(BIN)/crosslayer compare $(DEMO)/none $(DEMO)/dla_l
	@echo 'curves:    $(DEMO)/none/curves.png  $(DEMO)/dla_l/curves.png'
	@echo 'attention: $(DEMO)/attention/attention.png'

# Two passes: shapes are checked at run time in the first, which would break the full graphs of the second.
test: setup
	$(BIN)/pytest -n 2 -m 'not compiled and not mistyped and not slow and not exhaustive and not faults' $(SHAPES)
	$(BIN)/pytest -n 2 -m '(compiled or mistyped) and not slow and not exhaustive and not faults'

# The rest of the products that `make test` takes a part of.
test-exhaustive: setup
	$(BIN)/pytest -n 2 -m 'exhaustive and not compiled and not mistyped and not slow' $(SHAPES)
	$(BIN)/pytest -n 2 -m 'exhaustive and (compiled or mistyped) and not slow'

# Kills, failing writes, damaged files, odd options: docs/reliability.md.
test-faults: setup
	$(BIN)/pytest -n 2 -m faults

test-all: test test-exhaustive test-faults test-slow

# Whole trainings of minutes each, and a walk over every network of timm, one at a time.
test-slow: setup
	$(BIN)/pytest -m slow

lint: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright

format: setup
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# The site, into site/; a link or a name that leads nowhere is an error.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv runs site .pytest_cache .ruff_cache .hypothesis
