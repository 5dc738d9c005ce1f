"""The plugin for pytest as its neighbours see it: its names, what it costs, which files are nobody's."""

from __future__ import annotations

import subprocess
import sys

import pytest
from paths import ROOT
from plugin import LOADED, PLUGIN

pytest_plugins = ["pytester"]

HEAD = "import numpy as np\nimport pytest\nX = np.zeros((2, 9), np.float32)\n"


def test_loading_it_imports_nothing_that_costs() -> None:
    """Defect caught: every project in an environment with detsample waits for NumPy before its first test."""
    code = f"import pytest, sys; before = set(sys.modules); import {PLUGIN}; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {"detsample", "detsample.lazy", "detsample.integrations", PLUGIN}
    assert {name for name in eval(done.stdout) if name.partition(".")[0] in ("numpy", "detsample", "torch")} <= loaded


def test_another_fixture_golden_is_left_alone(pytester: pytest.Pytester) -> None:
    """Defect caught: the name `golden`, which other plugins have as well, is taken wherever detsample is installed."""
    pytester.makeconftest("import pytest\n@pytest.fixture\ndef other(golden): return golden\n")
    pytester.makepyfile("def test_it(other): pass")
    run = pytester.runpytest(*LOADED)
    run.assert_outcomes(errors=1)
    run.stdout.fnmatch_lines(["*fixture 'golden' not found*"])


def test_the_old_name_is_an_option(pytester: pytest.Pytester) -> None:
    """Defect caught: a suite that has used `golden` cannot keep it."""
    pytester.makeini("[pytest]\ngolden_tokens_fixture = golden\n")
    pytester.makepyfile(HEAD + "def test_it(golden, golden_tokens): golden.check(X, 7, shared_noise=True)")
    pytester.runpytest(*LOADED, "--golden-update").assert_outcomes(passed=1)
    pytester.runpytest(*LOADED).assert_outcomes(passed=1)


ORPHANS = """
def test_a(golden_tokens):
    golden_tokens.check(X, 7, shared_noise=True)
    golden_tokens.check(X, 7, shared_noise=True, name="more")
def test_b(golden_tokens):
    golden_tokens.check(X, 7, shared_noise=True)
"""


def test_files_of_no_test_are_told(pytester: pytest.Pytester) -> None:
    """Defect caught: the golden file of a test that is gone stays for good, and nobody knows it."""
    pytester.makepyfile(test_it=HEAD + ORPHANS)
    pytester.runpytest(*LOADED, "--golden-update").assert_outcomes(passed=2)
    (pytester.path / "golden" / "test_it.test_theirs.json").write_text("[1]")
    assert "golden files of no test" not in pytester.runpytest(*LOADED).stdout.str()

    more = '    golden_tokens.check(X, 7, shared_noise=True, name="more")\n'
    changed = ORPHANS.replace(more, "").replace("test_b", "test_c")
    pytester.makepyfile(test_it=HEAD + changed, test_other=HEAD + "def test_a(golden_tokens): pass")
    run = pytester.runpytest(*LOADED)
    run.assert_outcomes(passed=2, failed=1)
    told = run.stdout.str().partition("golden files of no test")[2].partition("short test summary")[0]
    names = sorted(line.rpartition("/")[2] for line in told.splitlines() if line.endswith(".json"))
    assert names == ["test_it.test_a-more.json", "test_it.test_b.json"]


@pytest.mark.parametrize("words", [["test_it.py::test_a"], ["-k", "test_a"], ["test_other.py"]])
def test_files_of_tests_that_did_not_run_are_not(words: list[str], pytester: pytest.Pytester) -> None:
    """Defect caught: who runs some of the tests is told that the files of the others are nobody's."""
    pytester.makepyfile(test_it=HEAD + ORPHANS, test_other=HEAD + ORPHANS.replace("test_a", "test_z"))
    pytester.runpytest(*LOADED, "--golden-update").assert_outcomes(passed=4)
    assert "golden files of no test" not in pytester.runpytest(*LOADED, *words).stdout.str()


@pytest.mark.full("several processes of pytest")
def test_workers_tell_what_they_know(pytester: pytest.Pytester) -> None:
    """Defect caught: with pytest-xdist neither the files written nor those of no test are told."""
    pytest.importorskip("xdist")
    pytester.makepyfile(test_it=HEAD + ORPHANS)
    written = pytester.runpytest_subprocess(*LOADED, "-p", "xdist", "--golden-update", "-n1")
    written.stdout.fnmatch_lines(["*golden files written*", "*test_it.test_a-more.json"])
    pytester.makepyfile(test_it=HEAD + ORPHANS.replace("test_b", "test_c"))
    run = pytester.runpytest_subprocess(*LOADED, "-p", "xdist", "-n1")
    run.stdout.fnmatch_lines(["*golden files of no test*", "*test_it.test_b.json"])
