# Each target makes what it needs on first use: a virtual environment in .venv, with cmappd in it.
#
#   make demo            the programs at work, in half a minute
#   make test            the tests, as an ordinary user or as root
#   make test-cluster    the tests that need root
#   make check           format, lint and types
#   make bench           the measurements
#
# PYTHON=/path/to/python chooses the interpreter, ARGS='-k wire' goes on to pytest, bench or demo.

VENV = .venv
INSTALL = --editable '.[test]'
PYTHONS = $(or $(PYTHON),python3 python3.13 python3.12 python3.11)
SUITABLE = import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
CODE = cmappd tests demo $(wildcard bench)

RUN = $(VENV)/bin/python
READY = $(VENV)/.ready

.PHONY: help demo test test-cluster check bench clean

help:
	@sed -n 's/^#   make/make/p' Makefile

demo: $(READY)
	@$(RUN) demo/demo.py $(ARGS)

test: $(READY)
	$(RUN) -m pytest -m 'not root' $(ARGS)

test-cluster: $(READY)
	@[ "$$(id -u)" = 0 ] || { echo 'make test-cluster: these tests need root' >&2; exit 1; }
	$(RUN) -m pytest -m root $(ARGS)

check: $(READY)
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy --strict $(CODE)

# In an environment of its own: an editable install costs each program memory and time, and the
# peers are of use to nobody else.
bench:
	@$(MAKE) --no-print-directory VENV=.venv-bench INSTALL="'.[bench]'" .venv-bench/.ready
	.venv-bench/bin/python -m bench $(ARGS)

clean:
	rm -rf .venv .venv-* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@for python in $(PYTHONS); do \
	    if "$$python" -c '$(SUITABLE)' 2>/dev/null; then \
	        echo "$$python -m venv $(VENV)"; \
	        exec "$$python" -m venv $(VENV); \
	    fi; \
	done; \
	echo 'cannot find Python 3.11 or newer with its venv module (tried: $(PYTHONS)).' >&2; \
	echo 'Install it (Debian: python3 and python3-venv), or name it: make PYTHON=/path/to/python' >&2; \
	exit 1
	$(RUN) -m pip install --quiet --disable-pip-version-check $(INSTALL)
	@touch $@
