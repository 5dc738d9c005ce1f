"""The picture of one draw: probabilities, scores as logit plus noise, and what each filter cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from detsample.cli.failure import Failure
from detsample.inspect.explanation import Explanation

KEPT, CUT, DRAWN, NOISE = "#4878a8", "#c8c8c8", "#d1603d", "#e8b04a"


def draw(found: Explanation, title: str, name: Callable[[int], str], shown: int, file: Path) -> None:
    """Draw to a PNG.

    Parameters
    ----------
    found : Explanation
    title : str
    name : callable
        From a token id to its text; empty where it is not known.
    shown : int
        How many of the first tokens.
    file : Path
        Its ending chooses the format, as matplotlib does.

    Raises
    ------
    Failure
        Without matplotlib, or where the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Failure("--png needs matplotlib: pip install 'detsample[plot]'") from error
    rows = found.worth_showing(shown)
    figure = Figure(figsize=(11, 1.9 + 0.32 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.6))
    _probabilities(left, found, rows)
    _scores(right, found, rows)
    left.set_yticks(range(len(rows)), [_label(found, index, name) for index in rows], family="monospace", fontsize=8)
    left.invert_yaxis()
    parameters = ", ".join(f"{key} {value}" for key, value in found.request.items())
    figure.suptitle(f"{_plain(title)}\n{parameters}", fontsize=10)
    figure.supxlabel(_caption(found), fontsize=9)
    try:
        figure.savefig(file, dpi=120)
    except (OSError, ValueError) as error:
        raise Failure(f"{file}: {error}") from error


def _label(found: Explanation, index: int, name: Callable[[int], str]) -> str:
    token = int(found.token_ids[index])
    return f"{_plain(name(token))} {token} #{index + 1}".strip()


def _plain(text: str) -> str:
    """Text that matplotlib's own font has and does not take for mathematics."""
    return text.replace("␣", "_").replace("⏎", "\\n").replace("$", r"\$")


def _colour(found: Explanation, index: int) -> str:
    if index == found.winner:
        return DRAWN
    return KEPT if index < found.num_kept else CUT


def _probabilities(axes: Any, found: Explanation, rows: list[int]) -> None:
    values = [float(found.probabilities[index]) for index in rows]
    axes.barh(range(len(rows)), values, color=[_colour(found, index) for index in rows])
    most = max(values)
    for at, index in enumerate(rows):
        word = "" if index < found.num_kept else f"  cut: {found.fate(index)}"
        axes.text(values[at] + most * 0.02, at, f"{values[at]:.3g}{word}", va="center", fontsize=8)
    axes.set_xlim(0, most * 1.6)
    axes.locator_params(axis="x", nbins=4)
    axes.set_title("probability, before any filter", fontsize=9)
    for cut in found.cuts:
        below = [at for at, index in enumerate(rows) if index >= cut.kept]
        # A line where the cut is: between two rows shown that are neighbours in the order, or the gap that it is in.
        if cut.on and below and below[0]:
            hidden = rows[below[0] - 1] + 1 < cut.kept
            word = f"{cut.name}: {cut.kept:,} kept" if hidden else cut.name
            axes.axhline(below[0] - 0.5, color="black", linewidth=0.8, linestyle="--")
            axes.text(most * 1.59, below[0] - 0.55, word, ha="right", va="bottom", fontsize=8)


def _scores(axes: Any, found: Explanation, rows: list[int]) -> None:
    """z as a bar from the left edge, the noise as an arrow from its end to the score."""
    from matplotlib.patches import Patch

    z = [float(found.z[index]) for index in rows]
    score = [float(found.score[index]) for index in rows]
    low = min(*z, *score)
    span = max(max(*z, *score) - low, 1e-6)
    edge = low - 0.06 * span
    for at, index in enumerate(rows):
        axes.barh(at, z[at] - edge, left=edge, color=_colour(found, index), alpha=0.45, height=0.7)
        style = {"arrowstyle": "-|>", "color": NOISE if index < found.num_kept else CUT, "linewidth": 1.6}
        axes.annotate("", xy=(score[at], at), xytext=(z[at], at), arrowprops=style)
        axes.plot(score[at], at, "o", color=_colour(found, index), markersize=5)
    top = float(found.score[found.winner])
    axes.axvline(top, color=DRAWN, linewidth=0.9, linestyle=":")
    axes.set_xlim(edge, max(max(z), max(score)) + 0.06 * span)
    axes.locator_params(axis="x", nbins=5)
    axes.set_title("(logit - largest) / temperature (bar) + noise (arrow) = score (dot)", fontsize=9)
    names = {DRAWN: "drawn", KEPT: "kept", CUT: "cut"}
    shown = {_colour(found, index) for index in rows}
    handles = [Patch(color=colour, label=name) for colour, name in names.items() if colour in shown]
    axes.figure.legend(handles=handles, fontsize=8, loc="outside lower right", ncols=3)


def _caption(found: Explanation) -> str:
    token = int(found.token_ids[found.winner])
    size = "infinite" if found.threat is None else f"{found.margin:.4g}"
    return f"drawn: token {token} of {found.num_kept:,} kept; margin of the logits: {size}"


def growth(tables: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """Times over batch size and over vocabulary, with the floor, on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (title, table) in zip(figure.subplots(1, len(tables)), tables.items(), strict=True):
        for name, times in table.items():
            axes.loglog([int(at) for at in times], list(times.values()), "o-", label=name)
        axes.set(title=title, xlabel=title.split()[1].rstrip(","), ylabel="microseconds")
        axes.grid(visible=True, which="both", alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
