# Every target sets up what it needs, on a fresh Debian or Ubuntu host, as root or with sudo.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
PYTHON := .venv/bin/python
STAMP := .venv/.provisioned
FUZZ_SECONDS ?= 300
KERNEL ?= 6.1
VM_TESTS ?= tests/bpf tests/net tests/vm tests/cli
SMOKE_TESTS := tests/bpf/test_selection.py::test_many_flows tests/net/netlink/test_kernel_xdp.py \
	$(addprefix tests/vm/test_,bond.py delay.py unknown_features.py unknown_seed.py virtio.py vlan.py vrf.py) \
	-k 'not (untagged or same or service or gone or modes or inactive or beside)'

# sudo clears the environment. No byte code: root would leave it in a user's tree.
TEST_ENV := PYTHONDONTWRITEBYTECODE=1 \
	$(if $(XDPECMP_FORCE_ROOT_TESTS),XDPECMP_FORCE_ROOT_TESTS=$(XDPECMP_FORCE_ROOT_TESTS))

.PHONY: help demo test test-vm smoke-vm fuzz mutate lint bench docs clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 10

demo: $(STAMP) ## five namespaces, weighted requests and a Packet Too Big
	$(SUDO) .venv/bin/xdpecmp demo

test: $(STAMP) ## all tests that take no VM
	$(SUDO) env $(TEST_ENV) $(PYTHON) -m pytest

test-vm: $(STAMP) ## the tests under a stock kernel in QEMU (KERNEL=6.1|…, TIMEOUT, VM_TESTS)
	@$(SUDO) env PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m vagrant.stock_kernel $(if $(TIMEOUT),--timeout $(TIMEOUT)) \
		--env XDPECMP_FORCE_ROOT_TESTS=1 --env PYTHONUNBUFFERED=1 $(KERNEL) -- \
		$(PYTHON) -m pytest --durations=10 $(VM_TESTS)

smoke-vm: ## a few of them under the oldest kernel, as CI does
	$(MAKE) test-vm KERNEL=6.1 TIMEOUT=900 VM_TESTS="$(SMOKE_TESTS)"

fuzz: $(STAMP) ## random routers and frames, without xdpecmp and with it (FUZZ_SECONDS, FUZZ_SEED)
	$(SUDO) env $(TEST_ENV) $(PYTHON) -m tests.differential --seconds $(FUZZ_SECONDS) \
		$(if $(FUZZ_SEED),--seed $(FUZZ_SEED))

mutate: $(STAMP) ## break the data path line by line; the tests have to see it
	$(SUDO) env $(TEST_ENV) $(PYTHON) -m tests.mutation

lint: $(STAMP) ## ruff, mypy and shellcheck
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy
	grep -rlE --exclude-dir=.git --exclude-dir=.venv --exclude-dir=build '^#!/bin/(bash|sh|busybox sh)' . | \
		xargs .venv/bin/shellcheck

bench: $(STAMP) ## measure speed and scale, beside Linux and bpf_fib_lookup() (BENCH_OPTIONS)
	$(SUDO) env PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m bench $(BENCH_OPTIONS)

docs: $(STAMP) ## make docs/reasons.md and the man page from the code
	$(PYTHON) -B -m docs.generate

clean: ## remove .venv and everything built
	$(SUDO) rm -rf .venv build dist *.egg-info bench/out .hypothesis .pytest_cache .mypy_cache .ruff_cache
	$(SUDO) find . -name __pycache__ -type d -prune -exec rm -rf {} +

# provision.sh writes the stamp itself.
$(STAMP): pyproject.toml vagrant/provision.sh
	vagrant/provision.sh
