"""`detsample explain`: what it says of a draw is what the draw was."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
from command import Run

from detsample import reference
from detsample.cli import explain as explain_command
from detsample.cli.tables import shortest
from detsample.inspect.explanation import explain
from detsample.processing import Processing

F32 = np.float32


@pytest.mark.full("more kinds of rows", every=4)
@pytest.mark.parametrize("order", ["top_k_first", "min_p_first", "joint"])
@pytest.mark.parametrize(
    "kind", ["randn", "randn_x5", "few_levels", "neg_inf_some", "bfloat16_rounded", "flat", "huge"]
)
def test_an_explanation_agrees_with_the_draw(kind: str, order: str) -> None:
    """Catches a winner, a kept set, a log probability or a margin told otherwise than it was computed."""
    rng = np.random.default_rng([ord(letter) for letter in kind])
    x, params = cases.CASES[kind](rng, 12, 40), cases.parameters(rng, 12, 40, invalid=False)
    out = reference.sample(x, **params, filter_order=order, return_log_z=True)
    margins = reference.margin(x, **params, filter_order=order).margin
    for row in range(12):
        own: dict[str, Any] = {name: value[row].item() for name, value in params.items()}
        own |= {name: min(own[name], 1.0) for name in ("top_p", "min_p")}  # what is above it is 1 in a vector alone
        found = explain(x[row], own.pop("topp_seed"), **own, filter_order=order)
        assert found.token_ids[found.winner] == out.token_ids[row]
        assert found.num_kept == out.num_kept[row]
        assert (F32(found.logprob), F32(found.log_z)) == (out.logprobs[row], out.log_z[row])
        assert F32(found.margin) == margins[row]
        best = found.score[: found.num_kept].max()
        assert found.score[found.winner] == best
        assert (np.diff(found.logits) <= 0).all()
        if not found.greedy:
            assert found.num_kept == min(cut.kept for cut in found.cuts)
        assert (found.threat is None) == (found.margin == np.inf)


def test_ties_at_a_boundary_are_told() -> None:
    """Catches ties counted on the wrong side of the cut."""
    x = F32([0, 3, 5, 3, 3, 1])
    by_k, by_p, by_weight = explain(x, 1, top_k=2, top_p=0.99, min_p=0.01).cuts
    assert (by_k.kept, by_k.value, by_k.tied_kept, by_k.tied_cut) == (2, 3.0, 1, 2)
    assert (by_p.kept, by_p.on) == (2, True)  # of the two that top-k left
    assert (by_weight.kept, by_weight.tied_cut) == (5, 0)


def test_text_of_a_row_in_a_file(run: Run, tmp_path: Path) -> None:
    """Catches another row, seed or position explained than asked for."""
    x = np.round(np.random.default_rng(2).standard_normal((3, 60), dtype=F32) * F32(2))
    np.save(tmp_path / "x.npy", x)
    status, text, _ = run(
        "explain", tmp_path / "x.npy", "--row", 2, "--seed", 5, "--position", 7, "--consecutive",
        "--top-k", 9, "--tokens", 4,
    )  # fmt: skip
    out = reference.sample(x[2:], 5, position=9, top_k=9)
    assert status == 0
    lines = text.splitlines()
    assert lines[:2] == [
        "x.npy, row 2", "topp_seed 5, position 9, temperature 1.0, top_k 9, top_p 1.0, min_p 0.0, "
        "filter_order top_k_first",
    ]  # fmt: skip
    (drawn,) = (line for line in lines if line.endswith("<- drawn"))
    assert int(drawn.split()[1]) == out.token_ids[0]
    assert f"drawn: token {out.token_ids[0]}, log probability {out.logprobs[0]:.4f} in the kept set" in lines
    assert "top_k alone keeps 9, down to logit " in text
    assert "tokens have that logit: the " in text
    assert f"margin: {shortest(reference.margin(x[2:], 5, position=9, top_k=9).margin[0])}: " in text


def test_what_was_forbidden_and_moved_is_told(run: Run, tmp_path: Path) -> None:
    """Catches a set of another row, a forbidden token that is drawn, and a part of the processing that is not named."""
    np.save(tmp_path / "x.npy", np.zeros((2, 40), F32))
    np.save(tmp_path / "sets.npy", np.array([[-1, -1], [0x00F0, 0]], np.int32))
    status, text, _ = run("explain", tmp_path / "x.npy", "--row", 1, "--allowed", tmp_path / "sets.npy", "--tokens", 3)
    assert status == 0
    assert text.splitlines()[3:5] == ["4 tokens that are not -inf", "  forbidden by allowed: 36: 0, 1, 2, ..."]
    asked = Processing(output=np.array([[5]]), presence_penalty=1.0, banned=np.array([[7, 5]]))
    lines = explain_command.text(explain(np.zeros(40, F32), 7, processing=asked), "x", lambda token: "", 3)
    assert lines[4:6] == ["  moved by banned: 2: 5, 7", "  moved by presence_penalty: 1: 5"]


def test_the_demo_row_has_words(run: Run) -> None:
    """Catches a packaged row that cannot be explained, greedily or not."""
    status, text, _ = run("explain", "--demo", "fact", "--temperature", 0, "--tokens", 3)
    assert status == 0
    assert "token 7042 (␣Paris)" in text
    assert "beyond it token 260 (␣the) may come first" in text


def test_failures_are_one_line(run: Run, tmp_path: Path) -> None:
    """Catches a traceback."""
    np.save(tmp_path / "x.npy", F32([[np.nan, 0]]))
    for words in (
        (), ("--demo", "nothing"), (tmp_path / "x.npy",), (tmp_path / "x.npy", "--row", 1),
        (tmp_path / "x.npy", "--demo", "fact"), ("--demo", "fact", "--temperature", -1),
    ):  # fmt: skip
        status, out, error = run("explain", *words)
        assert (status, out, error.count("\n")) == (2, "", 1), (words, error)


def test_an_invalid_row_has_its_number(run: Run, tmp_path: Path) -> None:
    """Catches "row 0" said of another row of the file."""
    np.save(tmp_path / "x.npy", F32([[1, 0], [np.nan, 0]]))
    error = run("explain", tmp_path / "x.npy", "--row", 1)[2]
    assert error == "detsample explain: error: x.npy, row 1: a logit is NaN\n"


def test_it_explains_what_sample_draws(run: Run, tmp_path: Path) -> None:
    """Catches a seed of a row that `explain` and `sample` derive each in its own way."""
    np.save(tmp_path / "x.npy", np.zeros((4, 1000), F32))
    drawn = run("sample", tmp_path / "x.npy", "--seed", 5, "--rows", "3:4")[1].splitlines()[1].split()[1]
    assert f"drawn: token {drawn}," in run("explain", tmp_path / "x.npy", "--seed", 5, "--row", 3)[1]


def test_the_picture(run: Run, tmp_path: Path) -> None:
    """Catches a picture that cannot be drawn: with cuts, ties, a greedy row, a row of one token, signs of dollars."""
    pytest.importorskip("matplotlib")
    np.save(tmp_path / "$x.npy", F32([[0, 0, 0, 1], [-np.inf, 2, -np.inf, -np.inf]]))
    for number, words in enumerate(
        (
            ("--demo", "story", "--top-p", 0.6, "--top-k", 20, "--min-p", 0.1),
            ("--demo", "code", "--temperature", 0),
            (tmp_path / "$x.npy", "--top-k", 2),
            (tmp_path / "$x.npy", "--row", 1),
        )
    ):
        file = tmp_path / f"{number}.png"
        status, text, error = run("explain", *words, "--png", file)
        assert (status, error) == (0, "")
        assert f"drawn to {file}" in text
        assert file.read_bytes().startswith(b"\x89PNG")
    status, _, error = run("explain", "--demo", "code", "--png", tmp_path / "none" / "x.png")
    assert (status, error.count("\n")) == (2, 1)


def test_text_needs_no_matplotlib(tmp_path: Path) -> None:
    """Catches an extra that has become a requirement, and a missing one that is not named."""
    code = "import sys\nsys.modules['matplotlib'] = None\nfrom detsample.cli import main\nsys.exit(main(sys.argv[1:]))"
    start = [sys.executable, "-c", code, "explain", "--demo", "fact"]
    assert subprocess.run(start, capture_output=True, timeout=120).returncode == 0
    done = subprocess.run([*start, "--png", str(tmp_path / "x.png")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "--png needs matplotlib: pip install 'detsample[plot]'" in done.stderr


def test_the_picture_of_a_flat_row_can_be_read() -> None:
    """Catches ticks that overlap, probabilities of "0.0000", colours that nothing explains, and a filter's line that
    does not say how many are kept where not all of them are shown.
    """
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(11, 6), layout="constrained")
    from detsample.cli import picture

    found = explain(np.linspace(0.02, 0, 50_000, dtype=F32), 3, min_p=0.99)
    rows = found.worth_showing(7)
    left, right = figure.subplots(1, 2)
    picture._probabilities(left, found, rows)
    picture._scores(right, found, rows)
    figure.canvas.draw()
    words = [text.get_text() for text in left.texts]
    assert not any(word.startswith("0.0000") for word in words)
    assert f"min_p: {found.num_kept:,} kept" in words or found.worth_showing(7)[-1] < found.num_kept
    boxes = [tick.get_window_extent() for tick in left.get_xticklabels() if tick.get_text()]
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))
    assert {text.get_text() for text in figure.legends[0].get_texts()} <= {"drawn", "kept", "cut"}
