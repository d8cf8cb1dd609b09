# Two commands: `make demo` does the main job, `make test` proves it. Both make .venv when there is none.
PYTHON ?= python3
BIN := .venv/bin
# With planning before and scoring after it, under five minutes on two cores.
SECONDS ?= 140
OUT ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)

.PHONY: demo test lint types check clean

demo: .venv/ready
	$(BIN)/pargolf golf embedded --cap 1MB --seconds $(SECONDS) --out $(OUT)

test: .venv/ready .venv/extras lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy

# torch first and alone: with it in place, no later range can pull a CUDA build of several gigabytes.
.venv/ready: constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

# What only tests of optional formats need; without it those tests are skipped.
.venv/extras: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[parquet,exports,ray,frame]'
	touch $@

clean:
	rm -rf .venv build *.egg-info
