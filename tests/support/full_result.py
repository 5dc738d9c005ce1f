"""Keeps what a full run of the suite came to, in docs/results/test-full.json.

    python tests/support/full_result.py build/reports/*.xml

reads the reports of its runs; `make test-full` does this when all of them have passed.
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
    """The tests of one run by how they ended, and its seconds."""
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None, report
    tests, skipped = int(suite.attrib["tests"]), int(suite.attrib["skipped"])
    failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
    passed = tests - skipped - failed
    return {"passed": passed, "skipped": skipped, "failed": failed, "seconds": round(float(suite.attrib["time"]))}


def git(*words: str) -> str:
    """What git prints."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def main(reports: list[Path]) -> None:
    """Write the result."""
    result = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": git("rev-parse", "HEAD"),
        "files changed since": len(git("status", "--porcelain").splitlines()),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "runs": {report.stem: counts(report) for report in sorted(reports)},
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{RESULT.relative_to(ROOT)}: {result}")


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
