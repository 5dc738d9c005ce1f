"""Records what engines' own code makes of logits: ``python make_processing_answers.py vllm VERSION``, or another one.

It is run where the engine is installed, on the CPU, and adds its answers to processing_answers.json beside it: inputs
and results, as the bits of fp32. The code of FastDeploy and TensorRT-LLM needs a GPU: for these, the formula in their
source is worked out step by step, and the version is the source's commit.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

FILE = Path(__file__).parent / "processing_answers.json"
V, ROWS = 40, 12


def inputs() -> dict[str, Any]:
    torch.manual_seed(21)
    logits = torch.randn(ROWS, V) * 5
    logits[:, ::13] = 0.0
    prompt, output = torch.randint(0, V, (ROWS, 7)), torch.randint(0, V // 3, (ROWS, 11))

    def pick(values: list[float]) -> torch.Tensor:
        return torch.tensor(values)[torch.randint(0, len(values), (ROWS,))]

    return {
        "logits": logits, "prompt": prompt, "output": output, "repetition": pick([1.0, 1.3, 0.7, 3.1]),
        "frequency": pick([0.0, 0.1, -0.7, 0.3]), "presence": pick([0.0, 1.7, -0.3]),
        "bias_ids": torch.stack([torch.randperm(V)[:4] for _ in range(ROWS)]), "bias": torch.randn(ROWS, 4),
        "words": torch.stack([output[:, -2], output[:, -1], torch.randint(0, V, (ROWS,))], dim=1),
    }  # fmt: skip


def vllm(x: dict[str, Any]) -> torch.Tensor:
    """The first runner's bias and bad words, then penalties; order as in `Sampler.apply_logits_processors`."""
    from vllm.model_executor.layers.utils import apply_penalties
    from vllm.v1.sample.ops.bad_words import apply_bad_words

    logits = x["logits"].clone()
    words, past = x["words"].tolist(), x["output"].tolist()
    apply_bad_words(logits, {i: [word] for i, word in enumerate(words)}, past)
    logits[torch.arange(ROWS)[:, None], x["bias_ids"]] += x["bias"]
    return apply_penalties(logits, x["prompt"], x["output"], x["presence"], x["frequency"], x["repetition"])


def sglang(x: dict[str, Any]) -> torch.Tensor:
    """The additive penalties summed up as in overlap mode, the scaling penalty, then the bias."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
    import sglang_parts

    sglang_parts.load()
    from types import SimpleNamespace

    from sglang.srt.sampling import penaltylib

    params = [
        SimpleNamespace(frequency_penalty=f, presence_penalty=p, repetition_penalty=r, min_new_tokens=0)
        for f, p, r in zip(x["frequency"].tolist(), x["presence"].tolist(), x["repetition"].tolist(), strict=True)
    ]
    batch = type("Batch", (), {"reqs": [SimpleNamespace(sampling_params=p) for p in params], "device": "cpu"})()
    names = ("Frequency", "Presence", "Repetition")
    kinds = {getattr(penaltylib, f"Batched{name}Penalizer") for name in names}
    orchestrator = penaltylib.BatchedPenalizerOrchestrator(vocab_size=V, batch=batch, penalizers=kinds)
    for step in range(x["output"].shape[1]):
        orchestrator.cumulate_output_tokens(x["output"][:, step])
    logits, additive = x["logits"].clone(), torch.zeros(ROWS, V)
    orchestrator.accumulate_additive_penalties(additive)
    logits.add_(additive)
    scaling = orchestrator.accumulate_scaling_penalties()
    logits = torch.where(logits < 0, logits * scaling, logits / scaling)  # apply_scaling_penalties is compiled
    bias = torch.zeros(ROWS, V).scatter_(1, x["bias_ids"], x["bias"])
    return logits.add_(bias)


def transformers(x: dict[str, Any]) -> torch.Tensor:
    """Bias, repetition and bad words in the order of `_get_logits_processor`, one row at a time."""
    from transformers import NoBadWordsLogitsProcessor, RepetitionPenaltyLogitsProcessor, SequenceBiasLogitsProcessor

    rows = []
    for i in range(ROWS):
        so_far = torch.cat([x["prompt"][i], x["output"][i]])[None]
        row = x["logits"][i : i + 1].clone()
        bias = {(token,): value for token, value in zip(x["bias_ids"][i].tolist(), x["bias"][i].tolist(), strict=True)}
        row = SequenceBiasLogitsProcessor(bias)(so_far, row)
        row = RepetitionPenaltyLogitsProcessor(float(x["repetition"][i]))(so_far, row)
        rows.append(NoBadWordsLogitsProcessor([x["words"][i].tolist()], eos_token_id=V)(so_far, row))
    return torch.cat(rows)


def counts(tokens: torch.Tensor) -> torch.Tensor:
    return torch.zeros(ROWS, V).scatter_add_(1, tokens, torch.ones(tokens.shape))


def repeated(x: dict[str, Any], logits: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    r = x["repetition"][:, None]
    return torch.where(seen > 0, torch.where(logits < 0, logits * r, logits / r), logits)


def fastdeploy(x: dict[str, Any]) -> torch.Tensor:
    """The formula of `update_value_by_repeat_times` in its source, for each request as if it were alone, up to the
    division by the temperature; each operation rounds.
    """
    prompt, output = counts(x["prompt"]), counts(x["output"])
    logits = repeated(x, x["logits"].scatter_add(1, x["bias_ids"], x["bias"]), prompt + output)
    less = logits - output * x["frequency"][:, None] - x["presence"][:, None]
    return torch.where(output > 0, less, logits)


def tensorrt_llm(x: dict[str, Any]) -> torch.Tensor:
    """The formula of `batchApplyPenalty` in its source, at temperature 1; each operation rounds."""
    seen = counts(x["prompt"]) + counts(x["output"])
    logits = repeated(x, x["logits"].scatter_add(1, x["bias_ids"], x["bias"]), seen)
    less = logits - x["presence"][:, None] - x["frequency"][:, None] * seen
    return torch.where(seen > 0, less, logits)


ENGINES = {
    "vllm": vllm, "sglang": sglang, "transformers": transformers, "fastdeploy": fastdeploy,
    "tensorrt-llm": tensorrt_llm,
}  # fmt: skip


def encoded(x: torch.Tensor) -> Any:
    return x.view(torch.int32).tolist() if x.dtype == torch.float32 else x.tolist()


if __name__ == "__main__":
    name = sys.argv[1]
    found = json.loads(FILE.read_text()) if FILE.exists() else {"inputs": {k: encoded(v) for k, v in inputs().items()}}
    result = encoded(ENGINES[name](inputs()))
    found[name] = {"version": sys.argv[2], "logits": result}
    FILE.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in found.items()) + "\n}\n")
