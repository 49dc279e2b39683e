# SPDX-License-Identifier: Apache-2.0
# Each target sets itself up in .venv, then runs. Nothing needs to be activated or installed before.

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# The environment is complete: ROS 2 from wheels. Hide a sourced ROS installation from it, and the guard and library path
# that these wheels set in the processes they start.
unexport AMENT_PREFIX_PATH LD_LIBRARY_PATH PYTHONHOME PYTHONPATH RMW_IMPLEMENTATION _ROS_WHEELS_BOOTSTRAP_COMPLETE

.PHONY: help demo demo-carla test lint docs train bench clean
# Two installations into one environment must not run at once.
.NOTPARALLEL:

help:
	@echo 'make demo         three vehicles perceive together over ROS 2: table, pictures and rosbag in demo/'
	@echo 'make demo-carla   the same in co-simulation with CARLA, with a stand-in for its server; results in demo-carla/'
	@echo 'make test         style, types and all tests'
	@echo 'make lint         style and types only'
	@echo 'make docs         documentation site with API reference, in site/'
	@echo 'make train        train the shipped model again (about an hour)'
	@echo 'make bench        time the parts'
	@echo 'make clean        remove everything that make created, .venv included'

demo: $(VENV)/demo-ready
	@$(BIN)/diffkd demo --out demo

demo-carla: $(VENV)/carla-ready
	@$(BIN)/diffkd demo-carla --out demo-carla

# A process each for at most four cores: more of them compete with the nodes that the tests start.
test: lint
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/test-ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(VENV)/docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

train: $(VENV)/test-ready
	@$(BIN)/diffkd train config/train/sim_edge.yaml --out runs/sim_edge

bench: $(VENV)/demo-ready
	@$(BIN)/diffkd bench

clean:
	rm -rf $(VENV) build demo demo-carla install log site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Set-up in steps; each is repeated only when a prerequisite is newer than its stamp. The package is installed editable,
# so changed code needs no step.

$(BIN)/python:
	@python=$$(build_tools/check_prerequisites.sh) && \
	echo "setting up $(VENV) with $$python (first time only, some minutes with the downloads)" && \
	"$$python" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# Without training and development tools (PyTorch is several hundred megabytes).
$(VENV)/demo-installed: pyproject.toml setup.py constraints.txt | $(BIN)/python
	@echo 'installing ROS 2 wheels and what the demo needs'
	@$(PIP_INSTALL) --editable '.[ros,data,report]'
	@touch $@

$(VENV)/test-installed: $(VENV)/demo-installed
	@echo 'installing what training and the tests need'
	@$(PIP_INSTALL) --editable '.[ros,data,report,train,sparse,signing,dev,carla,cluster]'
	@touch $@

$(VENV)/docs-installed: pyproject.toml setup.py constraints.txt | $(BIN)/python
	@echo 'installing the documentation tools'
	@$(PIP_INSTALL) --editable '.[docs]'
	@touch $@

# The messages are compiled against the installed NumPy and ROS, so again after each installation.
$(VENV)/demo-ready: $(wildcard msg/*.msg) $(wildcard build_tools/*.py) $(VENV)/demo-installed
	@echo 'compiling diffkd_ros.msg'
	@mkdir -p build
	@$(BIN)/python build_tools/build_messages.py >build/messages.log 2>&1 || { cat build/messages.log >&2; exit 1; }
	@$(BIN)/diffkd compile
	@touch $@

$(VENV)/carla-ready: $(VENV)/demo-ready
	@echo "installing CARLA's client"
	@$(PIP_INSTALL) --editable '.[ros,data,report,carla]'
	@touch $@

$(VENV)/test-ready: $(VENV)/demo-ready $(VENV)/test-installed
	@touch $@
