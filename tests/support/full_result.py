"""Keeps what a full run of the suite came to, in docs/results/test-full.json.

    python tests/support/full_result.py build/reports

reads the reports of its parts; `make test-full` does this, whether all of them have passed or not.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from paths import ROOT

RESULT = ROOT / "docs" / "results" / "test-full.json"


def counts(report: Path) -> dict[str, Any]:
    """The tests of one part by how they ended, its seconds, and the names of what failed."""
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None, report
    tests, skipped = int(suite.attrib["tests"]), int(suite.attrib["skipped"])
    failed = [
        f"{case.attrib['classname']}::{case.attrib['name']}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    ended = {"passed": tests - skipped - len(failed), "skipped": skipped, "failed": failed}
    return ended | {"seconds": round(float(suite.attrib["time"]))}


def git(*words: str) -> str:
    """What git prints."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def main(folder: Path) -> None:
    """Write the result."""
    result = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": git("rev-parse", "HEAD"),
        "files changed since": len(git("status", "--porcelain").splitlines()),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "parts": {report.stem: counts(report) for report in sorted(folder.glob("*.xml"))},
        "not run": {file.stem: file.read_text().strip() for file in sorted(folder.glob("*.skipped"))},
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{RESULT.relative_to(ROOT)}: {result}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
