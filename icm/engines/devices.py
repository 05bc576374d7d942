"""Which GPUs are here, asked so that nothing starts on them."""

import logging
import os
import shutil
import subprocess
from functools import cache

from icm.errors import PrerequisiteError

logger = logging.getLogger(__name__)
_REMEDY = "install a driver that is new enough (R580 for CUDA 13), or a torch built for the driver's CUDA"


def gpus() -> int:
    """CUDA GPUs that torch may use here.

    Counted by NVML: CUDA's own count starts the driver in this process, after which no fork of it can use a GPU.
    """
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


@cache
def listed_gpus() -> tuple[str, ...]:
    """GPUs that `nvidia-smi -L` lists, whatever torch sees."""
    if shutil.which("nvidia-smi") is None:
        return ()
    found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return tuple(line for line in found.stdout.splitlines() if line.startswith("GPU "))


def cuda_problem() -> str | None:
    """Why the GPUs that are here cannot be used, and what to do; None if they can, or if there are none.

    Starts CUDA in this process: for who is about to use it, and for `icm doctor`.
    """
    import torch

    if gpus():
        try:
            torch.cuda.init()
        except RuntimeError as error:  # a driver that is too old, a GPU that is out of order
            return f"{' '.join(str(error).split())[:200]}; {_REMEDY}"
        return None
    if not listed_gpus() or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return None
    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    listed = listed_gpus()[0].split(" (")[0]
    return f"nvidia-smi lists {listed}, but torch {torch.__version__}, built {build}, sees none; {_REMEDY}"


def check_cuda() -> None:
    """Raise PrerequisiteError if CUDA does not start here."""
    problem = cuda_problem()
    if problem is not None:
        raise PrerequisiteError(f"device cuda: {problem}; or use --device cpu")
