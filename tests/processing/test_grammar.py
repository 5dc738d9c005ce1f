"""A real grammar: a model writes JSON by a schema, plainly, with n-gram drafts, and as a golden file says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import detsample
from detsample import golden, speculative

MODEL = os.environ.get("DETSAMPLE_SMOLLM2", "")
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "tags": {"type": "array", "items": {"enum": ["a", "b"]},
                   "minItems": 2, "maxItems": 3}},
    "required": ["name", "tags"],
    "additionalProperties": False,
}  # fmt: skip
SEED, K, MOST = 11, 3, 40


@pytest.mark.skipif(not Path(MODEL, "config.json").is_file(), reason="DETSAMPLE_SMOLLM2 names no folder of SmolLM2")
def test_json_by_a_schema(tmp_path: Path) -> None:
    """Defect caught: a grammar's bits that are read wrong, or that a row of a draft takes from another row."""
    xgrammar = pytest.importorskip("xgrammar")
    transformers = pytest.importorskip("transformers")
    import torch

    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    vocab = model.config.vocab_size
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocab)
    compiled = xgrammar.GrammarCompiler(info).compile_json_schema(json.dumps(SCHEMA), any_whitespace=False)
    asked = [{"role": "user", "content": "A pet as JSON with a name and tags."}]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, add_special_tokens=False).input_ids

    def logits_of(tokens: list[int], rows: int) -> np.ndarray:
        with torch.no_grad():
            return model(torch.tensor([tokens])).logits[0, -rows:].numpy()

    def sets_of(matcher: Any, drafts: list[int]) -> tuple[np.ndarray, int]:
        """The sets before each draft and behind the last, as far as the grammar accepts them."""
        sets = xgrammar.allocate_token_bitmask(K + 1, vocab)
        taken = 0
        for row in range(len(drafts) + 1):
            matcher.fill_next_token_bitmask(sets, row)
            if row == len(drafts) or not matcher.accept_token(drafts[row]):
                break
            taken += 1
        matcher.rollback(taken)
        return sets.numpy(), taken

    matcher, out, rows, masks = xgrammar.GrammarMatcher(compiled), [], [], []
    while len(out) < MOST and not matcher.is_terminated():
        sets, _ = sets_of(matcher, [])
        rows.append(logits_of(prompt + out, 1))
        masks.append(sets[:1].copy())
        drawn = detsample.sample(rows[-1], SEED, position=len(out), temperature=0.8, top_p=0.95, allowed=sets[:1])
        out.append(int(drawn.token_ids[0]))
        assert matcher.accept_token(out[-1])
    assert matcher.is_terminated(), "the model did not come to an end"
    said = json.loads(tokenizer.decode(out, skip_special_tokens=True))
    assert set(said) == {"name", "tags"}
    assert set(said["tags"]) <= {"a", "b"}
    x, allowed, places = np.concatenate(rows), np.concatenate(masks), np.arange(len(out))
    how = {"position": places, "temperature": 0.8, "top_p": 0.95}
    golden.save(golden.record(x, SEED, **how, allowed=allowed, sequence=True), tmp_path / "json.json")
    recorded = golden.load(tmp_path / "json.json")
    assert [row.token_id for row in recorded.rows] == out
    assert golden.check(recorded, x, allowed=allowed).exit_status == 0

    matcher, drafted, calls = xgrammar.GrammarMatcher(compiled), [], 0
    while not matcher.is_terminated():
        so_far = prompt + drafted
        again = [i for i in range(len(so_far) - 2) if so_far[i : i + 2] == so_far[-2:]]
        guess = so_far[again[-1] + 2 : again[-1] + 2 + K] if again else []
        sets, taken = sets_of(matcher, guess)
        guess = guess[:taken]
        x = np.zeros((1, K + 1, vocab), np.float32)
        x[0, : taken + 1] = logits_of(so_far + guess, taken + 1)
        drafts = np.array([guess + [0] * (K - taken)])
        found = speculative.verify(
            x, drafts, np.array([taken]), SEED, position=len(drafted), temperature=0.8, top_p=0.95, allowed=sets[None]
        )
        for token in found.token_ids[0, : int(found.num_accepted[0]) + 1].tolist():
            assert matcher.accept_token(token)
            drafted.append(token)
        calls += 1
    assert drafted == out
    assert calls < len(out), "no draft was accepted"
