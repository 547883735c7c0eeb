# The two commands: `make demo` and `make test`. Everything they need is set up on the way; second runs start in seconds.
.DEFAULT_GOAL := help
SHELL := /bin/bash
GENRE := .venv/bin/genre
PY := .venv/bin/python
PYTHON := $(shell deploy/find-python)

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

# --- set-up -----------------------------------------------------------------------------------------------------------

setup: .venv/run.stamp .venv-triton/stamp ## Set up the run-time environment, Mosquitto and Triton

.venv/bin/python:
	@deploy/system-packages "$(PYTHON)"
	@echo "setup: virtual environment with $(PYTHON)"
	@"$(PYTHON)" -m venv .venv

.venv/run.stamp: requirements/run.txt requirements/build.txt pyproject.toml | .venv/bin/python
	@deploy/system-packages "$(PYTHON)"
	@echo "setup: run-time packages"
	@$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements/build.txt -r requirements/run.txt
	@$(PY) -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev.stamp: requirements/dev.txt .venv/run.stamp
	@deploy/system-packages "$(PYTHON)" ffmpeg faketime icecast2
	@echo "setup: packages for tests and training (TensorFlow is large)"
	@$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

# Triton's model processes need numpy < 2, hence an environment of their own. Without it the onnx backend serves.
.venv-triton/stamp: requirements/triton.txt requirements/triton-server.txt | .venv/bin/python
	@echo "setup: Triton inference server"
	@"$(PYTHON)" -m venv .venv-triton
	@.venv-triton/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/triton.txt
	@.venv-triton/bin/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes \
		-r requirements/triton-server.txt \
		|| echo "setup: this machine has no Triton wheel; the onnx backend is used instead"
	@touch $@

catalogue: .venv/run.stamp requirements/catalogue.txt ## Add what `genre classify --out` and Dask workers need
	@$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements/catalogue.txt

# --- the main job -----------------------------------------------------------------------------------------------------

MUSIC ?=
STREAM ?=
ARGS ?=

demo: setup ## Run everything: MUSIC=folder plays your files, STREAM=url a real stream
ifneq ($(STREAM),)
	@$(GENRE) up --stream "demo=$(STREAM)" $(ARGS)
else ifneq ($(MUSIC),)
	@$(GENRE) up --music "$(MUSIC)" $(ARGS)
else
	@$(GENRE) up --music demo $(ARGS)
endif

# --- quality ----------------------------------------------------------------------------------------------------------

test: .venv/dev.stamp .venv-triton/stamp lint ## Set up and run the tests
	@OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 \
		$(PY) -m pytest -q -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

# In namespaces of its own: whatever happens, its mounts, processes and networks are gone when it ends.
DEPLOY_PROGRAMS := debootstrap mmdebstrap qemu-system-x86_64 qemu-aarch64-static systemd-nspawn lintian nginx ip
test-deploy: .venv/dev.stamp .venv-triton/stamp .venv/bin/uv ## Boot real systems with the package (root; about 15 minutes)
	@for program in $(DEPLOY_PROGRAMS); do command -v $$program >/dev/null || { echo "test-deploy: needs $$program:" \
		"apt install debootstrap mmdebstrap qemu-system-x86 qemu-user-static systemd-container lintian nginx iproute2"; \
		exit 1; }; done
	@GENRE_TEST_DEPLOY=1 unshare --mount --pid --fork --mount-proc --kill-child \
		$(PY) -m pytest -v -s --timeout 900 tests/deploy $(ARGS)
	@PATH="$(CURDIR)/.venv/bin:$$PATH" $(PY) tools/locks.py check

# promtool and nginx alone are taken out of their packages, which themselves would start a server on this machine.
test-catalogue: .venv/dev.stamp ## Kill schedulers, workers and clients of `genre classify --out` (some minutes)
	@GENRE_TEST_CATALOGUE=1 OMP_NUM_THREADS=1 $(PY) -m pytest -q tests/classify $(ARGS)

