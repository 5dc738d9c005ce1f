"""Constants in the kernels: what Triton makes of them depends on the side of an operator that they stand on."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import detsample

FOLDER = Path(detsample.__file__).parent / "kernels"


def constants_of(trees: list[ast.Module]) -> set[str]:
    """The names bound to a `tl.constexpr` at the top of a file."""
    assigned = [node for tree in trees for node in tree.body if isinstance(node, ast.Assign)]
    return {
        target.id
        for node in assigned
        if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "tl.constexpr"
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def constant(node: ast.expr, names: set[str]) -> bool:
    """Whether an expression is made of constants alone."""
    if isinstance(node, ast.BinOp):
        return constant(node.left, names) and constant(node.right, names)
    if isinstance(node, ast.UnaryOp):
        return constant(node.operand, names)
    return isinstance(node, ast.Constant) or (isinstance(node, ast.Name) and node.id in names)


def wrong_sides(tree: ast.Module, names: set[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        sides = [node.left] if isinstance(node, (ast.BinOp, ast.Compare)) else []
        others = node.comparators if isinstance(node, ast.Compare) else [getattr(node, "right", None)]
        for left in sides:
            named = any(isinstance(part, ast.Name) for part in ast.walk(left))
            if named and constant(left, names) and not all(constant(other, names) for other in others):
                yield f"line {node.lineno}: {ast.unparse(node)}"


def test_no_constant_is_left_of_an_operator() -> None:
    """Defect caught: from Triton 3.7 on its interpreter takes a named constant times a scalar for a constant that holds
    a tensor, and fails where that is compared; how far it comes depends on the row, so a test of results may miss it.
    """
    files = sorted(FOLDER.rglob("*.py"))
    trees = {str(file.relative_to(FOLDER)): ast.parse(file.read_text(encoding="utf-8")) for file in files}
    names = constants_of(list(trees.values()))
    assert len(names) > 50
    assert {name: found for name, tree in trees.items() if (found := list(wrong_sides(tree, names)))} == {}


@pytest.mark.parametrize("text", ["A * x", "A - x", "(A + 1) | f(x)", "A < x", "B * A * x"])
def test_it_sees_what_it_looks_for(text: str) -> None:
    """Defect caught: the search above finds nothing because it looks for nothing."""
    assert list(wrong_sides(ast.parse(text), {"A", "B"}))
    assert not list(wrong_sides(ast.parse("x * A + 2.0 * x < A * B"), {"A", "B"}))
