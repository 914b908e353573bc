# Everything a user types. Needs Python 3.11+, git and a C++ compiler; uv and the rest come with it.
#
#   make quickstart   pretrain, evaluate, detect: reports/quickstart/README.md
#   make test         all tests            make lint   what CI checks
#   make test-faults  two hours: tests of minutes, every kind of node killed under both engines
#   make test-slurm   the DAG through sbatch, on a Slurm started here (as root)
#   make bench        speed, side by side  make dvc    after a Snakemake run: hand it to DVC
#   make pull         results from the DVC remote, in a state that Snakemake takes for its own

SHELL := bash
PYTHON ?= python3
# Local by design: the system's Python stays as it is.
UV := .tools/uv/bin/uv
RUN := $(UV) run --frozen
SNAKEMAKE := $(RUN) snakemake
ARGS ?=
# MMCV's ops are the slow part of the first installation; pip builds them on all cores.
export MAX_JOBS ?= $(shell nproc 2>/dev/null || echo 2)
export UV_PYTHON ?= $(shell $(PYTHON) -c 'import sys; print(sys.executable)')

.PHONY: quickstart install test test-faults test-slurm lint format bench dvc pull

quickstart: install
	$(SNAKEMAKE) report $(ARGS)
	@echo "The table: reports/quickstart/README.md"

# A relocatable environment: a copy of this folder uses its own, and not the one it was copied from.
# Bytecode is compiled once: a step's process then starts in less than half the time, also where
# PYTHONDONTWRITEBYTECODE is set.
install: $(UV)
	@grep -qs "^relocatable = true" .venv/pyvenv.cfg || $(UV) venv --quiet --clear --relocatable
	@test .venv/.compiled -nt uv.lock || \
	    { $(UV) sync --frozen --compile-bytecode && touch .venv/.compiled; }

$(UV):
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found %d.%d (set PYTHON=…)" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .tools/uv
	.tools/uv/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.9,<1"

# A test is one process of one thread, as many side by side as there are cores.
test: install
	OMP_NUM_THREADS=1 $(RUN) pytest --numprocesses auto --dist worksteal $(ARGS)

# What make test leaves out: tests of minutes, full disks as root, then 200 kills. ARGS goes to the second.
test-faults: install
	OMP_NUM_THREADS=1 $(RUN) pytest -m long --numprocesses auto --dist worksteal
	OMP_NUM_THREADS=1 $(RUN) python -m tests.faults.kills --kills 200 $(ARGS)

# Twenty minutes. Slurm's packages are installed where they are missing.
test-slurm: install
	tests/slurm/install
	OMP_NUM_THREADS=1 $(RUN) --group cluster pytest tests/slurm $(ARGS)

lint: install
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) snakefmt --check workflow
	$(RUN) snakemake --lint
	$(RUN) python -m steps.report --check reports/*/

format: install
	$(RUN) ruff check --fix .
	$(RUN) ruff format .
	$(RUN) snakefmt workflow

bench: install
	$(RUN) python -m benchmarks.step
	$(RUN) python -m benchmarks.masking
	$(RUN) python -m benchmarks.multicrop
	$(RUN) python -m benchmarks.knn
	$(RUN) python -m benchmarks.probes
	$(RUN) python -m benchmarks.plan
	$(RUN) python -m benchmarks.data
	$(UV) run --frozen --with lightly==1.6.0 python -m benchmarks.lightly

dvc: install
	$(RUN) dvc commit --force

# Pulled files have the age of the download. Touching them in the order of the DAG makes it the age
# of the results again, so that Snakemake plans nothing.
pull: install
	$(RUN) dvc pull
	$(SNAKEMAKE) report --touch
