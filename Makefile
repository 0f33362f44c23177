# The commands of the project. `make help` lists them.

PYTHON ?= python3
RUN := .venv-run
DEV := .venv
TRITON := .venv-triton
KSERVE := .venv-kserve
MLSERVER := .venv-mlserver
TRITONSERVER := .venv-tritonserver
FEAST := .venv-feast
SHAP := .venv-shap
PROTOBUF7 := .venv-protobuf7
GENERATED := infermesh/protocol
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header $(UPGRADE)
EXTRAS := gateway compare transformer predictor s3 gcs import explainer cli parquet report envoy
PINS := --constraint requirements/dev.txt
PIP := -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help run demo test verify check format proto samples docs lock conformance e2e-compose bench clean

help: ## list the commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 14

run: $(RUN)/ready ## the whole mesh with an embedded store and the sample models, until Ctrl-C
	@$(RUN)/bin/infermesh up

demo: $(RUN)/ready ## the same, with the tour alone: ends with status 0, or a reason
	@$(RUN)/bin/infermesh demo

test: $(DEV)/ready $(TRITON)/ready $(SHAP)/ready ## all tests, in under ten minutes on two cores
	$(DEV)/bin/python -m pytest --numprocesses 3 --dist loadfile

verify: $(DEV)/ready $(TRITON)/ready $(SHAP)/ready $(PROTOBUF7)/ready $(KSERVE)/ready $(MLSERVER)/ready $(TRITONSERVER)/ready $(FEAST)/ready ## what takes longer: soak with faults, a fresh clone, environments of their own
	$(DEV)/bin/python -m pytest --long

check: $(DEV)/ready ## format, lint, types, import rules, generated code current
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/ruff check .
	$(DEV)/bin/mypy
	$(DEV)/bin/lint-imports
	@fresh=$$(mktemp -d) && mkdir -p $$fresh/$(GENERATED) && $(call generate,$$fresh) && \
	for file in $$fresh/$(GENERATED)/*; do \
	  diff -q $$file $(GENERATED)/$$(basename $$file) || { echo "generated code is not current: run make proto"; exit 1; }; \
	done; rm -rf $$fresh

format: $(DEV)/ready ## format, and mend what the linter can mend
	$(DEV)/bin/ruff format .
	$(DEV)/bin/ruff check --fix .

proto: $(DEV)/ready ## make infermesh/protocol from protos/
	$(call generate,.)

samples: $(DEV)/ready ## make the sample models, features and golden values anew
	$(DEV)/bin/python -m samples.make

docs: $(DEV)/ready ## make the pages that are generated from the code
	$(DEV)/bin/infermesh config docs > docs/configuration.md
	$(DEV)/bin/python -m deploy.configmaps

lock: ## pin the requirements of every image and environment, from pyproject.toml (needs uv; UPGRADE=--upgrade for newer ones)
	$(LOCK) pyproject.toml $(foreach extra,$(EXTRAS),--extra $(extra)) --group dev --output-file requirements/dev.txt
	$(LOCK) pyproject.toml --extra gateway --extra compare --extra transformer --extra predictor --extra explainer --extra cli --extra report --extra envoy --group build \
	  $(PINS) --output-file requirements/run.txt
	for extras in transformer explainer gateway,compare predictor,s3,gcs; do \
	  service=$${extras%%,*}; named="--extra $$(echo $$extras | sed 's/,/ --extra /g')"; \
	  $(LOCK) pyproject.toml $$named $(PINS) --output-file requirements/$$service.txt || exit; \
	  $(LOCK) pyproject.toml $$named --extra envoy $(PINS) --output-file requirements/$$service-envoy.txt || exit; \
	done
	$(LOCK) pyproject.toml --extra gpu --extra s3 --extra gcs --output-file requirements/predictor-gpu.txt
	for group in tritonclient protobuf7 kserve mlserver tritonserver feast shap; do \
	  $(LOCK) --group $$group --output-file requirements/$$group.txt || exit; \
	done

conformance: $(DEV)/ready ## the conformance cases against TARGET=host:port [HOP=predictor|transformer|gateway|explainer] [KEY=...]
	$(DEV)/bin/python -m pytest tests/conformance --target $(TARGET) --hop $(or $(HOP),predictor) $(if $(KEY),--key $(KEY))

e2e-compose: $(DEV)/ready ## build the images, bring docker-compose up, and drive the mesh through its public port
	$(DEV)/bin/python -m pytest tests/e2e/test_compose.py

bench: $(DEV)/ready $(KSERVE)/ready $(MLSERVER)/ready $(TRITONSERVER)/ready $(FEAST)/ready $(SHAP)/ready ## what a call costs, beside its peers; benchmarks/README.md
	$(DEV)/bin/python -m benchmarks.predictor_peers
	$(DEV)/bin/python -m benchmarks.engines_in_flight
	$(DEV)/bin/python -m benchmarks.chain_cost
	$(DEV)/bin/python -m benchmarks.copies
	$(DEV)/bin/python -m benchmarks.gateway_cost --mirror 10 --compare
	$(DEV)/bin/python -m benchmarks.mirror_hung
	$(DEV)/bin/python -m benchmarks.redis_lookup
	$(DEV)/bin/python -m benchmarks.transformer_cost
	$(DEV)/bin/python -m benchmarks.feast_lookup
	$(DEV)/bin/python -m benchmarks.explainer_cost
	$(DEV)/bin/python -m benchmarks.tree_shap

clean: ## remove the environments and what tools left
	rm -rf .venv .venv-* .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- environments: each is made once, and anew when its requirements change -------------------------------------------

$(RUN)/ready: requirements/run.txt pyproject.toml
	@$(call environment,$(RUN),requirements/run.txt)
	@$(call project,$(RUN))
	@touch $@

$(DEV)/ready: requirements/dev.txt pyproject.toml
	@$(call environment,$(DEV),requirements/dev.txt)
	@$(call project,$(DEV))
	@touch $@

$(TRITON)/ready: requirements/tritonclient.txt
	@$(call environment,$(TRITON),requirements/tritonclient.txt)
	@touch $@

$(KSERVE)/ready: requirements/kserve.txt
	@$(call environment,$(KSERVE),requirements/kserve.txt)
	@touch $@

$(MLSERVER)/ready: requirements/mlserver.txt
	@$(call environment,$(MLSERVER),requirements/mlserver.txt)
	@touch $@

$(TRITONSERVER)/ready: requirements/tritonserver.txt
	@$(call environment,$(TRITONSERVER),requirements/tritonserver.txt)
	@touch $@

$(FEAST)/ready: requirements/feast.txt
	@$(call environment,$(FEAST),requirements/feast.txt)
	@touch $@

$(SHAP)/ready: requirements/shap.txt
	@$(call environment,$(SHAP),requirements/shap.txt)
	@touch $@

$(PROTOBUF7)/ready: requirements/protobuf7.txt
	@$(call environment,$(PROTOBUF7),requirements/protobuf7.txt)
	@touch $@

define environment
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, $(PYTHON) is {sys.version.split()[0]}; try make PYTHON=python3.11")' && \
	echo "setting up $(1) (once)" && $(PYTHON) -m venv --clear $(1) && $(1)/bin/python $(PIP) --require-hashes -r $(2)
endef

define project
	$(1)/bin/python $(PIP) --no-deps --no-build-isolation --editable .
endef

define generate
	$(DEV)/bin/python -m grpc_tools.protoc -I $(GENERATED)=protos --python_out=$(1) --pyi_out=$(1) --grpc_python_out=$(1) $(patsubst protos/%,$(GENERATED)/%,$(wildcard protos/*.proto))
endef
