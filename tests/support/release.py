"""Checks what a registry would get: names, versions, and that the source distribution has what a packager needs.

    python tests/support/release.py dist [TAG]
"""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("CHANGELOG.md", "CITATION.cff", "LICENSE", "SECURITY.md", "docs/contract/spec.md", "reference/sampling.py",
          "tests/conftest.py", "tests/support/paths.py", "tests/vectors/README.md", "detsample/py.typed")  # fmt: skip


def version() -> str:
    """The version, which the code, the package's data and the citation must all name."""
    named = {
        re.search(pattern, (ROOT / file).read_text(encoding="utf-8"), re.M)[1]  # type: ignore[index]
        for file, pattern in (
            ("detsample/__init__.py", r'^__version__ = "(.+)"'),
            ("pyproject.toml", r'^version = "(.+)"'),
            ("CITATION.cff", r"^version: (.+)"),
        )
    }
    assert len(named) == 1, f"versions differ: {sorted(named)}"
    return named.pop()


def check(dist: Path, tag: str | None = None) -> None:
    """Raise if something is wrong."""
    assert tag in (None, f"v{version()}"), f"the tag is {tag}, the version {version()}"
    name = f"detsample-{version()}"
    wheel, source = dist / f"{name}-py3-none-any.whl", dist / f"{name}.tar.gz"
    assert {file.name for file in dist.iterdir()} == {wheel.name, source.name}
    with tarfile.open(source) as archive:
        names = set(archive.getnames())
    assert not (missing := [file for file in NEEDED if f"{name}/{file}" not in names]), missing
    tops = {file.split("/")[0] for file in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"detsample", f"{name}.dist-info"}, tops
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB; {source.name}: {source.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    check(Path(sys.argv[1]), *sys.argv[2:])
