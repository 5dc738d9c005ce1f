"""Code run in a process of its own, with packages blocked from import, and three small kernels for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from paths import ROOT, SUPPORT

KERNELS = "from small_kernels import *\n"

BLOCK = """
import importlib.abc
import sys


class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Block())
"""


def run(tmp_path: Path, body: str, *, interpret: bool, block: tuple[str, ...] = ()) -> str:
    """Run code in a process of its own, with packages blocked from import, and return what it prints.

    Triton reads TRITON_INTERPRET once, where a kernel is defined, and wants a kernel to be in a file.
    """
    script = tmp_path / "script.py"
    script.write_text(BLOCK.format(blocked=block) + body)
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(SUPPORT), *filter(None, [env.get("PYTHONPATH")])])
    if interpret:
        env["TRITON_INTERPRET"] = "1"
    command = [sys.executable, str(script)]
    done = subprocess.run(
        command, env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
