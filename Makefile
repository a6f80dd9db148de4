# Everything from nothing: a machine with Python 3.11+ and make needs no other preparation.
PYTHON ?= python3
DEMO = .venv
DEV = .venv-dev

.PHONY: demo test lint types contract unit docs slow browser fuzz-service packages clean

# Core dependencies alone, then images from the model that ships with the package.
demo: $(DEMO)/installed
	$(DEMO)/bin/strait generate --labels mountain,forest,lemon,tomato,sunflower --count 6 --seed 0 \
		--grid demo.png --overwrite
	@echo "look at demo.png"

$(DEMO)/installed: pyproject.toml
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/pip install --quiet "torch>=2.11,<2.14" -e .
	touch $@

$(DEV)/installed: pyproject.toml
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/pip install --quiet "torch>=2.11,<2.14" -e ".[dev]"
	touch $@

test: lint types contract docs unit

lint: $(DEV)/installed
	$(DEV)/bin/ruff check src tests benchmarks docs notebooks
	$(DEV)/bin/ruff format --check src tests benchmarks

types: $(DEV)/installed
	$(DEV)/bin/basedpyright --pythonpath $(DEV)/bin/python

contract: $(DEV)/installed
	$(DEV)/bin/lint-imports

# Two processes, one thread each: most of the time goes into starting processes and into small operations.
unit: $(DEV)/installed
	$(DEV)/bin/pytest --numprocesses $(or $(PROCESSES),2) --dist worksteal

slow: $(DEV)/installed
	$(DEV)/bin/pytest -m slow

# The documentation site, into site/: a warning is an error (with --quiet it would not be). The variable keeps an
# advertisement quiet.
docs: $(DEV)/installed
	NO_MKDOCS_2_WARNING=1 $(DEV)/bin/mkdocs build --strict
	@echo "look at site/index.html"

# A source distribution and the wheel that is built from it, into dist/; the slow tests install it elsewhere.
packages: $(DEV)/installed
	$(DEV)/bin/python -m build --no-isolation

# Pages in a real browser: Debian's chromium, unless one is there.
browser: $(DEV)/installed
	$(DEV)/bin/pip install --quiet "torch>=2.11,<2.14" playwright
	command -v chromium || command -v chromium-browser || command -v google-chrome || \
		{ apt-get update && apt-get install --yes chromium; } || \
		echo "no browser can be had here: these tests will skip"
	$(DEV)/bin/pytest -m browser -rs

# The service against its own OpenAPI description.
fuzz-service: $(DEV)/installed
	$(DEV)/bin/pip install --quiet "torch>=2.11,<2.14" schemathesis
	$(DEV)/bin/python benchmarks/fuzz_service.py --cases $(or $(CASES),5000)

clean:
	rm -rf $(DEMO) $(DEV) demo.png site dist
