"""PaddleFormers: its own `generate` with a small Llama of random weights on the CPU, drawing with detsample."""

from __future__ import annotations

import doctest
import sys
from typing import Any

import detsample.reference as reference
import numpy as np
import pytest
from paths import ROOT

pytest.importorskip("paddleformers", reason="PaddleFormers is NOT installed: its integration is not tested here")

import paddle

import detsample
from detsample.integrations.paddleformers import DetsampleLogitsProcessor

sys.path.insert(0, str(ROOT / "docs" / "examples"))
import paddleformers_generate as example

HOW = {"temperature": 0.8, "top_p": 0.9}


class Watched(DetsampleLogitsProcessor):
    """Compares each step's token with the one that its row gives alone."""

    def __call__(self, input_ids: Any, logits: Any) -> Any:
        out = super().__call__(input_ids, logits)
        of = self._prompts
        due = reference.sample(logits.numpy(), position=input_ids.shape[1] - of.padding, **of.columns)
        assert out.argmax(-1).tolist() == due.token_ids.tolist()
        assert self._told[-1].numpy().view(np.int32).tolist() == due.logprobs.view(np.int32).tolist()
        return out


def test_each_prompt_is_drawn_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect caught: padding that counts as positions, a seed of another row, PaddleFormers' own draw or filters."""
    monkeypatch.setattr(example, "DetsampleLogitsProcessor", Watched)
    together, told = example.generate(example.prompts, example.seeds)
    for i in range(3):
        alone, logprobs = example.generate(example.prompts[i : i + 1], example.seeds[i : i + 1])
        assert alone[0] == together[i]
        assert logprobs.shape == [1, 8]
        assert np.allclose(logprobs.numpy(), told.numpy()[i : i + 1], atol=1e-4)  # the model's, in another batch


def test_samples_have_folded_seeds() -> None:
    """Defect caught: samples of a prompt that are alike, or that have a neighbour's stream."""
    samples, _ = example.generate(example.prompts[1:2], 12, samples=2)
    folded = [detsample.fold_in(12, i) for i in range(2)]
    assert samples == [example.generate(example.prompts[1:2], seed)[0][0] for seed in folded]
    assert samples[0] != samples[1]


def test_penalties_come_before_the_draw() -> None:
    """Defect caught: a processor that sees logits which PaddleFormers then still changes."""
    inputs = {"input_ids": paddle.to_tensor([[5, 9, 12]])}
    plain, penalised = (
        example.model.generate(
            **inputs, **Watched(3, **HOW).keywords(), max_new_tokens=8, repetition_penalty=penalty
        )[0].tolist()
        for penalty in (1.0, 50.0)
    )
    assert plain != penalised
    assert len(set(penalised[0])) == 8


def test_beams_and_unknown_padding_are_refused() -> None:
    """Defect caught: scores of beams taken for logits; padded prompts that are drawn at other positions."""
    draw = DetsampleLogitsProcessor(3)
    with pytest.raises(ValueError, match="scores must have 1 rows"):
        example.model.generate(
            paddle.to_tensor([[5, 9]]), decode_strategy="beam_search", num_beams=2, max_new_tokens=2,
            logits_processors=draw.keywords()["logits_processors"],
        )  # fmt: skip
    with pytest.raises(ValueError, match="attention_mask must be given for several prompts"):
        DetsampleLogitsProcessor([1, 2])
    with pytest.raises(ValueError, match="zeros on the left"):
        DetsampleLogitsProcessor(3, attention_mask=paddle.to_tensor([[1, 0]]))


def test_examples_of_the_module() -> None:
    """Defect caught: a documented example that does not run as shown."""
    result = doctest.testmod(sys.modules[DetsampleLogitsProcessor.__module__])
    assert result.attempted > 0
    assert result.failed == 0
