# Every target sets up what it needs, on a fresh Debian or Ubuntu host, as root or with sudo.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
PYTHON := .venv/bin/python
STAMP := .venv/.provisioned
FUZZ_SECONDS ?= 300

# sudo clears the environment. No byte code: root would leave it in a user's tree.
TEST_ENV := PYTHONDONTWRITEBYTECODE=1 \
	$(if $(XDPECMP_FORCE_ROOT_TESTS),XDPECMP_FORCE_ROOT_TESTS=$(XDPECMP_FORCE_ROOT_TESTS))

.PHONY: help demo test fuzz mutate lint bench clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 8

demo: $(STAMP) ## four namespaces, weighted requests and a Packet Too Big
	$(SUDO) .venv/bin/xdpecmp demo

test: $(STAMP) ## all tests
	$(SUDO) env $(TEST_ENV) $(PYTHON) -m pytest

fuzz: $(STAMP) ## random routers and frames, without xdpecmp and with it (FUZZ_SECONDS, FUZZ_SEED)
	$(SUDO) env $(TEST_ENV) $(PYTHON) -m tests.differential --seconds $(FUZZ_SECONDS) \
		$(if $(FUZZ_SEED),--seed $(FUZZ_SEED))

mutate: $(STAMP) ## break the data path line by line; the tests have to see it
	$(SUDO) env $(TEST_ENV) $(PYTHON) -m tests.mutation

lint: $(STAMP) ## ruff and mypy
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy --strict xdpecmp

bench: $(STAMP) ## measure the data path
	$(SUDO) $(PYTHON) -m bench

clean: ## remove .venv and everything built
	$(SUDO) rm -rf .venv build dist *.egg-info bench/out .hypothesis .pytest_cache .mypy_cache .ruff_cache
	$(SUDO) find . -name __pycache__ -type d -prune -exec rm -rf {} +

# provision.sh writes the stamp itself.
$(STAMP): pyproject.toml vagrant/provision.sh
	vagrant/provision.sh
