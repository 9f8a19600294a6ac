# The same commands here and in CI. `make setup` skips what is done.

.PHONY: setup serve

VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml setup.py deployments/setup.sh
	@sh deployments/setup.sh
	@touch $@

serve: setup
	@exec $(PYTHON) -m deployments.serve
