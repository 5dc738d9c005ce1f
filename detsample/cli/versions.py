"""The versions that a result was computed with. They are found without importing the packages."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib import metadata

import detsample

PACKAGES = ("numpy", "triton", "paddlepaddle-gpu", "paddlepaddle", "torch", "flashinfer-python", "vllm")


def versions() -> dict[str, str]:
    """Names and versions, in the order in which to show them; only what is installed."""
    found = {
        "detsample": f"{detsample.__version__}, contract {detsample.CONTRACT_VERSION}",
        "python": f"{platform.python_version()}, {platform.system()} {platform.machine()}",
    }
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found["GPU"] = "; ".join(gpus()) or "none"
    return found


def gpus() -> list[str]:
    """The NVIDIA GPUs of this machine, with the driver's version."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    return [line.strip().replace(", ", ", driver ", 1) for line in lines if line.strip()]
