# The same commands here and in CI. `make setup` skips what is done.
# ARGS goes to the program behind a target: make bench ARGS="--quick", make test ARGS="-k ledger".

.PHONY: setup serve demo test check bench bench-quality bench-routing bench-routing-simulation bench-kernels bench-agents bench-speed calibrate train

VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
CODE := raysparsex deployments agents training examples benchmarks tests

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml setup.py deployments/setup.sh
	@sh deployments/setup.sh
	@touch $@

serve: setup
	@exec $(PYTHON) -m deployments.serve $(ARGS)

demo: setup
	@exec $(PYTHON) -m examples.demo $(ARGS)

# First what runs in a process of its own, two at a time; then the servers, one after the other.
# 5: no test of this half is wanted.
test: setup
	$(PYTHON) -m pytest tests --ignore=tests/integration --numprocesses=2 --dist=loadfile $(ARGS) || [ $$? -eq 5 ]
	$(PYTHON) -m pytest tests/integration $(ARGS) || [ $$? -eq 5 ]

check: setup
	$(PYTHON) -m ruff check $(CODE)
	$(PYTHON) -m ruff format --check $(CODE)
	$(PYTHON) -m mypy
	$(PYTHON) -m pyright
	$(PYTHON) -m deployments.validate
	$(PYTHON) -m pytest -q tests/architecture

bench: setup
	$(PYTHON) -m benchmarks.ttft $(ARGS)

bench-quality: setup
	@exec $(PYTHON) -m benchmarks.quality $(ARGS)

bench-routing: setup
	@exec $(PYTHON) -m benchmarks.routing $(ARGS)

bench-routing-simulation: setup
	@exec $(PYTHON) -m benchmarks.routing_simulation $(ARGS)

bench-kernels: setup
	@exec $(PYTHON) -m benchmarks.kernels $(ARGS)

bench-agents: setup
	@exec $(PYTHON) -m benchmarks.agents $(ARGS)

bench-speed: setup
	@exec $(PYTHON) -m benchmarks.speed $(ARGS)

calibrate: setup
	@exec $(PYTHON) -m raysparsex.cli calibrate $(ARGS)

train: setup
	$(PYTHON) -m training.train $(ARGS)
