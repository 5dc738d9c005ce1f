"""What a new user does in the first hour, in a fresh environment of one Python: every command must do what it says.

    python tests/support/first_hour.py python3.13 FOLDER

Makes an environment in FOLDER, installs a copy of this checkout into it, and prints a line for each step; the first
that goes wrong ends it. It needs a package registry, but no GPU. The last step installs torch, for transformers: the
oldest that is supported with the oldest Python, the newest with others; gigabytes, where the registry's builds are for
GPUs.
"""

from __future__ import annotations

import json
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
GOLDIE_OF_OTHERS = """
def test_theirs(golden):
    golden.test("text")
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
assert detsample.sample(x[0], 7).token_ids == detsample.sample(x[0].tolist(), 7).token_ids
for wrong in (lambda: detsample.sample(x, 7), lambda: detsample.sample(x[0], 7, top_p=95)):
    try:
        wrong()
    except ValueError as error:
        print(error)
    else:
        raise AssertionError("a sure mistake is silent")
"""
WRITE_LOGITS = """
import numpy as np
np.save("flat.npy", np.zeros((4, 50), np.float32))
np.save("nan.npy", np.float32([[1, 2], [1, np.nan]]))
"""
OTHER_SYSTEMS = """
import os, numpy as np, detsample
for name in ("sched_getaffinity", "O_DIRECTORY", "O_NONBLOCK"):
    vars(os).pop(name)
opened = os.open
def windows(path, *how):
    if os.path.isdir(path):
        raise PermissionError(path)
    return opened(path, *how)
os.open = windows
record = detsample.golden.record(np.eye(3, 9, dtype=np.float32), np.arange(3))
detsample.golden.save(record, "system.json")
assert detsample.golden.load("system.json") == record
"""
TRANSFORMERS = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from detsample.integrations.transformers import custom_generate, sampling
sizes = dict(vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(**sizes, pad_token_id=0, eos_token_id=None)).eval()  # no row ends early
ids, mask = torch.tensor([[0, 0, 5, 6], [1, 2, 3, 4]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
how = dict(do_sample=True, temperature=0.9, top_p=0.9, top_k=0, max_new_tokens=5)
told = dict(return_dict_in_generate=True, output_scores=True)
out = model.generate(ids, attention_mask=mask, custom_generate=custom_generate([1, 2]), **how, **told)
scores = model.compute_transition_scores(out.sequences, out.scores)
assert (scores < 0).any() and torch.isfinite(scores).all(), scores
alone = model.generate(ids[:1, 2:], attention_mask=mask[:1, 2:], custom_generate=custom_generate([1]), **how)
assert alone[0].tolist() == out.sequences[0, 2:].tolist()
try:
    sampling([1, 2], temperature=0.9)
except (TypeError, ValueError) as error:
    print(error)
else:
    raise AssertionError("padding that nobody knows is taken for none")
print(torch.__version__)
"""


class FirstHour:
    """The steps, each a method that raises if it goes wrong."""

    def __init__(self, python: str, folder: Path) -> None:
        self.folder, self.checkout = folder, folder / "checkout"
        ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")
        shutil.copytree(ROOT, self.checkout, ignore=ignored)
        self.run([python, "-m", "venv", str(folder / "env")])
        self.python = str(folder / "env" / "bin" / "python")
        self.version = tuple(map(int, self.run([python, "-c", "import sys; print(*sys.version_info[:2])"]).split()))

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
        options = ["--quiet", "--disable-pip-version-check", "--no-compile"]  # most of torch nobody imports
        self.run([self.python, "-m", "pip", "install", *options, *words])

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
        yield from self.mistakes(command)
        yield from self.plugins()
        yield from self.picture(command)
        yield from self.resolutions()
        yield from self.transformers()

    def mistakes(self, command: list[str]) -> Iterator[str]:
        """What the command says where something is wrong; a seed of its own for each row of a file."""
        self.run([self.python, "-c", WRITE_LOGITS])
        drawn = json.loads(self.run([*command, "sample", "flat.npy", "--json"]))["results"]
        assert len({row["seed"] for row in drawn}) == len(drawn) > 1
        for words, expected in (
            (["sample", "flat.npy", "--top-p", "95"], "top_p must be"),
            (["explain", "nan.npy", "--row", "1"], "nan.npy, row 1: "),
        ):
            told = self.run([*command, *words], status=2)
            assert (expected in told, told.count("\n")) == (True, 1), told
        for words in (["demo"], ["sample", "flat.npy", "--json"]):
            with open("/dev/full", "w") as full:
                told = self.run([*command, *words], status=2, stdout=full, stderr=subprocess.PIPE)
            assert told == f"detsample {words[0]}: error: standard output: No space left on device\n", told
        self.run([self.python, "-c", OTHER_SYSTEMS])
        yield "mistakes and a full disk are one line; a system without affinities, whose folders cannot be opened"

    def picture(self, command: list[str]) -> Iterator[str]:
        """The picture of a flat row."""
        self.pip(f"{self.checkout}[plot]")
        self.run([*command, "explain", "flat.npy", "--top-k", "11", "--min-p", "0.9", "--png", "flat.png"])
        assert (self.folder / "flat.png").read_bytes().startswith(b"\x89PNG")
        yield "detsample explain --png"

    def transformers(self) -> Iterator[str]:
        """`generate` with true scores, and the same tokens alone and in a padded batch."""
        self.pip(f"{self.checkout}[transformers]", *(["torch==2.8.0"] if self.version == (3, 10) else []))
        yield "transformers, torch " + self.run([self.python, "-c", TRANSFORMERS]).split()[-1]

    def plugins(self) -> Iterator[str]:
        """The fixture beside those of others who call theirs `golden`; of these one at a time, as they allow."""
        self.pip("pytest", "pytest-golden", "pytest-goldie")
        tests = self.folder / "tests"
        tests.mkdir()
        (tests / "case.yml").write_text("input: 1\noutput: 2\n")
        (tests / "test_theirs.py").write_text(GOLDEN_OF_OTHERS)
        (tests / "test_goldie.py").write_text(GOLDIE_OF_OTHERS)
        (tests / "test_ours.py").write_text(OWN_GOLDEN)
        pytest = [self.python, "-m", "pytest"]
        golden = [*pytest, "-p", "no:goldie", "test_theirs.py"]
        goldie = [*pytest, "-p", "no:pytest-golden", "test_goldie.py"]
        self.run([*pytest, "--golden-update", "test_ours.py"], cwd=tests)
        self.run([*goldie, "--update_goldens"], cwd=tests)
        for own in (golden, goldie):
            assert "2 passed" in self.run([*own, "test_ours.py"], cwd=tests)
        self.run([self.python, "-m", "pytest", "--version"], cwd=self.checkout)
        yield "golden_tokens beside the golden of pytest-golden and of pytest-goldie"

    def resolutions(self) -> Iterator[str]:
        """What can be installed together, as uv finds it."""
        self.pip("uv")
        self.run([self.python, "-m", "uv", "lock", "--quiet"], cwd=self.checkout)
        yield "uv lock"
        together = [("detsample[torch]", "torch==2.14.1"), ("detsample[paddle]",), ("detsample[gpu,rollout,plot]",)]
        together += [("detsample[torch]", "torch==2.8.0")]
        if self.version >= (3, 11):
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
