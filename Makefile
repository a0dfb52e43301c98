# Everything runs from the checkout with .venv/bin/python; `make help` lists the targets.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-to-run
INSTALLED_DEV := $(VENV)/.installed-to-develop
MODERN := import sys; sys.exit(sys.version_info < (3, 11))

# Another interpreter: make PYTHON=/path/to/python3.12 …
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c '$(MODERN)' 2>/dev/null && { echo $$p; break; }; done)

.PHONY: help demo test test-fast test-cluster lint format docs clean

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | \
	while IFS='|' read -r target what; do printf '  make %-14s%s\n' "$$target" "$$what"; done

demo: $(INSTALLED)  ## train on the embedded example and write out/demo/report.html (2 minutes)
	$(BIN)/python -m jobs.demo

# Two processes: while one waits for Ray the other computes. tests/conftest.py says what stays together.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

test: $(INSTALLED_DEV)  ## the test suite, as CI runs it (40 minutes on 2 cores)
	$(PYTEST)

test-fast: $(INSTALLED_DEV)  ## the tests that need no Ray (13 minutes on 2 cores)
	$(PYTEST) -m 'not ray and not cluster and not heavy'

test-cluster: $(INSTALLED_DEV)  ## the tests that start several Ray nodes (about 25 minutes)
	$(BIN)/python -m pytest -m cluster

lint: $(INSTALLED_DEV)  ## style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED_DEV)  ## mend what ruff can mend: order of imports, layout
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(INSTALLED)  ## write what of docs/reference follows from the code
	$(BIN)/python -m docs.generate

clean:  ## remove .venv, caches and what the demo wrote
	rm -rf $(VENV) out build *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# The dependencies alone, at the versions of constraints.txt. torch comes first, so that a +cpu or
# +cuXXX build of the pinned version that is already there, or that pip's settings offer, is kept.
$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && "$(PYTHON)" -c '$(MODERN)' 2>/dev/null || { echo \
	"error: Python 3.11 or newer is needed; install it or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	@$(BIN)/python -c '$(PROJECT); print(*p["dependencies"], sep="\n")' > $(VENV)/requirements.txt
	@echo "Installing what is needed to run into $(VENV): some minutes, the first time only"
	@$(call install,torch)
	@$(call install,--requirement $(VENV)/requirements.txt)
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	@$(BIN)/python -c '$(PROJECT); print(*p["optional-dependencies"]["dev"], sep="\n")' > $(VENV)/requirements-dev.txt
	@echo "Installing what tests and checks need as well"
	@$(call install,--requirement $(VENV)/requirements-dev.txt)
	@touch $@

PROJECT := import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]
PIP := $(BIN)/python -m pip install --constraint constraints.txt

# On a terminal pip's own lines and bars. Elsewhere, as in CI, one line for each file that it takes.
define install
if [ -t 1 ]; then $(PIP) $(1); else \
	rm -f $(VENV)/.done; { $(PIP) $(1) 2>&1 && touch $(VENV)/.done; } | while read -r what file; do \
	name=$${file%% (from*}; name=$${name##*/}; version=$${name#*-}; \
	case "$$what $$file" in \
	*.metadata*) ;; \
	"Downloading "* | "Using cached "* | "Processing "*) echo "  $${name%%-*} $${version%%-*}$${name#*.whl}" ;; \
	"Installing collected packages:"*) \
		echo "  unpacking $$(($$(echo "$$file" | tr -cd , | wc -c) + 1)) packages" ;; \
	ERROR* | error*) echo "$$what $$file" >&2 ;; \
	esac; done; test -e $(VENV)/.done; fi
endef
