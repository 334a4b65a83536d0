# One command for everything. `make` alone explains each target. Needs: python3 (3.11 or newer, with venv), git, make.
# Everything is installed into .venv from the lock files, with hashes; a stamp inside .venv tells whether it is stale.

PYTHON ?= python3
JOBS ?= auto
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
SEMGREP := .venv-semgrep
CHART := .venv-chart
TOOLS := .tools
HELM_VERSION := v3.16.4
KUBE_SCORE_VERSION := v1.20.0
# What `helm lint` and NOTES take for the cluster's version; a helm built by `go install` says 1.20 otherwise.
HELM_LDFLAGS := $(foreach part,Major=1 Minor=31,-X helm.sh/helm/v3/pkg/chartutil.k8sVersion$(part) -X helm.sh/helm/v3/pkg/lint/rules.k8sVersion$(part))
IMAGE ?= localhost/authsvc:dev
BASE ?=
INSTALL := -m pip --disable-pip-version-check --quiet install --no-deps
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
	--no-annotate --no-header --no-emit-index-url --no-emit-find-links
PYTEST := $(PY) -m pytest -n $(JOBS)
CORE_TESTS := $(wildcard tests/core tests/vectors)
ALONE := tests/alone
CHECKS := ruff types layers buf generated security standards yaml

.DEFAULT_GOAL := help
.PHONY: help run test test-core test-rest test-alone coverage check campaign bench bench-suite bench-smoke format protos docs \
	descriptors lock install clean image chart-tools $(CHECKS)

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.demo ## install what the service needs, start it on loopback, walk through it; it goes on running
	@# Where Python may not keep what it compiled, two thirds of a start would be compiling.
	@$(PY) -m compileall -q authsvc
	@$(PY) -m authsvc.cli.first_run

test: test-core test-rest test-alone ## run every test, a real Envoy included, with small counts; core must be covered to the last branch

coverage: test-core ## run the tests of the core alone, and fail unless they take every branch of it

check: $(CHECKS) ## every check that is not a test: format, lint, types, layers, protos, generated code, security, standards, YAML
	@echo "all checks passed"

campaign: $(VENV)/.dev ## run every test with the full counts: hours, not minutes
	AUTHSVC_CAMPAIGN=1 $(PYTEST) --timeout 7200 tests --ignore=$(ALONE)
	AUTHSVC_CAMPAIGN=1 $(PY) -m pytest --timeout 7200 $(ALONE)

bench: $(VENV)/.demo ## measure the service that `make run` started: calls/s and p50/p99
	$(BIN)/authsvc bench

bench-suite: $(VENV)/.dev ## measure beside a peer, on a quiet machine: writes docs/performance.md and its picture (15 minutes)
	$(PY) -m tests.bench.suite --write
	$(PY) -m tests.bench.cost_model --write
	$(PY) -m tests.bench.counters --write
	$(PY) -m tests.bench.smoke --store

bench-smoke: $(VENV)/.dev ## fail where a hot call fell by a third beside a bare gRPC server (a minute or two)
	$(PY) -m tests.bench.smoke

format: $(VENV)/.dev ## bring Python and protos into their one form
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format --quiet .
	$(BIN)/buf format -w

protos: $(VENV)/.dev ## write authsvc/v1 from protos/
	$(PY) scripts/generate_protos.py

docs: $(VENV)/.dev ## write docs/reference from the code, and into docs/standards.md which test proves which line
	$(PY) scripts/generate_reference.py
	$(PY) scripts/check_standards.py --write

descriptors: $(VENV)/.dev ## write authsvc/api/envoy.binpb from Envoy's own descriptors (in a throw-away environment)
	$(PY) scripts/build_envoy_descriptors.py

lock: | $(PY) ## resolve dependencies anew and write requirements/*.lock
	@$(PY) $(INSTALL) 'uv==$(UV_VERSION)'
	$(COMPILE) pyproject.toml requirements/build.in --extra server --extra dev -o requirements/dev.lock
	$(COMPILE) pyproject.toml requirements/build.in --extra server -c requirements/dev.lock -o requirements/server.lock
	$(COMPILE) pyproject.toml requirements/build.in --extra server --extra demo -c requirements/dev.lock -o requirements/demo.lock
	$(COMPILE) pyproject.toml --extra server --extra pyvoy -c requirements/dev.lock -o requirements/image.lock
	$(COMPILE) requirements/image-build.in -o requirements/image-build.lock
	$(COMPILE) requirements/semgrep.in -o requirements/semgrep.lock
	$(COMPILE) requirements/chart.in -o requirements/chart.lock

