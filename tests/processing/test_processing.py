"""Logits changed as requests ask: the kernel against the reference, and both against what engines do."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import processing_cases as cases
import pytest
from detsample.reference import processing as reference
from kernel_path import bits
from levels import amount
from paths import TESTS

from detsample.processing import CONVENTIONS, Processing, apply

F32 = np.float32
ROW = np.array([[4.0, -1.0, 2.0, 0.0, 0.5]], F32)


def table(*rows: list[int]) -> np.ndarray:
    longest = max(map(len, rows))
    return np.array([row + [-1] * (longest - len(row)) for row in rows])


@pytest.mark.full("more of what requests ask", every=4)
@pytest.mark.parametrize("first", range(0, 120, 20))
def test_the_kernel_gives_the_references_bits(first: int) -> None:
    """Defect caught: a token that changes twice or not at all, a step that is rounded otherwise, a list that is read
    wrong, a row of a draft that sees too much or too little, another request's row that is written.
    """
    pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")
    for seed in range(first, first + amount(20, 4)):
        x, asked, how = cases.case(seed)
        found, expected = cases.by_kernel(x, asked, how), apply(x, asked, **how)
        assert (bits(found) == bits(expected)).all(), (seed, asked, how)


def test_rows_longer_than_a_block() -> None:
    """Defect caught: only the first block of lists, or of a row that is forbidden but for some, is seen."""
    pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")
    for seed in (7, 8):
        x, asked, how = cases.case(seed, vocab=2100, longest=2500)
        asked = dataclasses.replace(asked, only=None if seed == 7 else np.array([[3, 2000]] * len(x)))
        if seed == 8:
            x, how = x.reshape(-1, 2100)[: len(x)], {}
        assert (bits(cases.by_kernel(x, asked, how)) == bits(apply(x, asked, **how))).all()


def test_what_each_thing_does() -> None:
    """Defect caught: both the kernel and the reference wrong in the same way."""
    minus = -np.inf
    told: list[tuple[dict[str, Any], list[float]]] = [
        ({"bias": table([0, 0, 1]), "bias_values": F32([[9, 1, -2]])}, [5, -3, 2, 0, 0.5]),
        ({"banned": table([2, 9])}, [4, -1, minus, 0, 0.5]),
        ({"only": table([1, 4])}, [minus, -1, minus, minus, 0.5]),
        ({"only": table([-1])}, [4, -1, 2, 0, 0.5]),
        ({"stop": table([0]), "min_length": 3, "output": table([3, 3])}, [minus, -1, 2, 0, 0.5]),
        ({"stop": table([0]), "min_length": 2, "output": table([3, 3])}, [4, -1, 2, 0, 0.5]),
        (
            {"bad_words": np.array([[[3, 1, 0], [1, 2, -1], [4, -1, -1]]]), "output": table([3, 1])},
            [minus, -1, minus, 0, minus],
        ),
        ({"bad_words": np.array([[[3, 1, 0]]]), "prompt": table([3]), "output": table([1])}, [4, -1, 2, 0, 0.5]),
        ({"repetition_penalty": 2.0, "prompt": table([0]), "output": table([1])}, [2, -2, 2, 0, 0.5]),
        ({"frequency_penalty": 0.5, "prompt": table([0]), "output": table([1, 1])}, [4, -2, 2, 0, 0.5]),
        ({"presence_penalty": 0.5, "prompt": table([0]), "output": table([1, 1])}, [4, -1.5, 2, 0, 0.5]),
    ]
    for given, expected in told:
        assert apply(ROW, Processing(**given)).tolist() == [expected], given


def test_conventions_differ_where_they_say() -> None:
    """Defect caught: an engine's name that means another engine's order."""
    asked = Processing(
        prompt=table([0]), output=table([2, 2]), bias=table([0, 2]), bias_values=F32([[1, 1]]), repetition_penalty=3.0,
        frequency_penalty=0.25, presence_penalty=0.5,
    )  # fmt: skip
    found = {}
    for name in ("vllm", "sglang", "fastdeploy", "tensorrt-llm"):
        found[name] = apply(ROW, dataclasses.replace(asked, convention=name))[0, [0, 2]].tolist()
    third = float(F32(1) / F32(3))
    assert found["vllm"] == [F32(5) * F32(third), F32(3) * F32(third) - F32(0.5) - F32(0.5)]
    assert found["sglang"] == [5.0, F32(1) / F32(3) + F32(1)]
    assert found["fastdeploy"] == [F32(5) / F32(3), F32(1) - F32(0.5) - F32(0.5)]
    assert found["tensorrt-llm"] == [F32(5) / F32(3) - F32(0.5) - F32(0.25), F32(0)]
    words = Processing("transformers", prompt=table([3]), output=table([1]), bad_words=np.array([[[3, 1, 0]]]))
    assert apply(ROW, words)[0, 0] == -np.inf


def test_rows_of_a_draft_are_the_rows_of_plain_decoding() -> None:
    """Defect caught: a speculative stream whose penalties are not those of the same tokens decoded one by one."""
    rng = np.random.default_rng(3)
    for seed in range(30):
        x, asked, how = cases.case(seed, vocab=30)
        requests, width = len(how.get("draft_tokens", x)), 4
        rows = rng.standard_normal((requests, width, 30)).astype(F32)
        drafts, output = rng.integers(0, 30, (requests, width - 1)), rng.integers(0, 30, (requests, 5))
        asked = dataclasses.replace(asked, output=output)
        whole = apply(rows, asked, draft_tokens=drafts)
        for step in range(width):
            so_far = dataclasses.replace(asked, output=np.concatenate([output, drafts[:, :step]], axis=1))
            assert (bits(apply(rows[:, step], so_far)) == bits(whole[:, step])).all()


def test_in_place_and_not() -> None:
    """Defect caught: the caller's logits that change unasked, or do not change."""
    x, asked = ROW.copy(), Processing(banned=table([0]))
    assert apply(x, asked)[0, 0] == -np.inf
    assert (x == ROW).all()
    assert apply(x, asked, in_place=True) is x
    assert x[0, 0] == -np.inf
    half = np.float16([[1.0, 2.0]])
    assert apply(half, asked).dtype == F32


