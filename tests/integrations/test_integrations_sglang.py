"""SGLang with detsample as the backend: its sampler class, batch and log probabilities on the CPU, and its engine."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import detsample

if find_spec("sglang") is None:
    pytest.skip("SGLang is NOT installed: its backend is not tested here", allow_module_level=True)

import sglang_parts
import torch
import vllm_engine

SAMPLER = sglang_parts.load()

from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo  # noqa: E402
from sglang.srt.sampling.sampling_params import SamplingParams  # noqa: E402

from detsample.integrations.sglang import BACKEND, DetsampleSampler, register, routing, unregister  # noqa: E402

VOCABULARY = 300
PARAMS: list[dict[str, Any]] = [
    {"sampling_seed": 5, "temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
    {"sampling_seed": -6, "temperature": 1.0},
    {"sampling_seed": 7, "temperature": 0.0},
    {"sampling_seed": 11, "temperature": 1.3, "top_p": 0.4},
    {"sampling_seed": None, "temperature": 1.0, "min_p": 0.2},
]


@pytest.fixture(autouse=True)
def backend() -> Any:
    register()
    yield
    unregister()


def batch_of(params: list[dict[str, Any]], masked: bool = False) -> tuple[Any, Any]:
    """SGLang's own information of a batch, and the requests."""
    requests = [
        types.SimpleNamespace(
            sampling_params=SamplingParams(**p), custom_logit_processor=None, return_sampling_mask=masked and i != 1,
            sampling_logprobs_mode=None,
        )
        for i, p in enumerate(params)
    ]  # fmt: skip
    for request in requests:
        request.sampling_params.normalize(None)
    return information(requests), requests


class Batch:
    """As much of a batch as its information is made of, which refers to it weakly."""

    device = "cpu"

    def __init__(self, requests: list[Any]) -> None:
        self.reqs = requests


def information(requests: list[Any]) -> Any:
    batch = Batch(requests)
    info = SamplingBatchInfo.from_schedule_batch(batch, VOCABULARY)
    info.kept_alive = batch
    return info


def logits_of(rows: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, VOCABULARY)).astype(np.float32) * 4)


def due(row: torch.Tensor, params: Any, position: int) -> Any:
    """The draw of a row alone."""
    return detsample.sample(
        row[None].numpy(), params.sampling_seed, position=position, temperature=params.temperature, top_k=params.top_k,
        top_p=params.top_p, min_p=params.min_p, filter_order="joint", return_mask="bool",
    )  # fmt: skip


def drawn(info: Any, logits: torch.Tensor, positions: torch.Tensor, told: bool = False) -> tuple[torch.Tensor, Any]:
    output = types.SimpleNamespace(next_token_logits=logits)
    rows = len(logits)
    tokens = DetsampleSampler()(output, info, told, [2] * rows, [None] * rows, positions)
    return tokens, output


def test_the_factory_is_the_backends() -> None:
    """Defect caught: a backend that SGLang does not know, or that is none of its samplers."""
    assert isinstance(SAMPLER.create_sampler(BACKEND), DetsampleSampler)
    assert issubclass(DetsampleSampler, SAMPLER.Sampler)


def test_arguments_keep_the_backend() -> None:
    """Defect caught: SGLang's own sampler on a CPU or with deterministic inference, where detsample was asked for."""
    routing.declare_resolution.reset_mock()
    for given in ({"sampling_backend": "pytorch"}, {"sampling_backend": BACKEND, "_resolution_finished": True}):
        routing.ServerArgs.resolve_once(types.SimpleNamespace(**given))
    routing.declare_resolution.assert_not_called()
    args = types.SimpleNamespace(sampling_backend=BACKEND)
    routing.ServerArgs.resolve_once(args)
    routing.declare_resolution.assert_called_once_with(args, BACKEND, sampling_backend=BACKEND)


def test_each_row_is_drawn_as_alone_whatever_leaves_the_batch() -> None:
    """Defect caught: min-p beside seeds, which SGLang refuses; a position off by one; seeds that are lost."""
    info, requests = batch_of(PARAMS)
    assert info.sampling_seed[:4].tolist() == [5, -6, 7, 11]
    positions, rows = torch.tensor([3, 9, 1, 30, 7]), [0, 1, 2, 3, 4]
    for step in range(2):
        logits = logits_of(len(rows), step)
        before = logits.clone()
        tokens, _ = drawn(info, logits, positions)
        assert torch.equal(logits, before)
        for i, row in enumerate(rows):
            out = due(before[i], requests[row].sampling_params, int(positions[i]) + 1)
            assert int(tokens[i]) == int(out.token_ids[0])
        if step == 0:
            rows = [0, 3, 4]
            keep = torch.tensor(rows)
            info.filter_batch(rows, keep)
            positions = positions[keep] + 1


def test_a_request_without_a_seed_keeps_the_one_it_got() -> None:
    """Defect caught: 42 for everybody; another seed where a request is scheduled anew."""
    first, requests = batch_of(PARAMS[4:] * 2)
    again = information(requests)
    assert first.sampling_seed.tolist() == again.sampling_seed.tolist()
    assert first.sampling_seed[0] != first.sampling_seed[1]


def test_log_probabilities_and_kept_sets_are_told() -> None:
    """Defect caught: the probabilities of overwritten logits; a kept set that is not the one that was drawn from."""
    info, requests = batch_of(PARAMS, masked=True)
    logits, positions = logits_of(5, 7), torch.tensor([3, 9, 1, 30, 7])
    tokens, output = drawn(info, logits, positions, told=True)
    heat = info.temperatures
    expected = torch.log_softmax(logits / heat, -1).gather(1, tokens.long()[:, None])[:, 0]
    assert torch.equal(torch.as_tensor(output.next_token_logprobs).flatten(), expected)
    kept = output.sampling_mask_output
    for i, row in enumerate((0, 2, 3, 4)):
        out = due(logits[row], requests[row].sampling_params, int(positions[row]) + 1)
        ids = kept.token_ids[i, : int(kept.lengths[i])].tolist()
        assert sorted(ids) == np.flatnonzero(out.mask[0]).tolist()
        assert kept.selected_logprobs[i].numpy().view(np.int32) == out.logprobs.view(np.int32)[0]
        assert int(kept.statuses[i]) == 0


@pytest.mark.full("generates with a real model")
def test_engine_requests_do_not_notice_their_neighbours(tmp_path: Path) -> None:
    """Defect caught: a backend that SGLang's engine drops on its way; a token that depends on who is beside it or on
    being preempted; log probabilities and kept sets that are not the row's.
    """
    program = Path(sglang_parts.__file__).with_name("sglang_engine.py")
    command = [sys.executable, str(program), str(vllm_engine.model_folder(tmp_path)), "--requests", "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    if done.returncode == 77:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["backend"] == ["detsample"]
    for name, found in report["servings"].items():
        assert found["requests_that_differ_with_the_same_logits"] == 0, name
        assert found["tokens_not_those_of_their_logits_alone"] == 0, name
        assert found["logprobs_wrong"] == found["kept_sets_wrong"] == 0, name
    together = report["servings"]["together"]
    assert together["tokens_with_the_same_logits"] == together["tokens"] > 40
    assert together["largest_batch"] == 8
    assert report["servings"]["preempted"]["preemptions"] > 0