HOME_ASSISTANT := 2025.4.4
test-web: .venv/dev.stamp .venv-triton/stamp ## Drive the web page in a real Chromium and run every documented command
	@deploy/system-packages "$(PYTHON)" chromium npm jq curl ffmpeg tmux mosquitto_sub=mosquitto-clients
	@mkdir -p build/web && cp tests/dashboard/web/package*.json build/web/ && npm ci --silent --prefix build/web
	@command -v promtool >/dev/null || [ -x build/web/promtool ] || { cd build/web && apt-get download -q prometheus && \
		dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x --strip-components=3 ./usr/bin/promtool; }
	@command -v nginx >/dev/null || [ -x build/web/nginx ] || { cd build/web && apt-get download -q nginx && \
		dpkg-deb --fsys-tarfile nginx_*.deb | tar -x --strip-components=3 ./usr/sbin/nginx; }
	@tests/dashboard/home_assistant/environment build/home-assistant $(HOME_ASSISTANT)
	@GENRE_WEB=1 PATH="$$PATH:$(CURDIR)/build/web" $(PY) -m pytest -q -s -rs tests/dashboard tests/docs $(ARGS)

fuzz: .venv/dev.stamp ## Fuzz the fetcher for half an hour: by mutation, then guided by coverage
	@$(PY) -m benchmarks.fetcher_fuzz $(ARGS)
	@$(PY) -m pip install -q --disable-pip-version-check 'atheris>=2.3' || echo "fuzz: atheris does not install here"
	@! $(PY) -c 'import atheris' 2>/dev/null || $(PY) -m benchmarks.fetcher_fuzz --coverage 200000

lint: .venv/dev.stamp ## Formatting, lint, types and which room may import which
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check -q .
	@$(PY) -m mypy
	@.venv/bin/lint-imports

bench: .venv/dev.stamp .venv-triton/stamp ## Measure cost and scale (docs/benchmarks.md); ARGS="pipeline --model vgg16" for one of them
	@OMP_NUM_THREADS=1 $(GENRE) bench $(or $(ARGS),all)

chaos: .venv/dev.stamp .venv-triton/stamp ## Break things on a seeded plan (1,000 faults, about 20 minutes); ARGS=--help
	@OMP_NUM_THREADS=1 $(PY) -m tests.chaos.run $(ARGS)

test-hosts: .venv/dev.stamp ## Several hosts in network namespaces: throughput, a host cut off, a rolling upgrade (root); ARGS=--help
	@OMP_NUM_THREADS=1 $(PY) -m tests.hosts.run $(ARGS)

fuzz-messages: .venv/dev.stamp ## 100,000 hostile messages at each service's topics; ARGS="--messages N"
	@OMP_NUM_THREADS=1 $(PY) -m tests.chaos.fuzz $(ARGS)

soak: .venv/dev.stamp ## 30 minutes of live streams: memory, descriptors and threads stay; ARGS="--minutes N"
	@OMP_NUM_THREADS=1 $(PY) -m tests.chaos.soak $(ARGS)

month: .venv/dev.stamp ## A month of real radio in 20 minutes: outages, clocks, reboots; ARGS="--days N --seed N"
	@OMP_NUM_THREADS=1 $(PY) -m tests.month.run $(ARGS)

contract: .venv/run.stamp ## Write docs/contract from services/contract/messages.py
	@$(PY) -m tools.contract_documents

configuration: .venv/run.stamp ## Write docs/configuration.md and its JSON Schema from services/settings/schema.py
	@$(PY) -m tools.configuration_documents

.venv/bin/uv: | .venv/run.stamp
	@echo "setup: uv, for the lock files"
	@$(PY) -m pip install -q --disable-pip-version-check 'uv>=0.8'

UV_COMPILE = .venv/bin/uv pip compile --universal --python-version 3.10 --generate-hashes -q --no-header
lock: .venv/bin/uv ## Renew every lock file
	$(UV_COMPILE) pyproject.toml --extra run -o requirements/run.txt
	$(UV_COMPILE) pyproject.toml --extra catalogue -c requirements/run.txt -o requirements/catalogue.txt
	$(UV_COMPILE) pyproject.toml --extra run --extra catalogue --extra training --extra test -c requirements/run.txt \
		-c requirements/constraints.txt -o requirements/dev.txt
	$(UV_COMPILE) requirements/triton.in -o requirements/triton.txt
	$(UV_COMPILE) --no-deps requirements/triton-server.in -o requirements/triton-server.txt
	$(UV_COMPILE) requirements/build.in -o requirements/build.txt

clean: ## Remove environments and caches
	@rm -rf .venv .venv-triton .mypy_cache .ruff_cache .pytest_cache

.PHONY: help setup bench catalogue demo test test-catalogue test-deploy test-web lint chaos fuzz fuzz-messages test-hosts soak month contract configuration lock clean
