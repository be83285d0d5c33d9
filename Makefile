.DEFAULT_GOAL := help
.PHONY: help run unit test wheel-test versions soak systemd-test format clean

help:  ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

run: .venv/run.stamp  ## serve keystores/ at https://localhost:9443
	.venv/bin/jwks-server serve --keystores keystores

unit: .venv/dev.stamp  ## the unit tests alone, in seconds
	.venv/bin/pytest tests/unit

test: .venv/dev.stamp  ## lint, types, import contracts, all tests, and how much of the code they run
	scripts/check

wheel-test: .venv/dev.stamp  ## build the wheel, and try what it installs where no source lies beside it
	scripts/wheel-test

versions: .venv/dev.stamp  ## the quick tests on each Python from 3.11 to 3.14 that this machine has
	scripts/versions

soak: .venv/dev.stamp  ## 100,000 random changes while everything is read: what was missed, what was torn, how late
	PYTHONPATH=tests .venv/bin/python -m support.churn $(SOAK)

systemd-test:  ## as root: install under a booted systemd of its own, and try the service
	scripts/systemd-test

format: .venv/dev.stamp  ## format the code and mend what lint can mend
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

clean:  ## remove everything that make made
	rm -rf .venv .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/%.stamp: pyproject.toml constraints.txt scripts/venv
	scripts/venv $*
