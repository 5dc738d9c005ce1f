"""What the compiler makes of the kernels: each compiled once, kept in build/compiled, and read by every test that asks.

    python tests/support/compiling.py FOLDER < requests.json

compiles in a process of its own, because kernels that are defined under TRITON_INTERPRET cannot be compiled. A file is
written whole and then renamed, so that processes may ask for the same at the same time.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import compiled
import compiled_speculative
from paths import ROOT, SUPPORT

MACHINE_CODE = 90
"""The architecture of which machine code is looked at as well."""


class Request(NamedTuple):
    """One kernel, as it is to be compiled."""

    kernel: str
    """A key of `compiled.KERNELS` or `compiled_speculative.KERNELS`."""
    capability: int
    dtype: str = "fp32"
    fusion: bool = False
    aligned: bool = True

    @property
    def file(self) -> Path:
        """Where the result is kept."""
        words = (self.kernel.replace("/", "_"), f"sm{self.capability}", self.dtype)
        return folder() / f"{'-'.join(words)}{'-fused' * self.fusion}{'-unaligned' * (not self.aligned)}.json.gz"


@functools.cache
def folder() -> Path:
    """The folder for these sources, this Triton and this Python: nothing else changes what is compiled."""
    import triton

    digest = hashlib.sha256(repr((triton.__version__, sys.version)).encode())
    settings = {k: v for k, v in os.environ.items() if k.startswith("TRITON_")}
    for irrelevant in ("TRITON_INTERPRET", "TRITON_CACHE_DIR"):
        settings.pop(irrelevant, None)
    digest.update(repr(sorted(settings.items())).encode())
    files = [Path(__file__), *SUPPORT.glob("compiled*.py"), *(ROOT / "detsample" / "kernels").rglob("*.py")]
    for file in sorted(files):
        digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return ROOT / "build" / "compiled" / digest.hexdigest()[:16]


def results(requests: Sequence[Request]) -> dict[str, dict[str, Any]]:
    """By kernel its "ttgir", "ptx", opcodes and, for one architecture and where the tool is there, machine code."""
    missing = [request for request in requests if not request.file.exists()]
    if missing:
        folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as cache:  # Triton's own would bring in what was compiled at another time
            environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": cache}
            environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
            done = subprocess.run(
                [sys.executable, __file__, str(folder())], input=json.dumps(missing), env=environment,
                capture_output=True, text=True, timeout=600,
            )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return {request.kernel: read(request.file) for request in requests}


@functools.cache
def read(file: Path) -> dict[str, Any]:
    """A result that is kept."""
    return dict(json.loads(gzip.decompress(file.read_bytes())))


def main() -> None:
    """Compile what is asked for."""
    for request in (Request(*words) for words in json.load(sys.stdin)):
        source = compiled if request.kernel in compiled.KERNELS else compiled_speculative
        kernel = source.compiled(*request)
        ptx = kernel.asm["ptx"]
        code = compiled.machine_code(kernel.asm["cubin"]) if request.capability == MACHINE_CODE else None
        result = {"ttgir": kernel.asm["ttgir"], "ptx": ptx, "opcodes": sorted(compiled.instructions(ptx)), "sass": code}
        file = Path(sys.argv[1]) / request.file.name
        unfinished = file.with_name(f"{file.name}.{os.getpid()}")
        unfinished.write_bytes(gzip.compress(json.dumps(result).encode(), 1))
        unfinished.replace(file)


if __name__ == "__main__":
    main()
