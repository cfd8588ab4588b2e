# `make demo` and `make test` do everything on a fresh machine with Python 3.11 or newer.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-long test-cuda soak fuzz test-ray lint types lock audit lowest samples clean

setup: $(BIN)/stm

# uv shares its cache between checkouts: a second install takes seconds and next to no disk.
$(BIN)/stm: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("stm needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/uv || { $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet uv; }
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable . --group dev
	@touch $@

demo: setup
	$(BIN)/stm segment sample_videos/balloon.mp4 --mask sample_videos/balloon.png --output stm_out/balloon
	@echo
	@echo "Look at stm_out/balloon/overlay.mp4; the masks are in stm_out/balloon/masks."

test: setup lint types
	OMP_NUM_THREADS=1 $(BIN)/pytest --quiet -n logical --dist loadfile

test-long: setup
	$(BIN)/pytest --quiet -m long

# What needs a GPU, which is skipped elsewhere
test-cuda: setup
	STM_REQUIRE_CUDA=1 $(BIN)/pytest --quiet -m cuda

# Spoilt files, kills, a long clip, fuzzing where atheris is installed, 200 clips; STM_SOAK_MINUTES=5 for a part
soak: setup
	PYTHONPATH=tests $(BIN)/python -m soak

# Coverage-guided fuzzing; atheris has wheels for Linux alone, and nothing else needs it
fuzz: setup
	$(BIN)/uv pip install --quiet --python $(BIN)/python --group fuzz
	PYTHONPATH=tests $(BIN)/python -m soak fuzz

# Several machines of a Ray cluster on this one; Ray unpacks to 200 MB, so that only this installs it
test-ray: setup
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[ray]'
	$(BIN)/pytest --quiet -m long tests/test_cluster.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# The versions that this was developed with, for whoever needs the very same ones
lock: setup
	$(BIN)/uv pip compile --quiet --universal --upgrade --no-annotate --group dev --output-file requirements.lock pyproject.toml

# What is known to be unsafe in them
audit: setup
	$(BIN)/uvx pip-audit --requirement requirements.lock --no-deps --disable-pip --strict

# The oldest versions that pyproject.toml allows: what it states must be true
lowest: setup
	test -x .venv-lowest/bin/python || $(BIN)/uv venv --quiet --python $(BIN)/python .venv-lowest
	$(BIN)/uv pip install --quiet --python .venv-lowest/bin/python --upgrade --resolution lowest-direct --editable . --group test
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest --quiet

samples: setup
	$(BIN)/python sample_videos/render.py

clean:
	rm -rf .venv .venv-lowest stm_out runs .mypy_cache .ruff_cache .pytest_cache
