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
from unittest import mock

import numpy as np
import torch
import vllm
import vllm.platforms as platforms

# Otherwise vLLM's build for CPUs leaves Triton out.
platforms.vllm_version_matches_substr = lambda text: False

import vllm.utils.torch_utils as memory  # noqa: E402
import vllm.v1.sample.ops.topk_topp_sampler as filters  # noqa: E402
import vllm.v1.worker.gpu.buffer_utils as buffers  # noqa: E402
import vllm_engine  # noqa: E402
from vllm.sampling_params import SamplingParams  # noqa: E402
from vllm.v1.worker.gpu.sample.sampler import Sampler  # noqa: E402
from vllm.v1.worker.gpu.spec_decode import rejection_sampler as verifying  # noqa: E402
from vllm.v1.worker.gpu.spec_decode.rejection_sampler import RejectionSampler  # noqa: E402
from vllm.v1.worker.gpu.states import RequestState  # noqa: E402

import detsample  # noqa: E402
from detsample.integrations.vllm import second_runner  # noqa: E402
from detsample.integrations.vllm.asking import PENALTIES, Lists  # noqa: E402
from detsample.integrations.vllm.drawing import ORDER  # noqa: E402
from detsample.processing import Processing, apply  # noqa: E402


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
MORE: list[dict[str, Any]] = [
    {"repetition_penalty": 1.3, "frequency_penalty": 0.7, "presence_penalty": -0.4, "logit_bias": {3: 9.0, 17: -2.5},
     "bad_words": ["7", "1 2", "3 4"]},
    {"min_tokens": 4, "stop_token_ids": [*range(0, 300, 3)], "repetition_penalty": 0.8},
    {"allowed_token_ids": [*range(1, 300, 4)], "frequency_penalty": 0.3, "bad_words": ["5 9 13"]},
    {"logit_bias": {5: 4.0}, "presence_penalty": 0.2},
    {},
    {"repetition_penalty": 1.7, "bad_words": ["8"]},
]
EVERY = [p | more for p, more in zip([*SEEDED, *OTHERS], MORE, strict=True)]


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
        for params in self.params:  # in place of a tokenizer
            params._bad_words_token_ids = [list(map(int, word.split())) for word in params.bad_words or []]
        self.slots = np.random.default_rng(1).permutation(SLOTS)[: len(asked)].astype(np.int32)
        for slot, params in zip(self.slots, self.params, strict=True):
            self.states.prompt_len.np[slot] = PROMPT
            self.sampler.add_request(int(slot), params)
        # As many tokens as a request had before it was preempted, few different ones.
        self.known = [PROMPT + 1 + b for b in range(len(asked))]
        self.states.prefill_len.np[self.slots] = self.known
        self.states.all_token_ids.gpu.copy_(torch.from_numpy(np.random.default_rng(5).integers(0, 20, (SLOTS, 64))))
        self.states.prompt_len.copy_to_uva()
        self.states.prefill_len.copy_to_uva()
        self.sampler.apply_staged_writes()
        self.states.prefill_len.np[self.slots] -= 1  # vLLM takes no drafts before it has drawn a token
        self.states.prefill_len.copy_to_uva()

    def batch(self, lengths: list[int], inputs: list[list[int]]) -> Any:
        """A step in which each request has its last token, and its drafts, as input; `lengths` count all of them."""
        counts = [len(x) for x in inputs]
        offsets = np.cumsum([0, *counts]).astype(np.int32)
        owner = np.repeat(np.arange(len(counts)), counts)
        local = np.concatenate([np.arange(n) for n in counts]).astype(np.int32)
        positions = np.array([lengths[b] - counts[b] + i for b, i in zip(owner, local, strict=True)])
        slots = torch.from_numpy(self.slots)
        self.states.total_len.gpu[slots.long()] = torch.tensor(lengths).int() - torch.tensor(counts).int() + 1
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


    def final(self, row: torch.Tensor, b: int, drafts: list[int]) -> torch.Tensor:
        """A row's logits with what its request asks for, behind these drafts."""
        params, tokens = self.params[b], self.states.all_token_ids.gpu[self.slots[b]].tolist()
        bias = params.logit_bias or {}
        lists = {"stop": sorted(params.all_stop_token_ids), "only": params.allowed_token_ids, "bias": list(bias),
                 "prompt": tokens[:PROMPT], "output": tokens[PROMPT : self.known[b]] + drafts}  # fmt: skip
        given: dict[str, Any] = {name: np.array([ids]) for name, ids in lists.items() if ids}
        if bias:
            given["bias_values"] = np.array([list(bias.values())], np.float32)
        words = params.bad_words_token_ids or []
        if words:
            longest = max(map(len, words))
            given["bad_words"] = np.array([[word + [-1] * (longest - len(word)) for word in words]])
        numbers = {name: getattr(params, name) for name in PENALTIES}
        asked = Processing("vllm", min_length=params.min_tokens, **given, **numbers)
        return torch.from_numpy(apply(row[None].numpy(), asked)[0])


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


