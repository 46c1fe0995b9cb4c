# Two commands for everyone: make demo, make test. Each sets up what it needs in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_OUT ?= out/demo
STAMP := $(VENV)/.installed

.PHONY: demo debian test lint bench p4 clean

demo: $(STAMP)
	$(BIN)/mfs demo --out $(DEMO_OUT)

test: $(STAMP) debian
	$(BIN)/python -m pytest

# What some tests run that pip does not install; without root, or where it cannot be had, they skip and say so.
DEBIAN := mininet tshark ethtool iputils-ping
debian:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  ! dpkg-query -W $(DEBIAN) >/dev/null 2>&1; then \
	  echo "installing $(DEBIAN)"; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(DEBIAN); } \
	    >/dev/null 2>&1 || echo "cannot install $(DEBIAN): what needs them is skipped"; \
	fi

lint: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m mfs_eval.bench.packets --out bench.json
	$(BIN)/python -m mfs_eval.bench.flows --out bench-flows.json

# Recompile the P4 program; needs p4c-bm2-ss on the PATH.
p4: $(STAMP)
	$(BIN)/python -m p4src.build

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

clean:
	rm -rf $(VENV) out bench.json bench-flows.json
