"""vLLM's second runner without a GPU: its own samplers, in Triton's interpreter, drawing with detsample.

    TRITON_INTERPRET=1 CUDA_VISIBLE_DEVICES= python tests/support/vllm_second.py

The sampler, the rejection sampler, their states and kernels are vLLM's; made up are the runner around them, and a batch
of as many fields as they read. Prints one JSON object: for each check, how many tokens were drawn and how many are not
those of `detsample.sample` of the row alone.
"""

from __future__ import annotations

import json
import types
from typing import Any

import numpy as np
import torch
import vllm
import vllm.platforms as platforms

# Otherwise vLLM's build for CPUs leaves Triton out.
platforms.vllm_version_matches_substr = lambda text: False

import vllm.utils.torch_utils as memory  # noqa: E402
import vllm.v1.sample.ops.topk_topp_sampler as filters  # noqa: E402
import vllm.v1.worker.gpu.buffer_utils as buffers  # noqa: E402
from vllm.sampling_params import SamplingParams  # noqa: E402
from vllm.v1.worker.gpu.sample.sampler import Sampler  # noqa: E402
from vllm.v1.worker.gpu.spec_decode.rejection_sampler import RejectionSampler  # noqa: E402
from vllm.v1.worker.gpu.states import RequestState  # noqa: E402

import detsample  # noqa: E402
from detsample.integrations.vllm import second_runner  # noqa: E402
from detsample.integrations.vllm.drawing import ORDER  # noqa: E402


class Memory:
    """In place of pinned memory that a GPU reads."""

    def __init__(self, size: Any, dtype: torch.dtype) -> None:
        self.cpu = torch.zeros(size, dtype=dtype)
        self.np = self.cpu.numpy()

    def uva(self, n: int | None = None) -> torch.Tensor:
        return self.cpu[:n]


buffers.UvaBuffer = buffers.NonUvaBuffer = Memory
memory.PIN_MEMORY, memory.is_pin_memory_available = False, lambda: False  # in vLLM 0.33, and before
filters.HAS_TRITON = False  # its kernel for top-k and top-p does not run in the interpreter

