"""The reference as a package: its public names, what it imports, and the examples in its docstrings."""

from __future__ import annotations

import ast
import doctest
import importlib
import sys
from pathlib import Path

import pytest
from reference_parts import reference


def test_public_names() -> None:
    """Catches a public name that is missing, renamed, or announced and not there."""
    want = {"sample", "mask", "gumbel_noise", "fold_in", "CONTRACT_VERSION", "Status", "Csr"}
    assert want <= set(reference.__all__)
    assert all(hasattr(reference, name) for name in reference.__all__)
    assert reference.CONTRACT_VERSION == 2
    assert {s.name: int(s) for s in reference.Status} == {"NAN": 1, "INF": 2, "EMPTY": 4, "PARAMETER": 8}


def test_imports_only_numpy_and_the_standard_library() -> None:
    """Catches the specification borrowing code from what it specifies, or an absolute import of itself."""
    for path in Path(reference.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, path
                names = [] if node.level else [node.module or ""]
            for name in names:
                assert name.split(".")[0] in {*sys.stdlib_module_names, "numpy"}, (path, name)


@pytest.mark.parametrize("path", sorted(Path(reference.__file__).parent.glob("*.py")), ids=lambda p: p.stem)
def test_examples(path: Path) -> None:
    """Catches a docstring that shows something the code does not do."""
    name = reference.__name__ if path.stem == "__init__" else f"{reference.__name__}.{path.stem}"
    assert doctest.testmod(importlib.import_module(name)).failed == 0
