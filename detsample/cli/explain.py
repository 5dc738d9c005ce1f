"""``detsample explain``: takes one draw apart, as text and as a picture."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import detsample
from detsample.cli.failure import Failure
from detsample.cli.sample import (
    add_allowed,
    add_file,
    add_request,
    allowed_of_rows,
    decoded,
    filters,
    read_logits,
    seeds_of_rows,
)
from detsample.cli.tables import clipped, line, shortest, token_text
from detsample.data import load_real_logits
from detsample.inspect.explanation import Cut, Explanation, explain
from detsample.sampler.status import describe

TEXT = 14
"""Width of a token's text."""
Name = Callable[[int], str]
"""From a token id to its text."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """The arguments of this command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "explain",
        help="take one draw apart: filters, ties, noise, scores, margin",
        description="Show how one token came to be drawn: the first tokens, what each filter cut and where ties fell, "
        "the noise, the scores, the winner, and how far the logits may move before it could change.",
        epilog="Exit status: 0; 2 if the row cannot be sampled.",
    )
    add_file(parser, "?")
    parser.add_argument("--demo", metavar="PROMPT", help="a row that comes with the package, instead of FILE")
    parser.add_argument("--row", type=int, default=0, metavar="R", help="which row (default: 0)")
    add_request(parser)
    add_allowed(parser)
    parser.add_argument("--tokens", type=int, default=12, metavar="N", help="how many tokens to show (default: 12)")
    parser.add_argument("--png", type=Path, metavar="OUT", help="also draw it (needs matplotlib)")
    return parser


def run(options: argparse.Namespace) -> int:
    """Explain, and draw if asked to."""
    row, name, title, rows = _row(options)
    seed = int(seeds_of_rows(options, rows)[options.row])
    how = filters(options) | {"position": options.position + options.row * options.consecutive}
    sets = allowed_of_rows(options, rows)
    allowed = None if sets is None else sets[options.row : options.row + 1]
    try:
        status = int(detsample.sample(row.reshape(1, -1), seed, **how, allowed=allowed).status[0])
        if status:
            raise Failure(f"{title}: {describe(status)}")
        found = explain(row, seed, **how, allowed=allowed)
    except (TypeError, ValueError) as error:
        raise Failure(str(error)) from error
    print("\n".join(text(found, title, name, options.tokens)))
    if options.png is not None:
        from detsample.cli.picture import draw

        draw(found, title, name, options.tokens, options.png)
        print(f"\ndrawn to {options.png}")
    return 0


def _row(options: argparse.Namespace) -> tuple[np.ndarray, Name, str, int]:
    """The row, its tokens' texts, its title, and how many rows there are where it comes from."""
    if (options.file is None) == (options.demo is None):
        raise Failure("expected FILE or --demo PROMPT, and not both")
    if options.demo is not None and options.row:
        raise Failure("--row is for FILE: --demo names its row")
    if options.demo is None:
        whole = read_logits(options.file, options.array, options.bf16)
        if not 0 <= options.row < len(whole):
            raise Failure(f"--row {options.row} is not within the file's {len(whole)} rows")
        row = decoded(whole[options.row : options.row + 1], options.bf16)
        return row, lambda token: "", f"{options.file.name}, row {options.row}", len(whole)
    real = load_real_logits()
    if options.demo not in real.names:
        raise Failure(f"--demo must be one of {', '.join(real.names)}, got {options.demo!r}")
    at = real.names.index(options.demo)

    def name(token: int) -> str:
        return token_text(real.token_text(token), TEXT)

    return real.logits[at], name, f"SmolLM2-135M-Instruct: {clipped(real.prompts[at], 50)}", 1