def asking(count: int) -> dict[str, int]:
    """All that can be asked for, of the first `count` requests, by the quick way and with log probabilities; and of
    each seeded one alone. All of these come to one kernel: to tokens of one type.
    """
    found, types, change = {"drawn": 0, "wrong": 0, "rows": 0, "other logits": 0}, set[Any](), Lists.change

    def noting(lists: Any, logits: Any, prompt: Any, output: Any, *more: Any, **drafts: Any) -> Any:
        types.add(tuple(x.dtype for x in (*prompt, *output)))
        return change(lists, logits, prompt, output, *more, **drafts)

    several = [EVERY[:count], [p | {"logprobs": 1} for p in EVERY[:count]], *([p] for p in EVERY[:4])]
    with vllm_engine.comparing(found), mock.patch.object(Lists, "change", noting):
        for asked in several:
            engine, logits = Engine(asked), logits_of(len(asked), 9).bfloat16()
            out = engine.sampler(logits.clone(), engine.batch(engine.known, [[1]] * len(asked)))
            for b in range(min(4, len(asked))):
                due = int(engine.due(engine.final(logits[b].float(), b, []), b, engine.known[b]).token_ids[0])
                found["drawn"] += 1
                found["wrong"] += int(out.sampled_token_ids[b, 0]) != due
    return found | {"kernels": len(types)}


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


def drafted(asked: list[dict[str, Any]], parts: int = 1 << 20) -> dict[str, int]:
    """Drafts, some of them right, some wrong, some none; vLLM verifies at most so many rows at once."""
    engine, found = Engine(asked, drafts=STEPS), {"drawn": 0, "wrong": 0, "accepted": 0, "rows": 0, "other logits": 0}
    choose = np.random.default_rng(2)
    for step in range(4):
        counts = [int(choose.integers(1, STEPS + 2)) for _ in asked]
        lengths = [known + n - 1 for known, n in zip(engine.known, counts, strict=True)]
        logits, start = logits_of(sum(counts), 20 + step), np.cumsum([0, *counts])
        inputs: list[list[int]] = []
        due: list[list[int]] = []
        for b, n in enumerate(counts):
            inputs.append([1])
            due.append([])
            for i in range(n):
                final = engine.final(logits[start[b] + i], b, inputs[b][1:])
                token = int(engine.due(final, b, engine.known[b] + i).token_ids[0])
                due[b].append(token)
                inputs[b].append(token if choose.random() < 0.6 else (token + 1) % VOCAB)
        batch = engine.batch(lengths, [row[:-1] for row in inputs])
        with vllm_engine.comparing(found), mock.patch.object(verifying, "get_max_chunk_logits", return_value=parts):
            out = engine.rejection_sampler(logits.clone(), batch)
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
        "asking": asking(4),
        "asking in a mixed batch": asking(6),
        "log probabilities and kept sets": told(),
        "drafts": drafted(SEEDED),
        "drafts in a mixed batch": drafted([*SEEDED, *OTHERS]),
        "drafts, asking": drafted(EVERY[:4]),
        "drafts, asking, in a mixed batch": drafted(EVERY),
        "drafts, asking, in parts": drafted(EVERY[:4], STEPS + 2),
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
