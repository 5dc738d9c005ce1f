"""What the documents say: examples run and print what they are said to print, names and paths exist."""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import importlib.util
import inspect
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import bench_tables
import pytest
from paths import ROOT

import detsample
from detsample import cli

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)( gpu)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTED = re.compile(r"^ *print\(.*\)  # (.*)$", re.MULTILINE)
ROLLOUT = ("auditing", "kept_sets", "learning", "observation", "reader", "replaying", "writer")
DOCTESTED = (
    "detsample.sampler.sample", "detsample.sampler.plan", "detsample.sampler.status", "detsample.noise.streams",
    "detsample.inspect.margin", "detsample.inspect.explanation", "detsample.cli.tables",
    "detsample.golden.comparison", "detsample.golden.fingerprint",
    "detsample.golden.record", "detsample.golden.recording",
    *(f"detsample.rollout.{module}" for module in ROLLOUT),
)  # fmt: skip


class Program(NamedTuple):
    """The examples under one heading of a page."""

    name: str
    code: str
    gpu: bool


def programs() -> list[Program]:
    """One for each heading; blocks that import a framework, or need a GPU, stand alone."""
    found = []
    for page in PAGES:
        for section in re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            name = f"{page.name}: {section.splitlines()[0]}"
            blocks = [m for m in BLOCK.finditer(section) if m[1] == "python"]
            alone = [m for m in blocks if m[2] or needs(m[3])]
            shared = "".join(m[3] for m in blocks if m not in alone)
            found += [Program(f"{name}, {'gpu' if m[2] else needs(m[3])}", m[3], bool(m[2])) for m in alone]
            found += [Program(name, shared, False)] if shared else []
    return found


def needs(code: str) -> str:
    """The framework that an example imports."""
    match = re.search(r"^import (torch|paddle)$", code, re.MULTILINE)
    return match[1] if match else ""


def run(program: Program) -> str:
    """What a program prints; in a process of its own if it looks at what is imported."""
    if "sys.modules" in program.code:
        command = [sys.executable, "-c", program.code]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(program.code, program.name, "exec"), {"__name__": "__main__"})
    return printed.getvalue()


@pytest.mark.parametrize("program", [p for p in programs() if not p.gpu], ids=lambda p: p.name)
def test_examples_run_and_print_what_they_say(program: Program) -> None:
    """Defect caught: an example that fails, or an output that the code no longer has."""
    framework = needs(program.code)
    if framework and importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    assert run(program).splitlines() == PRINTED.findall(program.code)
    assert program.code.count("print(") == len(PRINTED.findall(program.code)), "each print needs its output"


@pytest.mark.gpu
@pytest.mark.parametrize("program", [p for p in programs() if p.gpu], ids=lambda p: p.name)
def test_examples_for_a_gpu_run(program: Program) -> None:
    """Defect caught: an example that fails on the machine it is for."""
    if importlib.util.find_spec(needs(program.code)) is None:
        pytest.skip(f"{needs(program.code)} is not installed")
    run(program)