def text(found: Explanation, title: str, name: Name, shown: int) -> list[str]:
    """The explanation in lines."""
    request = ", ".join(f"{key} {value}" for key, value in found.request.items())
    lines = [title, request, "", f"{len(found.token_ids):,} tokens that are not -inf"]
    changed = {f"moved by {part}": tokens for part, tokens in found.moved.items()}
    for how, tokens in {"forbidden by allowed": found.forbidden, **changed}.items():
        if tokens.size:
            named = ", ".join(clipped(f"{token} {name(token)}".strip(), 2 * TEXT) for token in tokens[:shown].tolist())
            lines.append(f"  {how}: {tokens.size:,}: {named}{', ...' * (tokens.size > shown)}")
    lines += [f"  {cut_text(cut, found)}" for cut in found.cuts if cut.on]
    lines.append(
        "  temperature 0: the first is drawn; filters and noise have no part in it"
        if found.greedy
        else f"  kept: {found.num_kept:,}, which hold {math.exp(found.log_z):.4%} of the mass"
    )
    lines.append("")
    return [*lines, *_table(found, name, shown), "", *_verdict(found, name)]


def cut_text(cut: Cut, found: Explanation) -> str:
    """What a filter keeps, and how ties at its boundary fell."""
    after_top_k = cut.name == "top_p" and found.cuts[0].on
    words = f"{cut.name} {'of these' if after_top_k else 'alone'} keeps {cut.kept:,}"
    words += f", down to logit {shortest(cut.value)}"
    if cut.tied_cut:
        tied = cut.tied_kept + cut.tied_cut
        words += f"; {tied:,} tokens have that logit: the {cut.tied_kept:,} with the lowest ids are kept"
    return words


def _table(found: Explanation, name: Name, shown: int) -> list[str]:
    kept_mass = found.probabilities[: found.num_kept].sum()
    named = bool(name(int(found.token_ids[0])))
    widths = [5, 8, *([-TEXT] * named), 11, 9, 9, -14, 9, 9]
    head = ["rank", "token", *(["text"] * named), "logit", "prob", "in kept", "cut by", "noise", "score"]
    lines, before = [line([*head, ""], [*widths, -10])], -1
    marks = {found.winner: "<- drawn"}
    if found.threat is not None:
        marks.setdefault(found.index_of(found.threat.rival), "<- closest")
    for index in found.worth_showing(shown):
        if index > before + 1:
            lines.append(line(["..."], [5]))
        before = index
        token, p = int(found.token_ids[index]), found.probabilities[index]
        within = f"{p / kept_mass:.5f}" if index < found.num_kept else "-"
        cells = [index + 1, token, *([name(token)] * named), f"{found.logits[index]:.4f}", f"{p:.5f}", within]
        cells += [found.fate(index), f"{found.noise[index]:.4f}", f"{found.score[index]:.4f}", marks.get(index, "")]
        lines.append(line(cells, [*widths, -10]))
    return lines


def _verdict(found: Explanation, name: Name) -> list[str]:
    token = int(found.token_ids[found.winner])
    among = "" if found.greedy else f", log probability {found.logprob:.4f} in the kept set"
    lines = [f"drawn: {_named(token, name)}{among}"]
    second = found.runner_up()
    if second is not None and not found.greedy:
        gap = found.score[found.winner] - found.score[second]
        lines.append(f"next of the kept ones: {_named(int(found.token_ids[second]), name)}, its score {gap:.4f} below")
    if found.threat is None:
        return [*lines, "margin: infinite: no motion of the logits changes the token"]
    lines.append(f"margin: {shortest(found.margin)}: while no logit moves by more than this, the token stays")
    return [*lines, "beyond it " + _threat_text(found, name)]


def _threat_text(found: Explanation, name: Name) -> str:
    assert found.threat is not None
    rival = _named(found.threat.rival, name)
    if found.threat.by == "score":
        enters = "" if found.index_of(found.threat.rival) < found.num_kept else " enters the kept set and"
        return f"{rival}{enters} may win"
    if found.greedy:
        return f"{rival} may come first"
    return f"{found.threat.by} may drop the token, which {rival} moves ahead of or outweighs"


def _named(token: int, name: Name) -> str:
    said = name(token)
    return f"token {token}" + (f" ({said})" if said else "")
