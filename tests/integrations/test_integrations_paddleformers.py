"""PaddleFormers: its own `generate` with a small Llama of random weights on the CPU, drawing with detsample."""

from __future__ import annotations

import sys
from typing import Any

import detsample.reference as reference
import numpy as np
import pytest
from paths import ROOT

pytest.importorskip("paddleformers", reason="PaddleFormers is NOT installed: its integration is not tested here")

import paddle

import detsample
from detsample.integrations import paddleformers as integration

sys.path.insert(0, str(ROOT / "docs" / "examples"))
import paddleformers_generate as example

HOW = {"temperature": 0.8, "top_p": 0.9, "max_new_tokens": 8}


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Compares each step's tokens and log probabilities with those of the reference, and counts the steps."""
    draw, steps = integration._Draw.__call__, []

    def call(self: Any, input_ids: Any, logits: Any) -> Any:
        before = logits.numpy().copy()
        out = draw(self, input_ids, logits)
        of = self.prompts
        due = reference.sample(before, position=input_ids.shape[1] - of.padding, **of.columns)
        assert out.argmax(-1).tolist() == due.token_ids.tolist()
        assert self.told[-1].numpy().view(np.int32).tolist() == due.logprobs.view(np.int32).tolist()
        steps.append(len(before))
        return out

    monkeypatch.setattr(integration._Draw, "__call__", call)
    return steps


def test_each_prompt_is_drawn_as_alone(watched: list[int]) -> None:
    """Defect caught: padding that counts as positions, a seed of another row, PaddleFormers' own draw or filters."""
    together = integration.generate(example.model, example.seeds, **example.batch(example.prompts), **HOW)
    assert watched == [3] * 8
    assert together.logprobs.shape == [3, 8]
    for i in range(3):
        one = example.batch(example.prompts[i : i + 1])
        alone = integration.generate(example.model, example.seeds[i], **one, **HOW)
        assert alone.token_ids[0].tolist() == together.token_ids[i].tolist()
        # The model's own logits differ a little in another batch.
        assert np.abs(alone.logprobs.numpy()[0] - together.logprobs.numpy()[i]).max() < 1e-3


def test_samples_have_folded_seeds() -> None:
    """Defect caught: samples of a prompt that are alike, or that have a neighbour's stream."""
    one = example.batch(example.prompts[1:2])
    samples = integration.generate(example.model, 12, **one, **HOW, num_return_sequences=2).token_ids.tolist()
    folded = [detsample.fold_in(12, i) for i in range(2)]
    assert samples == [integration.generate(example.model, s, **one, **HOW).token_ids[0].tolist() for s in folded]
    assert samples[0] != samples[1]


def test_penalties_come_before_the_draw() -> None:
    """Defect caught: a processor that sees logits which PaddleFormers then still changes."""
    one = example.batch(example.prompts[:1])
    plain, penalised = (
        integration.generate(example.model, 3, **one, **HOW, repetition_penalty=x).token_ids.tolist()
        for x in (1.0, 0.02)  # below 1 it favours the tokens that are there already
    )
    assert plain != penalised
    assert len(set(penalised[0])) < 8


def test_what_would_change_the_tokens_is_refused() -> None:
    """Defect caught: beams; padded prompts that are drawn at other positions; a model that stays changed."""
    one = example.batch(example.prompts[:1])
    with pytest.raises(TypeError, match="num_beams"):
        integration.generate(example.model, 3, **one, **HOW, num_beams=2)
    with pytest.raises(ValueError, match="scores must have 2 rows"):
        integration.generate(example.model, [3, 4], attention_mask="unpadded", input_ids=one["input_ids"], **HOW)
    with pytest.raises(ValueError, match="attention_mask must be given for several prompts"):
        integration.generate(example.model, [1, 2], input_ids=one["input_ids"], **HOW)
    with pytest.raises(ValueError, match="zeros on the left"):
        integration.generate(example.model, 3, attention_mask=paddle.to_tensor([[1, 0]]), **HOW)
    assert "get_logits_processor" not in vars(example.model)