VOCAB, SLOTS, STEPS, PROMPT = 300, 8, 3, 5
SEEDED: list[dict[str, Any]] = [
    {"seed": 5, "temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
    {"seed": -6, "temperature": 1.0},
    {"seed": 7, "temperature": 0.0},
    {"seed": 11, "temperature": 1.3, "top_p": 0.4},
]
OTHERS: list[dict[str, Any]] = [{"temperature": 1.0, "top_p": 0.5}, {"temperature": 0.7}]


class Engine:
    """A runner of vLLM's second kind, as far as its samplers know one."""

    def __init__(self, asked: list[dict[str, Any]], every: bool = False, drafts: int = 0, **more: Any) -> None:
        device = torch.device("cpu")
        self.states = RequestState(SLOTS, 64, 64, drafts, VOCAB, device)
        nothing = types.SimpleNamespace(reasoning_config=None)
        self.sampler = Sampler(nothing, SLOTS, VOCAB, device, self.states, num_speculative_tokens=drafts, **more)
        spec = types.SimpleNamespace(
            num_speculative_tokens=drafts, rejection_sample_method="standard", enable_adaptive_verification=False,
            synthetic_acceptance_rates=None, fly_entropy_threshold=0.3, fly_entropy_top_k=3,
        )  # fmt: skip
        self.rejection_sampler = RejectionSampler(self.sampler, spec, device) if drafts else None
        self.runner = types.SimpleNamespace(
            device=device, max_num_reqs=SLOTS, sampler=self.sampler, rejection_sampler=self.rejection_sampler,
            model_config=types.SimpleNamespace(logprobs_mode=self.sampler.logprobs_mode),
            parallel_config=types.SimpleNamespace(pipeline_parallel_size=1),
            structured_outputs_worker=types.SimpleNamespace(
                apply_grammar_bitmask=None, grammar_bitmask=np.zeros((SLOTS, -(-VOCAB // 32)), np.int32)
            ),
        )
        self.ours = second_runner.install(self.runner, every)
        self.params = [SamplingParams(**p) for p in asked]
        self.slots = np.random.default_rng(1).permutation(SLOTS)[: len(asked)].astype(np.int32)
        for slot, params in zip(self.slots, self.params, strict=True):
            self.states.prompt_len.np[slot] = self.states.prefill_len.np[slot] = PROMPT
            self.sampler.add_request(int(slot), params)
        self.states.prompt_len.copy_to_uva()
        self.states.prefill_len.copy_to_uva()
        self.sampler.apply_staged_writes()

    def batch(self, lengths: list[int], inputs: list[list[int]]) -> Any:
        """A step in which each request has its last token, and its drafts, as input; `lengths` count all of them."""
        counts = [len(x) for x in inputs]
        offsets = np.cumsum([0, *counts]).astype(np.int32)
        owner = np.repeat(np.arange(len(counts)), counts)
        local = np.concatenate([np.arange(n) for n in counts]).astype(np.int32)
        positions = np.array([lengths[b] - counts[b] + i for b, i in zip(owner, local, strict=True)])
        slots = torch.from_numpy(self.slots)
        return types.SimpleNamespace(
            num_reqs=len(counts), idx_mapping=slots, idx_mapping_np=self.slots, expanded_idx_mapping=slots[owner],
            expanded_local_pos=torch.from_numpy(local), cu_num_logits=torch.from_numpy(offsets),
            cu_num_logits_np=offsets, logits_indices=torch.arange(len(owner)), positions=torch.from_numpy(positions),
            input_ids=torch.from_numpy(np.concatenate(inputs).astype(np.int32)),
            seq_lens=torch.tensor(lengths, dtype=torch.int32),
            seq_lens_cpu_upper_bound=torch.tensor(lengths, dtype=torch.int32),
            is_prefilling_np=np.zeros(len(counts), bool), num_draft_tokens=len(owner) - len(counts),
        )  # fmt: skip

    def due(self, row: torch.Tensor, b: int, position: int, **more: Any) -> Any:
        names = ("topp_seed", "top_k", "temperature", "top_p", "min_p")
        given = dict(zip(names, self.ours._slots[self.slots[b]].values, strict=True))
        return detsample.sample(row[None].numpy(), position=position, **given, **ORDER, **more)


def logits_of(rows: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, VOCAB)).astype(np.float32) * 4)


def plain(asked: list[dict[str, Any]], every: bool = False, **more: Any) -> dict[str, int]:
    """Steps without drafts."""
    engine, found = Engine(asked, every, **more), {"drawn": 0, "wrong": 0}
    for step in range(3):
        logits, lengths = logits_of(len(asked), step), [PROMPT + 1 + step + b for b in range(len(asked))]
        out = engine.sampler(logits.clone(), engine.batch(lengths, [[1]] * len(asked)))
        assert out.num_sampled.tolist() == [1] * len(asked)
        for b, params in enumerate(engine.params):
            if params.seed is not None or every:
                found["drawn"] += 1
                due = int(engine.due(logits[b], b, lengths[b]).token_ids[0])
                found["wrong"] += int(out.sampled_token_ids[b, 0]) != due
    return found


def penalised() -> dict[str, int]:
    """A bias: vLLM makes the logits final first."""
    asked = [p | {"logit_bias": {3: 20.0}} for p in SEEDED]
    engine, logits = Engine(asked), logits_of(4, 9)
    lengths = [PROMPT + 1 + b for b in range(4)]
    out = engine.sampler(logits.clone(), engine.batch(lengths, [[1]] * 4))
    logits[:, 3] += 20
    due = [int(engine.due(logits[b], b, lengths[b]).token_ids[0]) for b in range(4)]
    return {"drawn": 4, "wrong": sum(a != b for a, b in zip(out.sampled_token_ids[:, 0].tolist(), due, strict=True))}


def told() -> dict[str, int]:
    """Log probabilities of the draw, among requests without a seed; and kept sets."""
    asked = [p | {"logprobs": 2} for p in [*SEEDED, *OTHERS]]
    engine = Engine(asked, logprobs_mode="processed_logprobs", return_sampling_mask=True)
    logits, lengths = logits_of(6, 4), [PROMPT + 1 + b for b in range(6)]
    out = engine.sampler(logits.clone(), engine.batch(lengths, [[1]] * 6))
    found = {"drawn": 4, "wrong": 0}
    for b in range(4):
        due = engine.due(logits[b], b, lengths[b], return_mask="bool")
        bits = out.logprobs_tensors.logprobs[b, 0].numpy().view(np.int32)
        same = int(out.sampled_token_ids[b, 0]) == due.token_ids[0] and bits == due.logprobs.view(np.int32)[0]
        found["wrong"] += not (same and kept_of(out.sampling_mask_tensors, b) == np.flatnonzero(due.mask[0]).tolist())
    return found


def kept_of(tensors: Any, row: int) -> list[int]:
    """A row's kept set, from vLLM's bits."""
    bits = np.unpackbits(tensors.packed_mask[row].numpy(), bitorder="little")[:VOCAB]
    return [int(x) for x in np.flatnonzero(bits)]


def drafted(asked: list[dict[str, Any]]) -> dict[str, int]:
    """Drafts, some of them right, some wrong, some none."""
    engine, found = Engine(asked, drafts=STEPS), {"drawn": 0, "wrong": 0, "accepted": 0}
    choose = np.random.default_rng(2)
    for step in range(4):
        counts = [int(choose.integers(1, STEPS + 2)) for _ in asked]
        lengths = [PROMPT + 3 + step + b + n for b, n in enumerate(counts)]
        logits, start = logits_of(sum(counts), 20 + step), np.cumsum([0, *counts])
        due = [
            [int(engine.due(logits[start[b] + i], b, lengths[b] - n + 1 + i).token_ids[0]) for i in range(n)]
            for b, n in enumerate(counts)
        ]
        inputs = [[1, *[t if choose.random() < 0.6 else (t + 1) % VOCAB for t in row[:-1]]] for row in due]
        out = engine.rejection_sampler(logits.clone(), engine.batch(lengths, inputs))
        for b, params in enumerate(engine.params):
            if params.seed is None:
                continue
            right = 0
            while right < counts[b] - 1 and inputs[b][1 + right] == due[b][right]:
                right += 1
            got = out.sampled_token_ids[b, : int(out.num_sampled[b])].tolist()
            found["drawn"] += len(got)
            found["accepted"] += right
            found["wrong"] += got != due[b][: right + 1]
    return found


def main() -> None:
    """Run all checks."""
    found: dict[str, Any] = {
        "vllm": vllm.__version__,
        "all seeded": plain(SEEDED),
        "in a mixed batch": plain([*SEEDED, *OTHERS]),
        "all drawn": plain([*SEEDED, *OTHERS], True),
        "with a bias": penalised(),
        "log probabilities and kept sets": told(),
        "drafts": drafted(SEEDED),
        "drafts in a mixed batch": drafted([*SEEDED, *OTHERS]),
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