@pytest.mark.parametrize("program", programs(), ids=lambda p: p.name)
def test_examples_call_what_exists(program: Program) -> None:
    """Defect caught: a name or an argument that is misspelt where no GPU is at hand to notice."""
    for node in ast.walk(ast.parse(program.code)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if isinstance(node.func.value, ast.Name) and node.func.value.id == "detsample":
            parameters = inspect.signature(getattr(detsample, node.func.attr)).parameters
            assert {keyword.arg for keyword in node.keywords if keyword.arg} <= set(parameters)


def test_there_are_examples() -> None:
    """Defect caught: a change of format, after which no example is found and all pass."""
    names = [p.name for p in programs()]
    assert {"README.md: Quick start", "README.md: Quick start, torch", "README.md: Quick start, paddle"} <= set(names)
    assert sum(p.gpu for p in programs()) >= 1
    assert len(names) >= 12


@pytest.mark.parametrize("module", DOCTESTED)
def test_examples_in_docstrings(module: str) -> None:
    """Defect caught: a docstring's example that fails, or prints something else."""
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0


def commands() -> list[list[str]]:
    text = "\n".join(m[3] for page in PAGES for m in BLOCK.finditer(page.read_text(encoding="utf-8")) if m[1] == "sh")
    return [shlex.split(line, comments=True)[1:] for line in text.splitlines() if line.startswith("detsample ")]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_parse(words: list[str]) -> None:
    """Defect caught: an option in the documents that the command does not have."""
    assert cli.parser().parse_args(words).command == words[0]


def test_parameters_in_the_readme_are_those_of_sample() -> None:
    """Defect caught: a parameter or a default that the table does not know, or knows otherwise."""
    rows = re.findall(r"^\| `(\w+)` \| .* \| (`[^|]*`)? ?\|$", PAGES[0].read_text(encoding="utf-8"), re.MULTILINE)
    parameters = inspect.signature(detsample.sample).parameters
    apart = ("return_", "check", "shared_noise")  # these say what comes back or what is allowed, not which token it is
    neutral = {name: p.default for name, p in parameters.items() if not name.startswith(apart)}
    stated = {name: ast.literal_eval(value.strip("`")) if value else inspect.Parameter.empty for name, value in rows}
    assert stated == neutral


def anchors(page: Path) -> set[str]:
    """The anchors that headings of a page get."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Defect caught: a link to a page, a file or a heading that is not there."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            linked = page.parent / path if path else page
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_paths_exist(page: Path) -> None:
    """Defect caught: a page that names a file or a folder that has moved."""
    for path in re.findall(r"`((?:detsample|tests|docs|reference)/[\w/.]*)`", page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), path


def test_the_map_of_the_kernels_names_them_all() -> None:
    """Defect caught: a file of kernels that has come or gone since the map was drawn, or a number that has changed."""
    folder = ROOT / "detsample" / "kernels"
    told = (folder / "__init__.py").read_text(encoding="utf-8").partition("\nThe arguments of kernels\n")[0]
    files = {file.stem for file in folder.rglob("*.py")} - {"__init__"}
    assert {name for name in re.findall(r"`(\w+)`", told) if "_noise" not in name and "fold" not in name} == files
    for name, number in re.findall(r"`(\w+)` +kernel (\d)", told):
        assert f"Kernel {number}," in (folder / "sampling" / f"{name}.py").read_text(encoding="utf-8"), name


def test_the_spec_has_philox_known_answers() -> None:
    """Defect caught: a wrong digit in the table that somebody who implements the contract tests against."""
    spec = (ROOT / "docs" / "contract" / "spec.md").read_text(encoding="utf-8")
    data = (ROOT / "tests" / "data" / "philox_kat.txt").read_text(encoding="utf-8")
    told = re.findall(r"^\| `([0-9a-f ]{35})` \| `([0-9a-f ]{17})` \| `([0-9a-f ]{35})` \|$", spec, re.MULTILINE)
    assert len(told) == 3
    for line in told:
        assert "philox4x32 10  " + "  ".join(line) in data


def test_every_named_defect_has_its_test_and_the_reverse() -> None:
    """Defect caught: a claim in the comparison that no test holds us to, or a test that nobody is told of."""
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")))
    defects = (ROOT / "tests" / "contract" / "test_field_defects.py").read_text(encoding="utf-8")
    assert named == set(re.findall(r"^def (test_\w+)", defects, re.MULTILINE))


@pytest.mark.parametrize("page", bench_tables.tables(), ids=lambda page: page.name)
def test_times_are_those_that_were_measured(page: Path) -> None:
    """Defect caught: a time that was copied wrongly, or left behind when the others were measured again."""
    text = page.read_text(encoding="utf-8")
    assert bench_tables.replaced(text, bench_tables.tables()[page]) == text, "run tests/support/bench_tables.py"


def test_make_targets_exist() -> None:
    """Defect caught: a command in the documents that make does not know."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"^make (\w+)", page.read_text(encoding="utf-8"), re.MULTILINE)) <= targets
