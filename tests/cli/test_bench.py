"""The benchmark: its own kernel, which only a GPU runs, and what the command makes of times."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from detsample.cli import main

pytest.importorskip("triton", reason="Triton is not installed: nothing is compiled")
pytest.importorskip("torch", reason="torch is not installed: nothing is timed")

GROWTH = "microseconds, growth, k=50 p=.95 min_p=.05"
TIMES: dict[str, Any] = {
    "microseconds, randn x 1": {
        "bytes": {"1": 607744, "8": 4861952},
        "floor": {"1": 2.0, "8": 4.0},
        "p=.95": {"1": 50.0, "8": 60.0},
        "flashinfer: p=.95": {"8": 80.0},
    },
    "host microseconds, B = 1": {"sample": 90.0, "planned": 60.0, "one launch": 11.0, "one more": 1.0},
    "microseconds, masks": {"no mask": {"128": 60.0}, "bits": {"128": 66.0}},
    GROWTH: {"over B": {"floor": {"1": 2.0, "4": 2.5}, "detsample": {"1": 24.0, "4": 25.0}}},
}


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The measuring part, which measures nothing."""
    from detsample.bench import report
    from detsample.cli import gpu

    monkeypatch.setattr(gpu, "torch", lambda: None)
    monkeypatch.setattr(report, "differences", lambda: 0)
    monkeypatch.setattr(report, "tables", lambda batches, full: {title: lambda t=t: t for title, t in TIMES.items()})
    return report


def test_times_are_shown_and_written(report: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches minutes of measurements that end in an error, and a peer timed at some sizes alone in a wrong column."""
    one, other = tmp_path / "times.json", tmp_path / "times.csv"
    assert main(["bench", "--json", str(one), "--csv", str(other)]) == 0
    shown = capsys.readouterr().out
    for text in ("60.0 15.00x", "304", "planned 60", "one more 1", "over B"):
        assert text in shown, shown
    peer = next(text for text in shown.splitlines() if "flashinfer" in text)
    assert peer.index("80.0") > 64, "behind the column of one row"
    written = json.loads(one.read_text())
    assert {title: written[title] for title in TIMES} == TIMES
    assert written["bits"] == "equal"
    with other.open(newline="") as file:
        rows = list(csv.reader(file))
    assert ["microseconds, randn x 1", "flashinfer: p=.95", "8", "80.00"] in rows


def test_no_time_where_bits_differ(
    report: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches times of a sampler that is wrong."""
    monkeypatch.setattr(report, "differences", lambda: 3)
    file = tmp_path / "times.json"
    assert main(["bench", "--json", str(file)]) == 1
    assert not file.exists()
    assert capsys.readouterr().out == "3 outputs differ in bits from the reference: nothing is timed\n"


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from detsample.bench.floor import CUTS, largest

for dtype in ("fp32", "bf16"):
    signature = {"logits": f"*{dtype}", **dict.fromkeys(("row_stride", "vocab", "part_tokens"), "i32")}
    signature |= {"result": "*fp32", "BLOCK": "constexpr"}
    block, warps, _ = CUTS[0]
    attributes = {(0,): [["tt.divisibility", 16]], (3,): [["tt.divisibility", 16]]}
    source = ASTSource(largest, signature, {"BLOCK": block}, attributes)
    kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    ptx = kernel.asm["ptx"]
    assert "ld.global.v4.b32" in ptx, ptx
    assert "max.f32" in ptx
"""


@pytest.mark.triton_contract
def test_the_floor_compiles_and_reads_16_bytes_at_a_time() -> None:
    """Catches a floor that does not compile, or one that is slow, beside which anything looks fast."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", COMPILE]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-3000:]
