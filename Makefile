# `make help` lists everything. Needs Python 3.11 and nothing else; the first command sets everything up.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-cluster test test-unit test-cluster test-long test-long-cluster cluster-up cluster-down lint format lock bench bench-ingestion bench-netflix clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 19

setup: $(READY) ## install everything once (network: PyPI and Maven Central)

$(READY): requirements/dev.txt requirements/jars.sha256 requirements/jars-kafka.sha256 setup.cfg tools/setup.sh
	@PYTHON="$(PYTHON)" sh tools/setup.sh

demo: $(READY) ## the whole loop on real ratings, in a few minutes
	@$(BIN)/python demo/run.py

MLFLOW ?=
demo-cluster: $(READY) ## the same on HDFS and YARN: make demo-cluster MLFLOW=http://host:port; needs HADOOP_CONF_DIR
	@$(BIN)/python demo/cluster.py --tracking-uri "$(MLFLOW)"

HERE := tests --ignore=tests/cluster -n 2 --dist loadfile --no-loadscope-reorder
THERE := tests/cluster -n 2 --no-loadscope-reorder

# Half of what a JVM's start takes: the tests start a hundred of them.
.PHONY: classes
classes: $(READY)
	@$(BIN)/python -m tests.make_archive

test: classes ## the tests, two processes at a time (-n in the Makefile)
	@$(BIN)/python -m pytest $(HERE) -m "not long"

test-long: classes ## those that take minutes each and that .ci/run has not always time for
	@$(BIN)/python -m pytest $(HERE) -m long

test-unit: $(READY) ## the tests that need no JVM
	@$(BIN)/python -m pytest -q -n 2 tests/unit tests/architecture

test-cluster: classes ## the tests on a real HDFS, YARN and Kafka of this machine; needs Java 17 and Maven
	@$(BIN)/python -m pytest $(THERE) -m "not long"

test-long-cluster: classes ## the long ones there: drivers and executors killed, four executors; half an hour
	@$(BIN)/python -m pytest $(THERE) -m long

cluster-up: $(READY) ## start that HDFS and YARN, and leave it running
	@$(BIN)/python -m tests.cluster.hadoop up

cluster-down: $(READY) ## stop it
	@$(BIN)/python -m tests.cluster.hadoop down

lint: $(READY) ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY) ## let ruff format and mend what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: $(READY) ## resolve requirements/*.txt afresh from setup.cfg
	@$(BIN)/pip install -q uv
	@for extra in runtime serving dev bench; do \
	  $(BIN)/uv pip compile -q setup.cfg --extra $$extra --generate-hashes --python-version 3.11 \
	    --no-header --no-annotate --upgrade -o requirements/$$extra.txt; done
	@$(BIN)/uv pip compile -q requirements/airflow.in --generate-hashes --python-version 3.11 \
	  --no-header --no-annotate --upgrade -o requirements/airflow.txt

# The rivals have an environment of their own: what they need must not decide what the jobs run with.
BENCH := build/bench-venv

$(BENCH)/.ready: $(READY) requirements/bench.txt
	@"$(PYTHON)" -m venv $(BENCH)
	@$(BENCH)/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/bench.txt
	@touch $@

ENGINE := $(foreach target,1 2 3 4 5 6 7 8 9 10 11,--target $(target))

bench: $(BENCH)/.ready ## the engine's targets against its rivals at 10 M ratings, in about 20 minutes
	@$(BENCH)/bin/python -m benchmarks.run $(ENGINE) --size 10M --repeat 1 --iterations 1

bench-ingestion: $(BENCH)/.ready ## ingestion against a plain append, in about 20 minutes
	@$(BENCH)/bin/python -m benchmarks.run --target 12

bench-netflix: $(BENCH)/.ready ## every target at its own size, three runs each; hours
	@$(BENCH)/bin/python -m benchmarks.run --repeat 3

clean: ## remove the environment, the jars and the demo's warehouse
	rm -rf $(VENV) .jars demo-warehouse
