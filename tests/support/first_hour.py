"""What a new user does in the first hour, in a fresh environment of one Python: every command must do what it says.

    python tests/support/first_hour.py python3.13 FOLDER

Makes an environment in FOLDER, installs a copy of this checkout into it, and prints a line for each step; the first
that goes wrong ends it. It needs a package registry, but no GPU.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

GOLDEN_OF_OTHERS = """
import pytest
@pytest.mark.golden_test("case.yml")
def test_theirs(golden):
    assert golden["input"] + 1 == golden.out["output"]
"""
OWN_GOLDEN = """
import numpy as np
def test_ours(golden_tokens):
    golden_tokens.check(np.eye(3, 9, dtype=np.float32), np.arange(3))
"""
CPU_ONLY = """
import sys, numpy as np, detsample
out = detsample.sample(np.zeros((1000, 50), np.float32), detsample.fold_in(7, np.arange(1000)))
assert len(set(out.token_ids.tolist())) == 50
assert {out: 1}[out] == 1 and out == out
assert detsample.rollout.draw and detsample.golden.record and detsample.speculative.verify
assert "triton" not in sys.modules and "torch" not in sys.modules
x = np.zeros((9, 50), np.float32)
for wrong in (lambda: detsample.sample(x, 7), lambda: detsample.sample(x[0], 7, top_p=95)):
    try:
        wrong()
    except ValueError as error:
        print(error)
    else:
        raise AssertionError("a sure mistake is silent")
"""


class FirstHour:
    """The steps, each a method that raises if it goes wrong."""

    def __init__(self, python: str, folder: Path) -> None:
        self.folder, self.checkout = folder, folder / "checkout"
        ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")
        shutil.copytree(ROOT, self.checkout, ignore=ignored)
        self.run([python, "-m", "venv", str(folder / "env")])
        self.python = str(folder / "env" / "bin" / "python")

    def run(self, command: Sequence[str], cwd: Path | None = None, status: int = 0, **streams: object) -> str:
        """Run a command; its output, if it ended as it should."""
        ours = ("PYTHON", "TRITON", "PYTEST")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        done = subprocess.run(
            command, cwd=cwd or self.folder, env=clean, text=True, check=False,
            **({"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | streams),
        )  # fmt: skip
        if done.returncode != status:
            raise AssertionError(f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr or ''}")
        return done.stdout or done.stderr or ""

    def pip(self, *words: str) -> None:
        self.run([self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words])

    def resolves(self, *wanted: str) -> None:
        """Whether these can be installed together, without installing them."""
        local = f" @ file://{self.checkout}"
        requirements = "\n".join(word + local if word.startswith("detsample") else word for word in wanted)
        (self.folder / "wanted.in").write_text(requirements)
        uv = [self.python, "-m", "uv", "pip", "compile", "--quiet", "--python", self.python, "wanted.in"]
        self.run(uv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def steps(self) -> Iterator[str]:
        """Do all; a line for each step done."""
        self.pip(str(self.checkout))
        names = self.run([self.python, "-m", "pip", "list", "--format=freeze"]).split()
        assert not any(name.startswith(("triton", "torch", "paddle")) for name in names), names
        site = Path(self.run([self.python, "-c", "import numpy; print(numpy.__path__[0])"]).strip()).parent
        size = sum(f.stat().st_size for f in site.rglob("*") if f.is_file() and f.relative_to(site).parts[0] != "pip")
        yield f"pip install . brings NumPy alone: {size / 1e6:.0f} MB"
        for folder in (self.checkout, self.folder):
            for command in (["-c", CPU_ONLY], ["-m", "detsample", "--version"], ["-m", "detsample.cli", "--version"]):
                self.run([self.python, *command], cwd=folder)
            self.run([self.python, "-c", "import detsample.reference, detsample.kernels"], cwd=folder)
        yield "the package imports in the checkout and elsewhere, and sure mistakes are told"
        for name in ("detsample", "detsample.sampler.sample"):
            took = [self.run([self.python, "-X", "importtime", "-c", f"import {name}"]) for _ in range(5)]
            yield f"import {name}: {min(int(re.findall(r'[|] +([0-9]+) [|]', text)[-1]) for text in took) / 1e3:.0f} ms"
        command = [self.python, "-m", "detsample"]
        self.run([*command, "demo"])
        self.run([*command, "selftest"])
        yield "detsample demo, detsample selftest without Triton"
        with open("/dev/full", "w") as full:
            told = self.run([*command, "demo"], status=2, stdout=full, stderr=subprocess.PIPE)
        assert told == "detsample demo: error: standard output: No space left on device\n", told
        yield "a full disk is one line"
        yield from self.plugins()
        yield from self.resolutions()

    def plugins(self) -> Iterator[str]:
        """The fixture beside those of others who call theirs `golden`."""
        self.pip("pytest", "pytest-golden")
        tests = self.folder / "tests"
        tests.mkdir()
        (tests / "case.yml").write_text("input: 1\noutput: 2\n")
        (tests / "test_theirs.py").write_text(GOLDEN_OF_OTHERS)
        (tests / "test_ours.py").write_text(OWN_GOLDEN)
        self.run([self.python, "-m", "pytest", "--golden-update", "test_ours.py"], cwd=tests)
        self.run([self.python, "-m", "pytest"], cwd=tests)
        self.run([self.python, "-m", "pytest", "--version"], cwd=self.checkout)
        yield "golden_tokens beside pytest-golden's golden"

    def resolutions(self) -> Iterator[str]:
        """What can be installed together, as uv finds it."""
        self.pip("uv")
        self.run([self.python, "-m", "uv", "lock", "--quiet"], cwd=self.checkout)
        yield "uv lock"
        version = tuple(map(int, self.run([self.python, "-c", "import sys; print(*sys.version_info[:2])"]).split()))
        together = [("detsample[torch]", "torch==2.14.1"), ("detsample[paddle]",), ("detsample[gpu,rollout,plot]",)]
        together += [("detsample[torch]", "torch==2.8.0")]
        if version >= (3, 11):
            together += [("detsample[torch]", "vllm==0.33.0"), ("detsample[torch]", "sglang==0.5.23")]
        for wanted in together:
            self.resolves(*wanted)
            yield " beside ".join(wanted)


def main(python: str, folder: str) -> None:
    """Print what was done."""
    for line in FirstHour(python, Path(folder).resolve()).steps():
        print(line, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
