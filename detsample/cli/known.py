"""Known answers: compares the parts of the contract that are functions of numbers with values that are kept as data.

The values in ``detsample/data/known_answers.json`` come from neither the reference nor the kernels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any

import numpy as np

import detsample.reference as reference
from detsample.reference.gumbel import gumbel
from detsample.reference.philox import philox4x32
from detsample.reference.weight import weight


def load() -> dict[str, Any]:
    """The file."""
    file = files("detsample.data").joinpath("known_answers.json")
    return dict(json.loads(file.read_text(encoding="utf-8")))


def check(answers: dict[str, Any]) -> Iterator[tuple[str, int, str]]:
    """For each part its name, how many answers there are, and the first that is wrong ("" if none is)."""
    for name, wrong in _PARTS.items():
        yield name, len(answers[name]), next((text for case in answers[name] if (text := wrong(case))), "")


def _philox(case: str) -> str:
    given, expected = case.split(" -> ")
    c0, c1, c2, c3, k0, k1 = (np.array([int(w, 16)], np.uint64) for w in given.replace(" |", "").split())
    found = " ".join(f"{int(w[0]):08x}" for w in philox4x32((c0, c1, c2, c3), (k0, k1)))
    return _difference(given, expected, found)


def _fold_in(case: list[int]) -> str:
    seed, i, expected = case
    return _difference(f"seed {seed}, i {i}", expected, reference.fold_in(seed, i))


def _weight(case: list[Any]) -> str:
    a, expected = case
    found = int(weight(np.array([int(a, 16)], np.uint32).view(np.float32))[0])
    return _difference(f"a of bits {a}", expected, found)


def _gumbel(case: list[Any]) -> str:
    s, expected = case
    return _difference(f"s {s}", expected, int(gumbel(np.array([int(s, 16)], np.uint64))[0]))


def _noise(case: list[int]) -> str:
    seed, position, token, expected = case
    found = int(reference.gumbel_noise(seed, position, token) * 2.0**32)
    return _difference(f"seed {seed}, position {position}, token {token}", expected, found)


_PARTS: dict[str, Callable[[Any], str]] = {
    "philox": _philox,
    "fold_in": _fold_in,
    "weight": _weight,
    "gumbel": _gumbel,
    "noise": _noise,
}


def _difference(case: str, expected: object, found: object) -> str:
    return "" if expected == found else f"{case}: expected {expected}, found {found}"
