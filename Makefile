# Pantry. `make` lists the targets. Variables, with their defaults:
PYTHON ?= python3
VENV ?= .venv
IMAGE ?= pantry:dev
# Of the image: empty is the Dockerfile's own base; STACK is theano or modern; docker, podman or buildah builds it.
BASE_IMAGE ?=
STACK ?= theano
BUILDER ?= $(firstword $(foreach tool,docker podman buildah,$(if $(shell $(tool) info >/dev/null 2>&1 && echo yes),$(tool))))
HELM ?= helm

bin := $(VENV)/bin
pip := $(bin)/python -m pip --disable-pip-version-check

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

.PHONY: venv
venv: $(VENV)/.stamp ## .venv from the locks: with Theano on Python 3.11 and 3.12, the modern stack on later ones

$(VENV)/.stamp: pyproject.toml $(wildcard locks/*.txt) image/build/install
	$(PYTHON) -m venv $(VENV)
	$(pip) install --quiet --require-hashes --only-binary :all: --requirement locks/dev.txt
	set -e; stack=$$($(bin)/python -c 'import sys; print("theano" if sys.version_info < (3, 13) else "modern")'); \
	    image/build/install $$stack $(bin)/python; \
	    if [ $$stack = theano ]; then \
	        $(pip) install --quiet --require-hashes --only-binary :all: --requirement locks/corpus.txt; fi
	$(pip) install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.PHONY: demo
demo: venv ## publish, sync, serve and swap a model on this machine; ONCE=1 ends by itself
	$(bin)/python examples/digits/demo.py $(if $(ONCE),--once)

.PHONY: test
test: venv ## every test that needs no cluster, no image and no gigabytes, on up to 8 cores
	$(bin)/pytest --numprocesses auto --maxprocesses 8 --dist loadfile

.PHONY: test-cluster
test-cluster: venv ## the tests on the cluster that KUBECONFIG names
	PANTRY_IMAGE=$(IMAGE) $(bin)/pytest -m cluster --capture=no --verbose --durations=20

.PHONY: test-image
test-image: venv ## the tests inside IMAGE, which `make image` built
	PANTRY_IMAGE=$(IMAGE) $(bin)/pytest -m image

.PHONY: bench
bench: venv ## the benchmarks, peers beside us; benchmarks/peers installs those
	for name in download small_files resync loading sharing first_answer swaps serving; do $(bin)/python -m benchmarks.$$name || exit; done

.PHONY: lint
lint: venv ## style, format and types
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy

.PHONY: format
format: venv ## rewrite what a tool can put right
	$(bin)/ruff check --fix
	$(bin)/ruff format

.PHONY: image
image: ## build the serving image: IMAGE, BASE_IMAGE, STACK
	$(if $(BUILDER),,$(error needs docker with its daemon, podman or buildah))
	$(BUILDER) build $(if $(filter buildah,$(BUILDER)),--isolation chroot --layers) --tag $(IMAGE) \
	    $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) --build-arg STACK=$(STACK) \
	    --build-arg REVISION=$$(git rev-parse --verify --quiet HEAD || echo unknown) .

.PHONY: chart
chart: ## check the chart, and package it into dist/
	$(HELM) lint chart --strict --values chart/ci/default-values.yaml
	$(HELM) package chart --destination dist

.PHONY: chart-readme
chart-readme: venv ## write the table of values in chart/README.md from values.yaml and its schema
	$(bin)/python -m tests.chart_table

# A package that two locks name has one version in both. Pins stay while they fit; delete a lock to renew its pins.
compile := $(bin)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-header --no-annotate
.PHONY: lock
lock: venv ## compile locks/ from pyproject.toml
	$(pip) install --quiet uv
	$(compile) pyproject.toml --extra load --group dev --output-file locks/dev.txt
	$(compile) --group pyproject.toml:build --constraint locks/dev.txt --output-file locks/build.txt
	for stack in theano modern; do \
	    $(compile) pyproject.toml --constraint locks/dev.txt --extra load --extra serve --extra $$stack \
	        --output-file locks/$$stack.txt || exit; \
	done
	$(compile) --group pyproject.toml:corpus --constraint locks/dev.txt --constraint locks/theano.txt \
	    --output-file locks/corpus.txt

.PHONY: clean
clean: ## remove what make made, except images
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