image: ## build the image with buildah, as root: IMAGE=name, BASE=image (BASE=debian where no registry can be reached)
	scripts/build_image.sh $(IMAGE) $(BASE)

chart-tools: $(CHART)/.installed $(TOOLS)/helm $(TOOLS)/kube-score ## install what the tests of the chart need (Go, two minutes)

install: $(VENV)/.dev ## install everything that tests and checks need, and nothing more

clean: ## remove what tools made, the environments included
	rm -rf $(VENV) $(SEMGREP) $(CHART) $(TOOLS) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- parts of `test` ---

test-core: $(VENV)/.dev
	$(PYTEST) $(CORE_TESTS) --cov=authsvc/core --cov-branch --cov-report=term-missing:skip-covered

test-rest: $(VENV)/.dev
	$(PYTEST) tests $(addprefix --ignore=,$(CORE_TESTS) $(ALONE))

# These measure: nothing may run beside them.
test-alone: $(VENV)/.dev
	$(PY) -m pytest $(ALONE)

# --- parts of `check` ---

ruff: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .

types: $(VENV)/.dev
	$(BIN)/mypy
	$(BIN)/mypy clients/python/authsvc_client

layers: $(VENV)/.dev
	$(BIN)/lint-imports

buf: $(VENV)/.dev
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	@if [ -f protos/released.binpb ]; then echo "buf breaking --against protos/released.binpb"; \
		$(BIN)/buf breaking --against protos/released.binpb; \
	else echo "buf breaking: nothing is released yet, so there is nothing to compare with"; fi

generated: $(VENV)/.dev
	$(PY) scripts/generate_protos.py --check

# Bandit's low findings are ruff's rules S, where each exception stands with its reason.
security: $(VENV)/.dev $(SEMGREP)/.installed
	$(BIN)/bandit --quiet --severity-level medium --recursive --configfile pyproject.toml authsvc clients/python/authsvc_client
	$(SEMGREP)/bin/semgrep scan --quiet --error --metrics=off --disable-version-check --config .semgrep \
		authsvc clients scripts tests

standards: $(VENV)/.dev
	$(PY) scripts/check_standards.py

yaml: $(VENV)/.dev
	$(BIN)/yamllint --strict .

# --- environments ---

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "authsvc needs Python 3.11 or newer: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "this Python lacks venv (Debian: python3-venv)"; exit 1; }

$(VENV)/.demo: requirements/demo.lock pyproject.toml | $(PY)
	@echo "installing the service and the Envoy of its walk-through into $(VENV)"
	@$(PY) $(INSTALL) --require-hashes -r requirements/demo.lock
	@$(PY) $(INSTALL) --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.lock clients/python/pyproject.toml $(VENV)/.demo | $(PY)
	@echo "installing what tests and checks need into $(VENV)"
	@$(PY) $(INSTALL) --require-hashes -r requirements/dev.lock
	@$(PY) $(INSTALL) --no-build-isolation --editable clients/python
	@touch $@

# Semgrep pins versions that disagree with ours, so it lives apart.
$(SEMGREP)/.installed: requirements/semgrep.lock
	@echo "installing semgrep into $(SEMGREP)"
	@$(PYTHON) -m venv $(SEMGREP)
	@$(SEMGREP)/bin/python $(INSTALL) --require-hashes -r requirements/semgrep.lock
	@touch $@

# Checkov pins versions that disagree with ours.
$(CHART)/.installed: requirements/chart.lock
	@echo "installing checkov and kubernetes-validate into $(CHART)"
	@$(PYTHON) -m venv $(CHART)
	@$(CHART)/bin/python $(INSTALL) --require-hashes -r requirements/chart.lock
	@touch $@

$(TOOLS)/helm:
	@echo "building helm $(HELM_VERSION) into $(TOOLS)"
	@GOBIN=$(CURDIR)/$(TOOLS) go install -ldflags '$(HELM_LDFLAGS)' helm.sh/helm/v3/cmd/helm@$(HELM_VERSION)

$(TOOLS)/kube-score:
	@echo "building kube-score $(KUBE_SCORE_VERSION) into $(TOOLS)"
	@GOBIN=$(CURDIR)/$(TOOLS) go install github.com/zegl/kube-score/cmd/kube-score@$(KUBE_SCORE_VERSION)
