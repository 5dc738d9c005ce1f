"""A plugin for pytest: the fixture `golden`, and the option ``--golden-update``.

pytest finds it where detsample is installed. Loading it imports NumPy, and neither a framework nor Triton.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from detsample.golden.comparison import Report
    from detsample.golden.recording import Sampler

_WRITTEN = pytest.StashKey[list[Path]]()
_OWNERS = pytest.StashKey[dict[str, str]]()
"""The test that each golden file of this session belongs to."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    group = parser.getgroup("detsample", "golden outputs of a sampler (detsample)")
    group.addoption("--golden-update", action="store_true", help="write the golden files anew instead of checking")


def pytest_configure(config: pytest.Config) -> None:
    """Make room for the names of the files written and used."""
    config.stash[_WRITTEN] = []
    config.stash[_OWNERS] = {}


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say which files were written."""
    written = config.stash[_WRITTEN]
    if written:
        terminalreporter.section("golden files written")
        for file in written:
            terminalreporter.line(str(file))


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> GoldenTest:
    """Compare what is sampled with a golden file, or write that file with ``--golden-update``."""
    return GoldenTest(request)


class GoldenTest:
    """What the fixture `golden` gives a test: `check`, and the files of this test."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._config = request.config
        self._test = request.node.nodeid
        path = Path(request.node.path)
        self._stem = path.parent / "golden" / _stem(path, self._test.partition("::")[2])
        self._made: set[Path] = set()

    def file(self, name: str | None = None) -> Path:
        """The golden file: in the folder ``golden`` beside the test's own, named like the test.

        No two tests have one name: of ``test_it.py::TestGroup::test_k[a/b]`` it is
        ``test_it.TestGroup.test_k[a%2Fb].json``, with ``-name`` before ``.json`` where there is one.
        """
        return self._stem.with_name(f"{self._stem.name}{'' if name is None else '-' + _escaped(name)}.json")

    def check(
        self,
        logits: Any,
        topp_seed: Any,
        *,
        name: str | None = None,
        sequence: bool = False,
        keep_logits: bool = False,
        strict: bool = False,
        sampler: Sampler | None = None,
        **parameters: Any,
    ) -> Report | None:
        """Draw, and fail if a token is not the one in the golden file.

        Parameters
        ----------
        logits, topp_seed, sequence, sampler, **parameters
            As for `detsample.golden.record`.
        name : str, optional
            Tells several golden files of one test apart.
        keep_logits : bool
            Whether ``--golden-update`` also keeps the logits, about 150 kB a row of 50,000, so that a drift is known
            exactly.
        strict : bool
            Fail as well where logits differ and no token does.

        Returns
        -------
        detsample.golden.Report, or None
            None where the file was written. A test that checks twice under one name, with ``--golden-update``, compares
            with what it has just written.
        """
        from detsample import frameworks
        from detsample.golden import GoldenError, diff, load, load_logits, record, save
        from detsample.golden.fingerprint import canonical
        from detsample.golden.recording import against_reference

        file = self._own(name)
        today = record(logits, topp_seed, **parameters, sequence=sequence, sampler=sampler)
        x = canonical(frameworks.of(logits).fetch(logits))
        # A second check of one name is of what the first has just written.
        if self._config.getoption("--golden-update") and file not in self._made:
            file.parent.mkdir(exist_ok=True)
            save(today, file, x if keep_logits else None)
            self._config.stash[_WRITTEN].append(file)
            self._made.add(file)
            return None
        if not file.exists():
            pytest.fail(f"no golden file {file}: run pytest with --golden-update to write it", pytrace=False)
        try:
            before = load(file)
            report = against_reference(diff(before, today, load_logits(file, before), x), today, x)
        except GoldenError as error:
            pytest.fail(str(error), pytrace=False)
        if report.status(strict):
            pytest.fail(f"{file}\n{report.text()}", pytrace=False)
        return report

    def _own(self, name: str | None) -> Path:
        """The file, which then is this test's; a file system may take two names for one."""
        file = self.file(name)
        owner = self._config.stash[_OWNERS].setdefault(os.path.normcase(file), self._test)
        if owner != self._test:
            pytest.fail(f"{file} is the golden file of {owner}: {self._test} needs another name", pytrace=False)
        return file


def _stem(path: Path, test: str) -> str:
    """The name of a test's files: its module, classes and function, with dots between, and its parameters."""
    module = path.stem if path.suffix == ".py" else path.name
    place, bracket, parameters = test.partition("[")
    names = [module.replace("%", "%25").replace(".", "%2E"), *(_escaped(name, r"[^\w]") for name in place.split("::"))]
    return ".".join(names) + (f"[{_escaped(parameters.removesuffix(']'))}]" if bracket else "")


def _escaped(text: str, others: str = r"[^\w .,=+@-]") -> str:
    """Text for a file's name: what every file system takes stays, all others are escaped as in a URL."""
    return re.sub(others, lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text)
