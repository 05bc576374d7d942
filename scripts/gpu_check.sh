#!/usr/bin/env bash
# What to run once on a machine with a GPU: does everything start there, give the numbers that a CPU gives, continue after
# a kill and leave nothing behind? Offline, with the embedded model; under ten minutes on one card. Arguments go to
# scripts/gpu_check.py (--help). PYTHON=/path/to/python takes another than .venv's. Prints PASS, FAIL or SKIPPED with a figure a line, and writes them to gpu_check.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 TOKENIZERS_PARALLELISM=false PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
exec "$python" scripts/gpu_check.py "$@"
