"""Compiles, loads and uses once, while vLLM warms up, everything that its steps will launch."""

from __future__ import annotations

from typing import Any

import torch

import detsample
from detsample.integrations.vllm.drawing import NOBODY, Rows
from detsample.processing import Processing, apply


def warm(runner: Any, ours: Any) -> None:
    """Draw, and verify if the engine drafts, as many rows as a batch can have.

    vLLM takes what memory this needs off that of the cache, and complains about whatever is compiled later.
    """
    config, drawer = runner.model_config, ours.drawer
    device, vocab = torch.device(runner.device), config.get_vocab_size()
    if device.type != "cuda":
        return
    keeps = ours.processed_mode or getattr(config, "return_sampling_mask", False)
    dtypes = {str(runner.dtype).removeprefix("torch."), "float32"}  # fp32: behind penalties and biases
    for position in ("int32", "int64"):
        detsample.warmup(
            "torch", device.index or 0, dtypes=sorted(dtypes), masks=["bits"] if keeps else [],
            parameters={"position": position}, allowed=ours.sets is not None,
        )  # fmt: skip
    drafts = getattr(runner.speculative_config, "num_speculative_tokens", 0) if runner.speculative_config else 0
    rows = runner.max_num_reqs
    drawer.load(Rows([NOBODY] * rows, device))
    position = torch.zeros(rows, dtype=torch.int32, device=device)
    bounds = torch.zeros(rows, dtype=torch.int64, device=device)
    tokens = bounds.to(torch.int64 if ours.sets is None else torch.int32), bounds, bounds  # as the runners have them
    asked = Processing(prompt=tokens, output=tokens)
    for dtype in {runner.dtype, torch.float32}:
        logits = torch.zeros((rows, vocab), dtype=dtype, device=device)
        apply(logits, asked, in_place=True)
        for sets in (None, ours.sets):
            drawer.draw(logits, position, sets)
        if keeps:
            drawer.draw_and_keep(logits[:2], position[:2]).logprobs(2)  # of one row, a column lies like no other
        if drafts:
            few, inputs = logits[: drafts + 1], bounds[: drafts + 1]
            offsets = torch.tensor([0, len(few)], dtype=torch.int32, device=device)
            drawer.verify(few, inputs, offsets, inputs, drafts)
    torch.cuda.synchronize(device)
