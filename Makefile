# Each target makes what it needs on first use: a virtual environment in .venv, with cmappd in it.
#
#   make demo            the programs at work, in half a minute
#   make test            the tests, as an ordinary user or as root
#   make test-cluster    the tests that need root, and again those with the rules of Serviceguard; it
#                        fails where one of them cannot run
#   make chaos           the chaos test for longer: SEED= repeats one, MINUTES= says how long
#   make check           format, lint and types
#   make bench           the measurements
#   make bench-cluster   the times of recovery in a real cluster, and by the rules of Serviceguard; needs root
#   make install         into prefix=/usr/local, below DESTDIR if that is set
#   make uninstall       the reverse; configuration, logs and certificates stay
#
# PYTHON=/path/to/python chooses the interpreter, ARGS='-k wire' goes on to pytest, bench or demo.
# The tests run in three processes a processor, because they mostly wait; ARGS='-n 0' runs them in one.

VENV = .venv
INSTALL = --editable '.[test]'
PYTHONS = $(or $(PYTHON),python3 python3.13 python3.12 python3.11)
SUITABLE = import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
CODE = cmappd tests demo bench

RUN = $(VENV)/bin/python
READY = $(VENV)/.ready
PYTEST = $(RUN) -m pytest -n $$((3 * $$(nproc)))

prefix = /usr/local
bindir = $(prefix)/bin
libdir = $(prefix)/lib
datadir = $(prefix)/share
docdir = $(datadir)/doc/cmappd
mandir = $(datadir)/man
completionsdir = $(datadir)/bash-completion/completions
unitdir = $(libdir)/systemd/system
ocfdir = /usr/lib/ocf/resource.d
serviceguarddir = $(datadir)/cmappd/serviceguard
PACKAGES = $(libdir)/cmappd

# The programs, and the module of each.
cmappserver = server.main
cmappmgr = client.manager
cmappctl = client.control
PROGRAMS = cmappserver cmappmgr cmappctl

.PHONY: help demo test test-cluster chaos check bench bench-cluster install install-files uninstall clean

help:
	@sed -n 's/^#   make/make/p' Makefile

demo: $(READY)
	@$(RUN) demo/demo.py $(ARGS)

test: $(READY)
	$(PYTEST) --dist worksteal -m 'not root' $(ARGS)

test-cluster: $(READY)
	@[ "$$(id -u)" = 0 ] || { echo 'make test-cluster: these tests need root' >&2; exit 1; }
	CMAPPD_TEST_MUST_RUN=1 $(PYTEST) --dist loadfile -m 'root or serviceguard' $(ARGS)

chaos: $(READY)
	@$(RUN) -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES))

check: $(READY)
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy $(CODE)

# In an environment of its own: an editable install costs each program memory and time, and the
# peers are of use to nobody else.
bench:
	@$(MAKE) --no-print-directory VENV=.venv-bench INSTALL="'.[bench]'" .venv-bench/.ready
	.venv-bench/bin/python -m bench $(ARGS)

# No virtual environment, so that a package can be made below DESTDIR: cmappd and what it needs are in
# a folder of its own, and the programs run the interpreter apart from all else that is installed for
# it (-I). The interpreter is that of .venv-install, by its own path; so that is made anew each time.
install:
	@rm -rf .venv-install
	@$(MAKE) --no-print-directory VENV=.venv-install INSTALL=setuptools .venv-install/.ready
	@$(MAKE) --no-print-directory VENV=.venv-install install-files