@pytest.mark.parametrize("name", ["torch", "paddle"])
def test_tensors_of_frameworks(name: str) -> None:
    """Defect caught: a framework whose tensors are copied where they should change, or lose their type."""
    module = pytest.importorskip(name)
    make = module.tensor if name == "torch" else module.to_tensor
    x, asked = make(ROW.copy()), Processing(output=make(table([0, 0])), repetition_penalty=make(F32([3.0])))
    expected = apply(ROW, Processing(output=table([0, 0]), repetition_penalty=3.0))
    assert (bits(apply(x, asked).numpy()) == bits(expected)).all()
    assert (x.numpy() == ROW).all()
    apply(x, asked, in_place=True)
    assert (bits(x.numpy()) == bits(expected)).all()
    short = make(ROW.copy()).to(module.bfloat16) if name == "torch" else make(ROW.copy()).astype("bfloat16")
    apply(short, asked, in_place=True)
    assert float(short[0, 0]) == 1.3359375  # 4/3 in bf16


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"convention": "llama"}, ValueError, "convention must be one of 'vllm', .* got 'llama'"),
    ({"output": [[1]]}, TypeError, "output must be a numpy tensor"),
    ({"output": np.zeros((2, 3), np.int64)}, ValueError, r"output must have shape \[1, 3\], got \[2, 3\]"),
    ({"output": np.zeros((1, 3), F32)}, TypeError, "output must be of type int64 or int32, got float32"),
    ({"output": (np.zeros(3, np.int64), np.zeros(1, np.int64))}, ValueError, "triple"),
    ({"bias": table([1])}, ValueError, "bias and bias_values"),
    ({"bias": table([1]), "bias_values": np.zeros((1, 2), F32)}, ValueError, "bias_values must have shape"),
    ({"repetition_penalty": 0.0}, ValueError, "repetition_penalty must be above 0, got 0.0"),
    ({"frequency_penalty": float("nan")}, ValueError, "frequency_penalty must be a finite number, got nan"),
    ({"min_length": -1}, ValueError, "min_length must be between 0"),
    ({"bad_words": table([1])}, ValueError, "bad_words must have shape"),
    ({"convention": "transformers", "presence_penalty": 1.0}, ValueError, "presence_penalty must be 0"),
]


@pytest.mark.parametrize(("given", "kind", "message"), WRONG)
def test_errors_name_the_argument(given: dict[str, Any], kind: type[Exception], message: str) -> None:
    """Defect caught: a mistake that is silent, or a message of which nobody knows what it is about."""
    with pytest.raises(kind, match=message):
        apply(ROW, Processing(**given))


def test_the_reference_knows_the_same_conventions() -> None:
    """Defect caught: a convention in one of the two only, or with other rules."""
    names = ("reciprocal", "output_repeats", "prompt_counts", "presence_first", "summed", "prompt_in_words")
    for name, how in reference.CONVENTIONS.items():
        assert sum(getattr(how, field) << i for i, field in enumerate(names)) == CONVENTIONS[name]
    assert list(reference.CONVENTIONS) == list(CONVENTIONS)


ANSWERS = json.loads((TESTS / "data" / "processing_answers.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [name for name in ANSWERS if name != "inputs"])
def test_the_bits_are_those_of_the_engine(name: str) -> None:
    """Defect caught: an engine's name that gives other bits than the engine's own code, or the formula in its source,
    which was recorded.
    """
    given = {key: np.array(value) for key, value in ANSWERS["inputs"].items()}
    names = ("logits", "repetition", "frequency", "presence", "bias")
    real = {key: given[key].astype(np.int32).view(F32) for key in names}
    additive = {"frequency_penalty": real["frequency"], "presence_penalty": real["presence"]}
    words = {"bad_words": given["words"][:, None]} if name in ("vllm", "transformers") else {}
    asked = Processing(
        name, prompt=given["prompt"], output=given["output"], bias=given["bias_ids"], bias_values=real["bias"],
        repetition_penalty=real["repetition"], **words, **({} if name == "transformers" else additive),
    )  # fmt: skip
    found = apply(real["logits"], asked)
    assert (found.view(np.int32) == np.array(ANSWERS[name]["logits"], np.int32)).all()
