"""The tables of times in README.md and docs/performance.md, made from what `detsample bench --full --json FILE` wrote.

    python tests/support/bench_tables.py

writes them anew where a table with the same first cell stands. A test compares them with what is written. A time of
another sampler that is less than detsample's with the token alone is bold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from paths import ROOT

RESULT = ROOT / "docs" / "results" / "h200-bench.json"
PEERS = {
    "flashinfer": "FlashInfer",
    "flashinfer, one k": "FlashInfer, one k for all rows",
    "vllm, copy included": "vLLM",
}
TITLES = {
    "llm rows": "microseconds, llm rows",
    "SmolLM2-135M, V = 49,152": "microseconds, SmolLM2-135M, V = 49152",
    "randn x 5": "microseconds, randn x 5",
    "randn x 1": "microseconds, randn x 1",
    "llm rows, bf16": "microseconds, bfloat16, llm rows",
}
OTHERS = "microseconds, other rows, B = 128"
BARS = {  # what was aimed at on an H100: which rows, which setting, microseconds
    "p=.95, llm rows": ("llm rows", "p=.95", (20, 22, 38, 56, 80)),
    "p=.95, randn x 5": ("randn x 5", "p=.95", (20, 22, 38, 56, 80)),
    "p=.95, token only, randn x 1": ("randn x 1", "p=.95, token only", (25, 30, 50, 75, 110)),
    "k=50 p=.95 min_p=.05, llm rows": ("llm rows", "k=50 p=.95 min_p=.05", (15, 17, 31, 47, 72)),
    "no filter, token only, llm rows": ("llm rows", "no filter, token only", (9, 12, 26, 42, 64)),
    "min_p=.1, token only, llm rows": ("llm rows", "min_p=.1, token only", (14, 16, 32, 48, 72)),
    "min_p=.1, token only, randn x 1": ("randn x 1", "min_p=.1, token only", (14, 16, 32, 48, 72)),
    "mixed, llm rows": ("llm rows", "mixed", (22, 25, 45, 68, 100)),
    "p=.95, randn x 1": ("randn x 1", "p=.95", (48, 56, 110, 163, 255)),
}


def short(time: float) -> str:
    """Three digits of a time."""
    return f"{time:.3g}" if time < 1000 else f"{time:,.0f}"


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown."""
    return "".join(f"| {' | '.join(line)} |\n" for line in [head, *lines]).replace(
        "\n", f"\n|{'---|' * len(head)}\n", 1
    )


def against(time: float, own: float) -> str:
    """The time of another sampler, bold where it is less than detsample's own."""
    return f"**{short(time)}**" if time < own else short(time)


def main_table(name: str, found: dict[str, dict[str, float]], peers: Iterable[str], ratios: bool) -> str:
    """The times of one kind of rows, over B; `ratios` adds how many times the floor they are, where B is 64 or more."""
    floor = found["floor"]
    lines = [["floor", *map(short, floor.values())]]
    for row, times in found.items():
        peer, _, setting = row.rpartition(": ")
        if peer in peers:
            lines.append([f"*{PEERS[peer]}: {setting}*", *(against(t, found[setting][b]) for b, t in times.items())])
        elif not peer and row not in ("bytes", "floor"):
            beside = [f" ({t / floor[b]:.1f}x)" if ratios and int(b) >= 64 else "" for b, t in times.items()]
            lines.append([row, *(short(t) + more for t, more in zip(times.values(), beside, strict=True))])
    return markdown([name, *(f"B={b}" for b in floor)], lines)


def other_rows(found: dict[str, dict[str, float]]) -> str:
    """Rows of other laws, one a line."""
    lines = []
    for row, times in found.items():
        floor, own, alone = times["floor"], times["detsample"], times["token only"]
        peers = [against(times[peer], alone) if peer in times else "" for peer in ("flashinfer", "vllm, copy included")]
        lines.append([row, short(floor), f"{short(own)} ({own / floor:.1f}x)", short(alone), *peers])
    return markdown(["other rows, B=128", "floor", "detsample", "token only", "FlashInfer", "vLLM"], lines)


def bars(found: dict[str, Any]) -> str:
    """What was aimed at and what came of it."""
    lines = []
    for name, (rows, setting, aims) in BARS.items():
        times = found[TITLES[rows]][setting]
        lines.append([name, *(f"{aim}: {short(t)}" for aim, t in zip(aims, times.values(), strict=True))])
    return markdown(["aimed at on an H100: reached on an H200", "B=1", "8", "64", "128", "256"], lines)


def masks(found: dict[str, dict[str, float]]) -> str:
    """What a mask costs."""
    return markdown(
        ["k=50 p=.95 min_p=.05 with a mask, randn x 1, B=128", *found],
        [["", *(short(t["128"]) for t in found.values())]],
    )


def tables() -> dict[Path, list[str]]:
    """The tables of each page."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    llm = found[TITLES["llm rows"]]
    own = [main_table(name, found[title], PEERS, ratios=True) for name, title in TITLES.items()]
    own += [bars(found), other_rows(found[OTHERS]), masks(found["microseconds, masks"])]
    return {
        ROOT / "README.md": [main_table("llm rows", llm, ("flashinfer", "vllm, copy included"), ratios=False)],
        ROOT / "docs" / "performance.md": own,
    }


def replaced(text: str, page: list[str]) -> str:
    """The page with each table in the place of the one that has the same first cell."""
    for table in page:
        name = table[: table.index(" |")]
        places = list(re.finditer(rf"^{re.escape(name)} \|(.*\n\|)*.*\n", text, flags=re.MULTILINE))
        assert len(places) == 1, f"{name}: {len(places)} tables have this first cell"
        text = text[: places[0].start()] + table + text[places[0].end() :]
    return text


if __name__ == "__main__":
    for path, page in tables().items():
        path.write_text(replaced(path.read_text(encoding="utf-8"), page), encoding="utf-8")