install-files: INTERPRETER = $(shell $(RUN) -c 'import sys; print(sys._base_executable)')
install-files:
	rm -rf '$(DESTDIR)$(PACKAGES).new' build
	umask 022; $(RUN) -m pip install --quiet --disable-pip-version-check --no-compile \
	    --target '$(DESTDIR)$(PACKAGES).new' .
	rm -rf '$(DESTDIR)$(PACKAGES).new/bin' build
	umask 022; $(RUN) -m compileall -q -s '$(DESTDIR)$(PACKAGES).new' -p '$(PACKAGES)' \
	    '$(DESTDIR)$(PACKAGES).new'
	# All at once: a program that begins meanwhile finds the old ones, or the new ones.
	rm -rf '$(DESTDIR)$(PACKAGES).old'
	[ ! -e '$(DESTDIR)$(PACKAGES)' ] || mv '$(DESTDIR)$(PACKAGES)' '$(DESTDIR)$(PACKAGES).old'
	mv '$(DESTDIR)$(PACKAGES).new' '$(DESTDIR)$(PACKAGES)'
	rm -rf '$(DESTDIR)$(PACKAGES).old'
	install -d '$(DESTDIR)$(bindir)'
	$(foreach program,$(PROGRAMS),$(call install_program,$(program)))
	install -d '$(DESTDIR)$(mandir)/man5' '$(DESTDIR)$(mandir)/man8'
	install -m 644 man/*.5 '$(DESTDIR)$(mandir)/man5'
	install -m 644 man/*.8 '$(DESTDIR)$(mandir)/man8'
	install -d '$(DESTDIR)$(unitdir)' '$(DESTDIR)$(completionsdir)'
	install -d '$(DESTDIR)$(docdir)/docs' '$(DESTDIR)$(docdir)/examples'
	for unit in cluster/systemd/*.in; do \
	    to='$(DESTDIR)$(unitdir)'/$$(basename "$$unit" .in); \
	    sed 's|@bindir@|$(bindir)|' "$$unit" >"$$to" && chmod 644 "$$to" || exit 1; \
	done
	install -d '$(DESTDIR)$(ocfdir)/cmappd'
	# Whole at once, too: a shell that runs it reads on in the file that it has.
	sed 's|/usr/local/bin|$(bindir)|' cluster/pacemaker/app >'$(DESTDIR)$(ocfdir)/cmappd/.app'
	chmod 755 '$(DESTDIR)$(ocfdir)/cmappd/.app'
	mv '$(DESTDIR)$(ocfdir)/cmappd/.app' '$(DESTDIR)$(ocfdir)/cmappd/app'
	install -d '$(DESTDIR)$(serviceguarddir)/examples'
	$(call install_rewritten,cluster/serviceguard/*.*,$(serviceguarddir))
	$(call install_rewritten,cluster/serviceguard/examples/*,$(serviceguarddir)/examples)
	chmod 755 '$(DESTDIR)$(serviceguarddir)/cmappd.sh'
	install -m 644 completions/* '$(DESTDIR)$(completionsdir)'
	install -m 644 CHANGELOG.md LICENSE '$(DESTDIR)$(docdir)'
	$(call install_rewritten,README.md,$(docdir))
	$(call install_rewritten,docs/*.md,$(docdir)/docs)
	cp -R examples/. '$(DESTDIR)$(docdir)/examples'
	chmod -R u=rwX,go=rX '$(DESTDIR)$(docdir)'

# Files, and their folder: with the paths of what is installed.
define install_rewritten
for file in $(1); do \
    to='$(DESTDIR)$(2)'/$$(basename "$$file"); \
    sed 's|/usr/local/bin|$(bindir)|g; s|/usr/local/share|$(datadir)|g' "$$file" >"$$to" && \
    chmod 644 "$$to" || exit 1; \
done
endef

# -I keeps the environment, the working directory and the user's own packages out.
define install_program
printf '%s\n' '#!$(INTERPRETER) -I' 'import sys' 'sys.path.insert(0, "$(PACKAGES)")' \
    'from cmappd.$($(1)) import main' 'main()' >'$(DESTDIR)$(bindir)/$(1)'
chmod 755 '$(DESTDIR)$(bindir)/$(1)'

endef

uninstall:
	rm -rf '$(DESTDIR)$(PACKAGES)' '$(DESTDIR)$(docdir)' '$(DESTDIR)$(serviceguarddir)'
	rm -f $(foreach program,$(PROGRAMS),'$(DESTDIR)$(bindir)/$(program)')
	rm -f $(foreach page,$(notdir $(wildcard man/*)), \
	    '$(DESTDIR)$(mandir)/man$(subst .,,$(suffix $(page)))/$(page)')
	rm -f $(foreach unit,$(notdir $(basename $(wildcard cluster/systemd/*.in))), \
	    '$(DESTDIR)$(unitdir)/$(unit)')
	rm -f '$(DESTDIR)$(ocfdir)/cmappd/app'
	rm -f $(foreach name,$(notdir $(wildcard completions/*)),'$(DESTDIR)$(completionsdir)/$(name)')
	# Folders in which others may have put something stay.
	rmdir '$(DESTDIR)$(ocfdir)/cmappd' '$(DESTDIR)$(datadir)/cmappd' 2>/dev/null || :

bench-cluster: $(READY)
	@$(RUN) -m tests.cluster $(ARGS)

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
