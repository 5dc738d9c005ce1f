"""Every test says in its docstring which defect it would catch."""

from __future__ import annotations

import ast

from paths import SUPPORT, TESTS

FILES = sorted([*TESTS.glob("*/test_*.py"), *SUPPORT.glob("bench_*.py")])


def undocumented(source: str) -> list[str]:
    """The names of the test functions and methods that have no docstring, or a blank one."""
    nodes = ast.walk(ast.parse(source))
    functions = (node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    tests = (function for function in functions if function.name.startswith("test"))
    return [test.name for test in tests if not (ast.get_docstring(test) or "").strip()]


def test_every_test_says_which_defect_it_catches() -> None:
    """Catches a test of which nobody can tell, when it fails, what is broken in the product."""
    assert len(FILES) > 30, "the tests were not found"
    found = {file.name: undocumented(file.read_text(encoding="utf-8")) for file in FILES}
    assert {name: tests for name, tests in found.items() if tests} == {}


def test_what_has_no_docstring_is_named() -> None:
    """Catches a check that overlooks decorated tests, methods, coroutines or blank docstrings, or names helpers."""
    source = '''
@mark
def test_one(): pass
class Case:
    def test_two(self): """ """
async def test_three(): return "no docstring"
def test_four():
    """Catches something."""
def helper(): pass
'''
    assert sorted(undocumented(source)) == ["test_one", "test_three", "test_two"]
