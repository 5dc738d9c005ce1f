"""A plugin for pytest: the fixture `golden_tokens`, and the option ``--golden-update``.

pytest finds it where detsample is installed. Loading it imports nothing but pytest and the standard library.
"""

from __future__ import annotations

import os
import re
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

if TYPE_CHECKING:
    from detsample.golden import Report
    from detsample.golden.recording import Sampler

FIXTURE = "golden_tokens"
OTHER_NAME = "golden_tokens_fixture"


class Files:
    """The golden files of this session: whose they are, which were written, and which are nobody's.

    A file is nobody's if no test asked for it though all that might have ran to their end, as far as this session's
    arguments allow to say.
    """

    def __init__(self) -> None:
        self.owners: dict[str, str] = {}
        """The test that each file belongs to, by the file's name as the file system tells names apart."""
        self.written: set[str] = set()
        self._orphans: set[str] = set()
        self._waiting: dict[str, Path] = {}
        """The tests collected and not passed yet, and what their files' names begin with."""
        self._modules: set[Path] = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Remember which tests there are, before any is deselected; not where single tests were named."""
        if not any("::" in word for word in config.args):
            self._waiting = {item.nodeid: _stem(item) for item in items}
            self._modules = {Path(item.path) for item in items}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember who ran to the end."""
        if report.when == "call" and report.passed:
            self._waiting.pop(report.nodeid, None)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Look for files of no test; with pytest-xdist a worker tells what it knows."""
        folders = {Path(file).parent for file in self.owners} if self._modules else ()
        files = (file for folder in folders for file in folder.glob("*.json"))
        self._orphans |= {str(file) for file in files if self._is_orphan(file)}
        told = getattr(session.config, "workeroutput", None)
        if told is not None:
            told["detsample"] = {"written": sorted(self.written), "orphans": sorted(self._orphans)}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker of pytest-xdist tells."""
        told = getattr(node, "workeroutput", {}).get("detsample", {})
        self.written.update(told.get("written", ()))
        self._orphans.update(told.get("orphans", ()))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say which files were written, and which are nobody's."""
        for title, files in (("golden files written", self.written), ("golden files of no test", self._orphans)):
            if files:
                terminalreporter.section(title)
                for file in sorted(files):
                    terminalreporter.line(file)

    def _is_orphan(self, file: Path) -> bool:
        if os.path.normcase(file) in self.owners or b'"detsample golden' not in file.read_bytes()[:200]:
            return False
        # Of a module that was not collected nothing is known, but that it is there.
        name = unquote(file.name.partition(".")[0])
        module = file.parent.parent / (name if "." in name else f"{name}.py")
        if module not in self._modules and module.exists():
            return False
        begins = (str(stem) for stem in self._waiting.values())
        return not any(str(file).startswith((f"{stem}.json", f"{stem}-")) for stem in begins)


_FILES = pytest.StashKey[Files]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("detsample", "golden outputs of a sampler (detsample)")
    group.addoption("--golden-update", action="store_true", help="write the golden files anew instead of checking")
    parser.addini(OTHER_NAME, f"another name for the fixture {FIXTURE}, such as golden", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Watch the golden files of the session, and give the fixture its other name."""
    config.stash[_FILES] = Files()
    config.pluginmanager.register(config.stash[_FILES])
    name = config.getini(OTHER_NAME)
    if name:
        named = ModuleType(f"detsample_{name}")
        setattr(named, name, pytest.fixture(name=name)(_golden_test))
        config.pluginmanager.register(named)


def _golden_test(request: pytest.FixtureRequest) -> GoldenTest:
    """Compare what is sampled with a golden file, or write that file with ``--golden-update``."""
    return GoldenTest(request)


golden_tokens = pytest.fixture(name=FIXTURE)(_golden_test)


class GoldenTest:
    """What the fixture `golden_tokens` gives a test: `check`, and the files of this test."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._config = request.config
        self._test = request.node.nodeid
        self._stem = _stem(request.node)
        self._made: set[Path] = set()

    def file(self, name: str | None = None) -> Path:
        """The golden file: in the folder ``golden`` beside the test's own, named like the test.

        No two tests have one name: of ``test_it.py::TestGroup::test_k[a/b]`` it is
        ``test_it.TestGroup.test_k[a%2Fb].json``, with ``-name`` before ``.json`` where there is one.
        """
        return self._stem.with_name(f"{self._stem.name}{'' if name is None else '-' + _short(_escaped(name), 80)}.json")

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
            self._config.stash[_FILES].written.add(str(file))
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
        owner = self._config.stash[_FILES].owners.setdefault(os.path.normcase(file), self._test)
        if owner != self._test:
            pytest.fail(f"{file} is the golden file of {owner}: {self._test} needs another name", pytrace=False)
        return file


def _stem(item: pytest.Item) -> Path:
    """Where a test's files are and what their names begin with: its module, classes and function, with dots between,
    and its parameters.
    """
    path = Path(item.path)
    module = path.stem if path.suffix == ".py" else path.name
    place, bracket, parameters = item.nodeid.partition("::")[2].partition("[")
    names = [module.replace("%", "%25").replace(".", "%2E"), *(_escaped(name, r"[^\w]") for name in place.split("::"))]
    end = f"[{_escaped(parameters.removesuffix(']'))}]" if bracket else ""
    return path.parent / "golden" / _short(".".join(names) + end, 140)


def _short(name: str, most: int) -> str:
    """A name of at most so many bytes, its end then a digest of all of it: a file's name may have 255."""
    whole = name.encode()
    if len(whole) <= most:
        return name
    return f"{whole[: most - 17].decode(errors='ignore')}~{sha256(whole).hexdigest()[:16]}"


def _escaped(text: str, others: str = r"[^\w .,=+@-]") -> str:
    """Text for a file's name: what every file system takes stays, all others are escaped as in a URL."""
    return re.sub(others, lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text)
