#!/usr/bin/env bash
# Linters, types and tests in the environment of scripts/setup.sh. Arguments go to pytest: scripts/test.sh -k models
# Two processes share the test files, each with one thread: most tests use one core. Plain `pytest` is one process.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh test
export PATH=$PWD/.venv/bin:$PATH HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1

run() { printf '\n$ %s\n' "$*"; "$@"; }
run ruff check .
run ruff format --check .
run mypy icm train eval
run pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"
