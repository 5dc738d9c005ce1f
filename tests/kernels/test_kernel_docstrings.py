"""Device functions say what they compute, and a kernel's arguments are described in one place."""

from __future__ import annotations

import ast
import re

from paths import ROOT

KERNELS = ROOT / "detsample" / "kernels"
TABLE = (KERNELS / "__init__.py").read_text(encoding="utf-8").partition("The arguments of kernels\n")[2]
DEVICE = [
    node
    for file in sorted(KERNELS.rglob("*.py"))
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    if isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(mark) for mark in node.decorator_list)
]
# A kernel, unlike a function that kernels call, says which of its arguments it is not compiled for.
LAUNCHED = [node for node in DEVICE if any(isinstance(mark, ast.Call) for mark in node.decorator_list)]


def test_every_device_function_has_a_docstring() -> None:
    """Defect caught: a function of which a reader cannot tell what it computes."""
    assert len(DEVICE) > 150, "the kernels were not found"
    assert [node.name for node in DEVICE if not ast.get_docstring(node)] == []


def test_the_arguments_of_kernels_are_in_the_table() -> None:
    """Defect caught: an argument whose shape and unit nobody knows, or one in the table that no kernel has any more."""
    told = [name for names in re.findall(r"^ {4}(\w[\w, ]*): ", TABLE, re.MULTILINE) for name in names.split(", ")]
    taken = {argument.arg for node in LAUNCHED for argument in [*node.args.args, *node.args.kwonlyargs]}
    assert len(LAUNCHED) > 15, "the kernels were not found"
    assert sorted(told) == sorted(taken)
