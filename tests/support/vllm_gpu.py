"""The real vLLM engine on a GPU, with detsample installed and as if it were not: speed, and who notices whom.

    python tests/support/vllm_gpu.py --out DIR [--deadline SECONDS] [--engines first,second,...]

vLLM and detsample are installed, detsample with its entry point. The model is a Llama with dummy weights (hidden 1024,
8 layers, vocabulary 151,936, bf16). Each engine is a process of its own; they start together and measure one after the
other. Each line of DIR/<engine>.jsonl is one measurement, so that what was measured before an accident stays.

    first, second                       the two model runners: speed, requests alone, together and among strangers
    first-preempting, second-preempting with memory for a part of the requests
    first-drafting, second-drafting     with the n-gram drafter; vLLM 0.26 has none on the second runner: `Lookup` does
    first-telling, second-telling       with processed log probabilities, compared with those of each row alone
    first-all, second-all               with DETSAMPLE_VLLM=all: each row compared with `detsample.sample` of it alone
    first-asking, second-asking         as the first two, of requests with penalties, biases, bad words and, but for
                                        speed, bans and made-up grammars
    first-invariant, second-invariant   with vLLM's batch invariance: requests alone, together and among strangers
    first-strict, second-strict         whatever is compiled while they serve is an error; on the second runner with
                                        made-up grammars, too, which the draw reads or vLLM writes into the logits

"not installed" is the same engine with its sampler given back the class that vLLM made it of. Where speed is measured,
the two alternate within one batch, every `BLOCK` steps, so that both meet the same host at the same time.
`--report FILE` makes one file of all lines, with tables' numbers in it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import vllm_engine

VOCAB, PROMPT, T = 151936, 16, 0.8
BLOCK, BLOCKS, SETTLING = 12, 7, 3  # steps; the first block admits the requests; a block's first steps overlap the last
BATCHES = (1, 8, 64, 256)
CASES: dict[str, dict[str, Any]] = {
    "no filter": {},
    "k=50 p=.95": {"top_k": 50, "top_p": 0.95},
    "p=.95": {"top_p": 0.95},
    "min_p=.1": {"min_p": 0.1},
}
ASKED: dict[str, Any] = {"repetition_penalty": 1.2, "frequency_penalty": 0.2, "presence_penalty": 0.1,
                         "logit_bias": {100 + 3 * i: 2.0 for i in range(8)},
                         "words": [[100], [103, 106], [109, 112, 115]]}  # fmt: skip
BANS: dict[str, dict[str, Any]] = {
    "least tokens": ASKED | {"min_tokens": 12, "stop_token_ids": [*range(0, 3000, 30)]},
    "these tokens": {"allowed_token_ids": [*range(1, 3000, 6)], "frequency_penalty": 0.3, "top_p": 0.95},
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 1024, "intermediate_size": 2816,
    "num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 64,
    "vocab_size": VOCAB, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
    "attention_bias": False, "mlp_bias": False, "initializer_range": 0.02, "use_cache": True,
}  # fmt: skip
SMALL = {"num_hidden_layers": 2, "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 3000}  # fmt: skip
# Dummy weights leave all logits within 0.01 of each other. Models' logits fall by 1.3 to 3 when the rank is e-fold.
FALL, LEAD = 1.5, 0.55  # often a token is followed by the next of its four
DRAFTS = {"num_speculative_tokens": 3, "prompt_lookup_max": 2, "prompt_lookup_min": 1}
GRAPHS = {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": [1, 8, 64, 256]}
ENGINES: dict[str, dict[str, Any]] = {
    "first": {},
    "second": {},
    "first-preempting": {"num_gpu_blocks_override": 160},
    "second-preempting": {"num_gpu_blocks_override": 160},
    "first-drafting": {"speculative_config": {"method": "ngram", **DRAFTS}},
    "second-drafting": {"speculative_config": {"method": "ngram_gpu", **DRAFTS}},
    "first-telling": {"logprobs_mode": "processed_logprobs"},
    "second-telling": {"logprobs_mode": "processed_logprobs"},
    "first-all": {},
    "second-all": {},
    "first-asking": {},
    "second-asking": {},
    "first-invariant": {},
    "second-invariant": {},
    "first-strict": {"jit_monitor_mode": "error"},
    "second-strict": {"jit_monitor_mode": "error"},
}
WEIGHTS = {"first": 8.0, "second": 8.0, "first-asking": 6.0, "second-asking": 6.0, "first-invariant": 4.0,
           "second-invariant": 4.0}  # fmt: skip  # of the time; the others have 1


class Probe:
    """Mixed into vLLM's worker (worker_extension_cls): its methods are called with collective_rpc."""

    model_runner: Any
    device: Any

    def probe_install(self, small: bool) -> dict[str, Any]:
        runner = self.model_runner
        self.second = hasattr(runner, "req_states")
        self.mode, self.calls, self.rows, self.saved = "off", [], [], {}
        if self.second and runner.speculator is not None:
            runner.speculator.states = runner.req_states
        give_weights(dict(runner.get_model().named_parameters()))
        self.kinds = {}
        samplers = {"sampler": runner.sampler, "rejection": getattr(runner, "rejection_sampler", None)}
        for name, sampler in samplers.items():
            if sampler is None:
                continue
            ours = type(sampler)
            assert hasattr(sampler, "detsample"), f"detsample is not installed: {ours}"
            plain = ours.__mro__[2]
            for state, kind in (("installed", ours), ("not installed", plain)):
                self.kinds[name, state] = self._probed(kind)
        self.samplers = samplers
        self.probe_state("installed")
        return {"runner": type(runner).__module__, "device": str(runner.device), "small": small,
                "async": getattr(runner, "use_async_scheduling", None)}  # fmt: skip

    def _probed(self, kind: type) -> type:
        probe, name = self, "__call__" if self.second else "forward"
        inner = getattr(kind, name)

        def call(sampler: Any, *arguments: Any, **keywords: Any) -> Any:
            return probe.around(lambda: inner(sampler, *arguments, **keywords), arguments, keywords)

        return type(kind.__name__, (kind,), {name: call})

    def probe_state(self, state: str) -> None:
        self.state = state
        for name, sampler in self.samplers.items():
            if sampler is not None:
                sampler.__class__ = self.kinds[name, state]

    def around(self, call: Any, arguments: Any, keywords: Any) -> Any:
        import torch

        logits = keywords.get("logits")
        if logits is None:  # the rejection sampler of the first runner has it third
            logits = next(a for a in arguments if isinstance(a, torch.Tensor) and a.dim() == 2)
        if self.mode in ("off", "asked", "grammars") or getattr(self, "inside", False):
            return call()
        self.inside = True
        try:
            if self.mode == "hash":
                self._hash(logits, arguments)
                return call()
            if self.mode == "keep":
                owners, lengths = self._owners(arguments, logits.shape[0])
                self.rows.append((owners, lengths.clone(), logits.clone()))
                return call()
            if self.mode == "check":
                return self._check(call, logits, self._owners(arguments, logits.shape[0])[1].tolist())
            return self._time(call, logits)
        finally:
            self.inside = False
            if self.mode == "wall":  # for the next call
                self.probe_state(("installed", "not installed")[len(self.calls) // BLOCK % 2])

    def probe_asked(self) -> None:
        """From now on, count the logits that are not as the reference makes them where requests ask for something, and,
        on the first runner, not as vLLM's own code does.
        """
        from dataclasses import fields, replace

        import torch

        from detsample.integrations.vllm import asking
        from detsample.processing import apply

        sampler, runner = self.samplers["sampler"], self.model_runner
        plain = type(sampler).__mro__[3]

        def here(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(here, value))
            return value.cpu() if isinstance(value, torch.Tensor) else value

        def both(logits: Any, asked: Any, in_place: bool = False, **drafts: Any) -> Any:
            before, moved = logits.clone(), {field.name: here(getattr(asked, field.name)) for field in fields(asked)}
            due = apply(here(before), replace(asked, **moved), **{name: here(x) for name, x in drafts.items()})
            changed = apply(logits, asked, in_place=in_place, **drafts)
            theirs = changed
            if not self.second:
                theirs = plain.apply_logits_processors(
                    sampler, before.float(), runner.input_batch.sampling_metadata, False
                )
            bits = [x.float().view(torch.int32) for x in (changed, due.to(changed.device), theirs)]
            self.calls.append([len(due), int((bits[0] != bits[1]).sum()), int((bits[0] != bits[2]).sum())])
            return changed

        asking.apply = both
        self.probe_start("asked")

    def probe_grammars(self, read: bool | None) -> None:
        """From now on, half of the seeded requests have a grammar, which allows half of all tokens: a set for each
        seed; with None, no longer. On the second runner, whether the draw reads the sets.
        """
        from vllm.v1.core.sched.output import GrammarOutput

        runner = self.model_runner
        name = "sample" if self.second else "sample_tokens"
        if read is None:
            delattr(runner, name)
            return
        width = -(-runner.model_config.get_vocab_size() // 32)
        bits = np.random.default_rng(1).integers(-(1 << 31), 1 << 31, (256, width), np.int32)
        if read is False:
            del runner.structured_outputs_worker.apply_grammar_bitmask

        def sample(*arguments: Any) -> Any:
            batch = arguments[1] if self.second else runner.input_batch
            owners = self._owners((batch,), len(batch.req_ids))[0]
            odd = [i for i, seed in enumerate(owners) if (seed or 0) % 2][::-1]
            words = bits[[owners[i] % 256 for i in odd]]
            grammar = GrammarOutput([batch.req_ids[i] for i in odd], words) if odd else None
            call = lambda: getattr(type(runner), name)(runner, *arguments[:-1], grammar)  # noqa: E731
            return self._time(call, arguments[0]) if self.mode == "grammars" else call()

        setattr(runner, name, sample)

    def _check(self, call: Any, logits: Any, lengths: list[int]) -> Any:
        """Compare each row's token with the one that the row gives alone."""
        import detsample
        from detsample.integrations.vllm.drawing import FIELDS, ORDER

        own, out = logits.clone(), call()
        for i, request in enumerate(self.samplers["sampler"].detsample._rows.requests):
            given = dict(zip([name for name, _ in FIELDS], request.values, strict=True))
            due = detsample.sample(own[i : i + 1].contiguous(), **given, position=lengths[i], **ORDER)
            self.calls.append((request.drawn, int(due.token_ids), int(out.sampled_token_ids[i, 0])))
        return out

    def _time(self, call: Any, logits: Any) -> Any:
        import torch

        cuda = logits.is_cuda
        before, after = (torch.cuda.Event(enable_timing=True) if cuda else None for _ in range(2))
        if cuda and self.mode in ("device", "grammars"):
            torch.cuda._sleep(4_000_000)  # some 2 ms, in which the host is ahead: what follows has no gaps
            self.saved[logits.shape[0]] = logits
        if cuda:
            before.record()
        start = time.perf_counter_ns()
        out = call()
        end = time.perf_counter_ns()
        if cuda:
            after.record()
        self.calls.append((logits.shape[0], start, end, before, after, self.state))
        return out

    def _hash(self, logits: Any, arguments: Any) -> None:
        """Of each row: whose it is, how long its sequence is up to its input token, and 64 bits of its logits."""
        import torch

        bits = logits.float().contiguous().view(torch.int32).to(torch.int64)
        if not hasattr(self, "odd"):
            generator = torch.Generator().manual_seed(5)
            odd = torch.randint(-(1 << 62), 1 << 62, (bits.shape[1],), generator=generator, dtype=torch.int64) * 2 + 1
            self.odd = odd.to(logits.device)
        owners, lengths = self._owners(arguments, logits.shape[0])
        self.rows.append((owners, lengths.clone(), (bits * self.odd).sum(1)))

    def _owners(self, arguments: Any, rows: int) -> tuple[list[Any], Any]:
        runner = self.model_runner
        if self.second:
            batch = next(a for a in arguments if hasattr(a, "idx_mapping_np"))
            states = runner.sampler.sampling_states
            named = zip(states.seeds.np[batch.idx_mapping_np], states.seeds_set[batch.idx_mapping_np], strict=True)
            owners = [int(s) if known else None for s, known in named]
            lengths, counts = batch.seq_lens[: batch.num_reqs], np.diff(batch.cu_num_logits_np[: batch.num_reqs + 1])
            return self._each_row(owners, lengths, [int(n) - 1 for n in counts])
        batch = runner.input_batch
        owners = [runner.requests[name].sampling_params.seed for name in batch.req_ids]
        lengths = runner.seq_lens[: len(owners)]
        if rows == len(owners):
            return owners, lengths
        drafted = next(a for a in arguments if hasattr(a, "num_draft_tokens")).num_draft_tokens
        return self._each_row(owners, lengths, drafted)

    def _each_row(self, owners: list[Any], lengths: Any, drafted: list[int]) -> tuple[list[Any], Any]:
        """Of each row in place of each request: a request has a row for each drafted token, and one behind them."""
        import torch

        back = [n - i for n in drafted for i in range(n + 1)]
        whose = [i for i, n in enumerate(drafted) for _ in range(n + 1)]
        index = torch.tensor(whose, device=lengths.device)
        return [owners[i] for i in whose], lengths[index] - torch.tensor(back, device=lengths.device)

    def probe_start(self, mode: str) -> None:
        self.mode, self.calls, self.rows = mode, [], []

    def probe_stop(self, batch: int | None = None) -> dict[str, Any]:
        import torch

        mode, self.mode = self.mode, "off"
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if mode == "hash":
            seen = {}
            for owners, lengths, digests in self.rows:
                for seed, length, digest in zip(owners, lengths.tolist(), digests.tolist(), strict=True):
                    if seed is not None:
                        seen[f"{seed} {length}"] = digest
            self.rows = []
            return seen
        calls, self.calls = self.calls, []
        if mode == "asked":
            from detsample.integrations.vllm import asking
            from detsample.processing import apply

            asking.apply = apply
            names = "rows", "not the reference's", "not vLLM's"
            return dict(zip(names, np.sum(calls, 0).tolist(), strict=True))
        if mode == "check":
            drawn = [c for c in calls if c[0]]
            return {"rows": len(calls), "drawn": len(drawn), "wrong": sum(due != got for _, due, got in drawn)}
        if mode in ("device", "grammars"):
            steady = [c for c in calls if c[0] == batch and c[3]][6:]
            return {"gpu_us": statistics.median(c[3].elapsed_time(c[4]) * 1e3 for c in steady)} if steady else {}
        found: dict[str, Any] = {}
        for block in range(1, len(calls) // BLOCK):
            mine = calls[block * BLOCK + SETTLING : (block + 1) * BLOCK]
            if {c[0] for c in mine} == {batch}:
                told = found.setdefault(mine[0][5], {"step_ms": [], "host_us": []})
                told["step_ms"].append((mine[-1][1] - mine[0][1]) / 1e6 / (len(mine) - 1))
                told["host_us"] += [(c[2] - c[1]) / 1e3 for c in mine]
        return {state: {k: statistics.fmean(v) for k, v in told.items()} for state, told in found.items()}

    def probe_due(self, asked: dict[int, dict[str, Any]]) -> dict[str, Any]:
        """Token and log probability (its bits) that each row seen gives alone, by seed and length of its sequence."""
        import detsample
        from detsample.integrations.vllm.drawing import ORDER

        self.mode, due = "off", {}
        for owners, lengths, logits in self.rows:
            for i, (seed, length) in enumerate(zip(owners, lengths.tolist(), strict=True)):
                if seed in asked:
                    given = {"temperature": T, "position": length, **ORDER, **asked[seed]}
                    out = detsample.sample(logits[i : i + 1].contiguous(), seed, **given)
                    due[f"{seed} {length}"] = int(out.token_ids), float(out.logprobs), int(out.num_kept)
        self.rows = []
        return due

    def probe_bare(self, more: dict[str, Any], batch: int) -> dict[str, Any]:
        """Microseconds of the plug-in's planned call alone, on the last step's logits, replayed over copies of them;
        and how many tokens a row of them keeps.
        """
        import torch

        import detsample
        from detsample.integrations.vllm.drawing import ORDER, Columns, Rows, read

        logits = self.saved.get(batch)
        self.saved = {}
        if logits is None:
            return {}
        rows = Rows([read(params(100 + i, 1, more), False) for i in range(batch)], logits.device)
        columns = Columns(logits.device, batch)
        columns.load(rows.requests, 0)
        given = {**columns.of(batch), **rows.shared, **ORDER}
        position = torch.arange(batch, device=logits.device, dtype=torch.int32)
        copies = [logits.clone() for _ in range(max(2, (160 << 20) // (logits.numel() * logits.element_size())))]
        num_kept = detsample.sample(copies[0], position=position, **given).num_kept
        plan = detsample.plan(logits, position=position, return_logprobs=False, return_num_kept=False, **given)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            kept = [plan(c) for c in copies]
        times = []
        for _ in range(5):
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            graph.replay()
            after.record()
            torch.cuda.synchronize()
            times.append(before.elapsed_time(after) * 1e3 / len(kept))
        return {"bare_us": statistics.median(times), "kept": int(num_kept.median())}


def params(seed: int | None, count: int, more: dict[str, Any]) -> Any:
    from vllm import SamplingParams

    given = {"temperature": T, "seed": seed, "max_tokens": count, "ignore_eos": True, "detokenize": False, **more}
    words = given.pop("words", None)
    made = SamplingParams(**given)
    made._bad_words_token_ids = words  # there is no tokenizer
    return made


def give_weights(weights: dict[str, Any]) -> None:
    """Weights with which logits fall as models' do, and a token is often followed by the next one of its four."""
    import torch

    for name, weight in weights.items():
        if "norm" in name:
            weight.data.fill_(1)
    head = next(w for n, w in weights.items() if "lm_head" in n).data
    table = next(w for n, w in weights.items() if "embed_tokens" in n).data
    vocab, hidden = head.shape
    # A normal number, times the root of an exponential one, falls off exponentially.
    share = torch.rand(vocab, 1, generator=torch.Generator().manual_seed(3)).log().neg().mul(2).sqrt()
    deviation = (FALL * share).to(head.device)
    direction = table.float() / table.float().norm(dim=1, keepdim=True)
    ids = torch.arange(vocab, device=head.device)
    before = torch.where(ids % 4 == 0, (ids + 3).clamp(max=vocab - 1), ids - 1)
    head.copy_(head.float() / (1e-3 / 3**0.5 * hidden**0.5) * deviation + LEAD * direction[before])


class Lookup:
    """An n-gram drafter on the GPU for vLLM 0.26's second runner: what followed the last token when it last came."""

    supports_mm_inputs, draft_logits = False, None
    states: Any = None  # the runner's, once it is there

    def __init__(self, vllm_config: Any, device: Any) -> None:
        import torch

        self.model = torch.nn.Module()
        self.most = vllm_config.speculative_config.num_speculative_tokens

    def init_cudagraph_manager(self, mode: Any) -> None:
        """There are no graphs."""

    def capture(self) -> None:
        """There are no graphs."""

    def propose(self, batch: Any = None, *_: Any, input_batch: Any = None, **keywords: Any) -> Any:
        import torch

        batch = input_batch if batch is None else batch
        slots = batch.idx_mapping
        if self.states is None:
            return torch.zeros((batch.num_reqs, self.most), dtype=torch.int64, device=slots.device)
        tokens, length = self.states.all_token_ids.gpu[slots].long(), self.states.total_len.gpu[slots].long()
        last = tokens.gather(1, (length - 1).clamp(min=0)[:, None])
        index = torch.arange(tokens.shape[1], device=slots.device)
        found = torch.where((tokens == last) & (index < length[:, None] - 1), index, -1).amax(1)
        following = found[:, None] + torch.arange(1, 1 + self.most, device=slots.device)
        known = (following < length[:, None]) & (found >= 0)[:, None]
        return torch.where(known, tokens.gather(1, following.clamp(max=tokens.shape[1] - 1)), last)


def draft_in_second_runner() -> None:
    """Have vLLM 0.26's second runner, in this process, draft with `Lookup`."""
    import vllm.v1.worker.gpu.spec_decode as drafters
    from vllm.config import VllmConfig

    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    drafters.init_speculator = Lookup
    VllmConfig._get_v2_model_runner_unsupported_features = lambda self: []


class Engine:
    """One engine, and what is measured with it."""

    def __init__(self, name: str, given: argparse.Namespace) -> None:
        self.name, self.small, self.out, self.repetitions = name, given.small, given.out, given.repetitions
        self.speed_only = given.speed_only and name in ("first", "second")
        more = ASKED if name.endswith("asking") else {}
        self.cases = {case + ", asking" * bool(more): CASES[case] | more for case in given.cases.split(",")}
        self.batches = (1, 4) if self.small else tuple(map(int, given.batches.split(",")))
        self.file = (self.out / f"{name}.jsonl").open("a")
        self.deadline = self.began = time.time()

    def say(self, **line: Any) -> None:
        self.file.write(json.dumps({"engine": self.name, "at": round(time.time() - self.began, 1), **line}) + "\n")
        self.file.flush()

    def left(self) -> float:
        return self.deadline - time.time()

    def rpc(self, method: str, *arguments: Any) -> Any:
        return self.llm.collective_rpc(method, args=arguments)[0]

    def start(self) -> None:
        if self.small and self.name.startswith("second"):
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
            vllm_engine.second_runner()
        import vllm
        from vllm import LLM

        if self.name == "second-drafting":
            draft_in_second_runner()
        more: dict[str, Any] = dict(
            model=str(self.out / "model"), load_format="dummy", skip_tokenizer_init=True, max_num_seqs=256,
            enable_prefix_caching=False, seed=0, worker_extension_cls="vllm_gpu.Probe", disable_log_stats=False,
            dtype="bfloat16", max_model_len=256, max_num_batched_tokens=8192, **ENGINES[self.name],
        )  # fmt: skip
        if self.small:
            more |= {"enforce_eager": True, "dtype": "float32", "max_model_len": 128, "max_num_seqs": 16}
            more.pop("num_gpu_blocks_override", None)
        else:
            more |= {"kv_cache_memory_bytes": 4 << 30, "gpu_memory_utilization": 0.08, "compilation_config": GRAPHS,
                     "kernel_config": {"enable_flashinfer_autotune": False},
                     "jit_monitor_verbose": True}  # fmt: skip
        began = time.time()
        self.llm = LLM(**more)
        self.vocab = SMALL["vocab_size"] if self.small else VOCAB
        config = self.llm.llm_engine.vllm_config
        self.say(kind="start", vllm=vllm.__version__, seconds=round(time.time() - began, 1),
                 second_runner=bool(getattr(config, "use_v2_model_runner", False)),
                 async_scheduling=config.scheduler_config.async_scheduling, **self.rpc("probe_install", self.small),
                 **versions())  # fmt: skip

    def generate(self, prompts: list[list[int]], asked: list[Any]) -> list[list[int]]:
        outs = self.llm.generate([{"prompt_token_ids": p} for p in prompts], asked, use_tqdm=False)
        return [list(o.outputs[0].token_ids) for o in outs]

    def speed(self, case: str, batch: int, repetition: int) -> None:
        """Both states' steps in turns, within one batch."""
        self.rpc("probe_state", "installed")
        self.rpc("probe_start", "wall")
        self.ask(self.cases[case], batch, BLOCK * BLOCKS + 1, True)
        self.say(kind="speed", case=case, batch=batch, repetition=repetition, states=self.rpc("probe_stop", batch))

    def device(self, state: str, case: str, batch: int) -> None:
        self.rpc("probe_state", state)
        self.rpc("probe_start", "device")
        self.ask(self.cases[case], batch, 20, True)
        found = self.rpc("probe_stop", batch)
        if state == "installed":
            found |= self.rpc("probe_bare", self.cases[case], batch)
        self.say(kind="device", state=state, case=case, batch=batch, **found)

    def ask(self, more: dict[str, Any], batch: int, count: int, seeded: bool) -> list[list[int]]:
        choose = random.Random(batch)
        prompts = [[choose.randrange(3, self.vocab) for _ in range(PROMPT)] for _ in range(batch)]
        return self.generate(prompts, [params(100 + i if seeded else None, count, more) for i in range(batch)])

    def everyone(self) -> None:
        """Requests with seeds and without, all drawn by detsample."""
        self.rpc("probe_start", "check")
        asked = [params(900 + i if i % 2 else None, 6, more) for i, more in enumerate([*CASES.values()] * 4)]
        self.generate([[9 + i, 30 + i, 5 + i * 7] for i in range(len(asked))], asked)
        self.say(kind="all", **self.rpc("probe_stop"))

    def serve(self, requests: list[Any], at_once: bool, tokens: int) -> tuple[dict[int, list[int]], dict[str, int]]:
        self.rpc("probe_start", "hash")
        served = {}
        for part in [requests] if at_once else [[r] for r in requests]:
            tokens_of = self.generate([p for p, _, _ in part], [params(s, tokens, m) for _, s, m in part])
            served |= {s: t for (_, s, _), t in zip(part, tokens_of, strict=True) if s is not None}
        return served, self.rpc("probe_stop")

    def neighbours(self, state: str, plan: tuple[str, ...], tokens: int, count: int, others: int) -> None:
        """The same requests, served in several ways; each way's tokens and digests go to a file of their own."""
        choose = random.Random(11)
        asking = self.name.endswith("asking")
        named = self.cases | (BANS if asking else {})
        kinds = list(named.values())
        if asking:
            self.rpc("probe_grammars", state == "installed")

        def prompt() -> list[int]:
            pattern = [choose.randrange(3, self.vocab) for _ in range(choose.randint(3, 6))]
            return (pattern * 6)[: choose.randint(10, 24)]  # repeated: something to look up for the drafter

        asked = [(prompt(), 5000 + i, kinds[i % len(kinds)]) for i in range(count)]
        crowd = asked + [(prompt(), None, kinds[i % len(kinds)]) for i in range(others)]
        choose.shuffle(crowd)
        if "speculative_config" in ENGINES[self.name]:  # vLLM refuses min-p with drafts
            asked, crowd = ([r for r in of if "min_p" not in r[2]] for of in (asked, crowd))
        self.rpc("probe_state", state)
        ways = {"alone": (asked, False), "in 64": (asked, True), "among 192": (crowd, True)}
        for way in plan:
            began, before = time.time(), self.counters()
            served, digests = self.serve(*ways[way], tokens)
            kept = {"tokens": served, "digests": digests, "prompt": {s: len(p) for p, s, _ in asked},
                    "case": {s: list(named)[kinds.index(m)] for _, s, m in asked}}  # fmt: skip
            name = f"served.{self.name}.{state}.{way}.json".replace(" ", "-")
            (self.out / name).write_text(json.dumps(kept))
            now = self.counters()
            self.say(kind="served", state=state, way=way, requests=count, tokens=tokens,
                     seconds=round(time.time() - began, 1), **{k: now[k] - before.get(k, 0) for k in now})  # fmt: skip
        if asking:
            self.rpc("probe_grammars", None)

    def told(self, count: int, tokens: int) -> None:
        """Seeded requests, and others among them: are the log probabilities those that each row gives alone?"""
        kinds = list(CASES.values())
        prompts = [[9 + i, 30 + i, 5 + i * 7] for i in range(count)]
        seeds = [None if i % 5 == 4 else 300 + i for i in range(count)]
        asked = [params(s, tokens, kinds[i % 4] | {"logprobs": 3}) for i, s in enumerate(seeds)]
        self.rpc("probe_start", "keep")
        outs = self.llm.generate([{"prompt_token_ids": p} for p in prompts], asked, use_tqdm=False)
        due = self.rpc("probe_due", {s: kinds[i % 4] for i, s in enumerate(seeds) if s is not None})
        found = {"tokens": 0, "other tokens": 0, "other bits": 0, "outside the kept set": 0, "unseeded told": 0}
        for i, seed in enumerate(seeds):
            out = outs[i].outputs[0]
            for j, (token, table) in enumerate(zip(out.token_ids, out.logprobs, strict=True)):
                if seed is None:
                    found["unseeded told"] += table[token].logprob < 0
                    continue
                other, logprob, kept = due[f"{seed} {len(prompts[i]) + j}"]
                found["tokens"] += 1
                found["other tokens"] += token != other
                found["other bits"] += table[token].logprob != logprob
                inside = sum(x.logprob > float("-inf") for x in table.values())
                found["outside the kept set"] += inside > max(kept, 1)
        self.say(kind="told", **found)

    def counters(self) -> dict[str, float]:
        names = {"vllm:num_preemptions": "preemptions", "vllm:spec_decode_num_accepted_tokens": "accepted_drafts"}
        return {names[m.name]: m.value for m in self.llm.get_metrics() if m.name in names}

    def run(self) -> None:
        few = (16, 6, 10) if self.small else (32, 64, 192)
        if self.name.endswith("telling"):
            self.attempt("told", lambda: self.told(16, 6))
            return
        if self.name.endswith("all"):
            self.attempt("all", self.everyone)
            return
        if self.name.endswith("strict"):
            self.attempt("strict", self.strict)
            return
        short = self.name.endswith(("preempting", "drafting"))
        for state in () if self.speed_only else ("installed", "not installed"):
            ways = ("alone", "in 64", "among 192")[short:]
            self.attempt(f"neighbours {state}", lambda: self.neighbours(state, ways, *few))  # noqa: B023
        if self.name.endswith("asking"):
            self.attempt("asked", self.asked)
        if short or self.name.endswith("invariant"):
            return
        cases = [(case, batch) for batch in self.batches for case in self.cases]
        for case, batch in cases:  # vLLM's own compilations
            self.attempt("warm", lambda: self.ask(self.cases[case], batch, 4, True))  # noqa: B023
        for case, batch in cases if not self.small else ():
            for state in ("installed", "not installed"):
                self.attempt("device", lambda: self.device(state, case, batch))  # noqa: B023
        for repetition in range(1 if self.small else self.repetitions):
            for case, batch in cases:
                self.attempt("speed", lambda: self.speed(case, batch, repetition))  # noqa: B023

    def strict(self) -> None:
        """Seeded requests of all kinds; on the second runner, with grammars, too."""
        for batch in self.batches:
            for more in [*CASES.values(), ASKED]:
                self.ask(more, batch, 8, True)
            self.say(kind="strict", batch=batch)
        read: dict[Any, Any] = {}
        cases = self.cases | {"asking": ASKED}
        for way in ("read", "written") if self.name.startswith("second") else ():
            self.rpc("probe_grammars", way == "read")
            for case, batch in ((case, batch) for case in cases for batch in self.batches):
                self.rpc("probe_start", "grammars")
                tokens = self.ask(cases[case], batch, 24, True)
                due = read.setdefault((case, batch), tokens)
                apart = sum(a != b for both in zip(tokens, due, strict=True) for a, b in zip(*both, strict=True))
                self.say(kind="grammars", way=way, case=case, batch=batch, tokens=sum(map(len, tokens)), apart=apart,
                         **self.rpc("probe_stop", batch))  # fmt: skip

    def asked(self) -> None:
        """Are logits with penalties, biases and bans the same as the reference's, and vLLM's own?"""
        self.rpc("probe_state", "installed")
        for name, more in {"penalties, biases and bad words": ASKED, **BANS}.items():
            self.rpc("probe_asked")
            self.ask(more, 16, 12, True)
            self.say(kind="asked", of=name, **self.rpc("probe_stop"))

    def attempt(self, what: str, call: Any) -> None:
        if self.left() < 4:
            self.say(kind="skipped", what=what)
            return
        try:
            call()
        except Exception as error:
            self.say(kind="failed", what=what, error=f"{type(error).__name__}: {str(error)[:600]}")
            if self.left() > 0 and "EngineDead" in type(error).__name__:
                self.deadline = 0


def versions() -> dict[str, Any]:
    import torch
    from before_and_after import machine

    import detsample

    on = machine() if torch.cuda.is_available() else f"no GPU, torch {torch.__version__}"
    return {"machine": on, "contract": detsample.CONTRACT_VERSION}


def compare(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two ways of serving the same requests, each request as far as its first token that differs."""
    both = [seed for seed in one["tokens"] if seed in other["tokens"]]
    found = {"requests": len(both), "equal": 0, "differ with equal logits": 0, "differ with other logits": 0,
             "with other bits of logits on the way": 0}  # fmt: skip
    cases: dict[str, int] = {}
    for seed in both:
        tokens, theirs = one["tokens"][seed], other["tokens"][seed]
        first = next((i for i, (a, b) in enumerate(zip(tokens, theirs, strict=True)) if a != b), None)
        keys = [f"{seed} {one['prompt'][seed] + i}" for i in range(len(tokens) if first is None else first + 1)]
        apart = any(one["digests"].get(k) != other["digests"].get(k) for k in keys)
        found["with other bits of logits on the way"] += apart
        if first is None:
            found["equal"] += 1
            continue
        if one["digests"].get(keys[-1]) == other["digests"].get(keys[-1]):
            found["differ with equal logits"] += 1
            cases[one["case"][seed]] = cases.get(one["case"][seed], 0) + 1
        else:
            found["differ with other logits"] += 1
    return found | ({"by case": cases} if cases else {})


def tables(out: Path) -> dict[str, Any]:
    """One report of all lines: medians and spreads of step times, and the ways of serving compared with "alone"."""
    files = [out / f"{name}.jsonl" for name in ENGINES]
    lines = [json.loads(x) for file in files if file.exists() for x in file.read_text().splitlines()]
    speed: list[dict[str, Any]] = []
    timed = (x for x in lines if x["kind"] in ("speed", "device"))
    for engine, case, batch in dict.fromkeys((x["engine"], x["case"], x["batch"]) for x in timed):
        mine = [x for x in lines if (x["engine"], x.get("case"), x.get("batch")) == (engine, case, batch)]
        repetitions = [x["states"] for x in mine if x["kind"] == "speed" and len(x["states"]) == 2]
        device = {x["state"]: x for x in mine if x["kind"] == "device"}
        entry: dict[str, Any] = {"engine": engine, "case": case, "batch": batch, "repetitions": len(repetitions)}
        for state in ("installed", "not installed"):
            found = {k: device.get(state, {})[k] for k in ("gpu_us", "bare_us", "kept") if k in device.get(state, {})}
            if repetitions:
                steps = [r[state]["step_ms"] for r in repetitions]
                found |= {"step_ms": statistics.median(steps), "step_ms_range": [min(steps), max(steps)],
                          "tok_s": statistics.median(batch * 1e3 / x for x in steps),
                          "host_us": statistics.median(r[state]["host_us"] for r in repetitions)}  # fmt: skip
            entry[state] = found
        ratios = [r["not installed"]["step_ms"] / r["installed"]["step_ms"] for r in repetitions]
        if ratios:
            entry |= {"times": statistics.median(ratios), "times_range": [min(ratios), max(ratios)]}
        speed.append(entry)
    served: dict[str, Any] = {}
    for file in sorted(out.glob("served.*.json")):
        engine, state, way = file.name.split(".")[1:4]
        names = (f"served.{of}.{state}.alone.json" for of in (engine, engine.split("-")[0]))
        base = next((out / name for name in names if (out / name).exists()), file)
        if file != base:
            served[f"{engine}, {state}, {way}"] = compare(json.loads(base.read_text()), json.loads(file.read_text()))
        other = out / file.name.replace("first", "second")
        if other != file and other.exists():
            found = compare(json.loads(file.read_text()), json.loads(other.read_text()))
            served[f"{engine}, {state}, {way}, against the second runner"] = found
    return {"speed": speed, "alone against": served, "starts": [x for x in lines if x["kind"] == "start"],
            "served": [x for x in lines if x["kind"] in ("served", "told", "all", "asked", "strict", "grammars")],
            "failed": [x for x in lines if x["kind"] in ("failed", "skipped")],
            "log": {name: told(out / f"{name}.log") for name in ENGINES}}  # fmt: skip


def told(log: Path) -> list[str]:
    """What detsample said at start, and what vLLM's monitor said of compilations while serving."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [x[-300:] for x in lines if "detsample" in x.lower() or "JIT compilation" in x][:40]


def show(report: dict[str, Any]) -> None:
    for x in report["speed"]:
        both = " | ".join(
            " ".join(f"{k} {v if isinstance(v, list) else round(v, 3)}" for k, v in x[state].items())
            for state in ("installed", "not installed")
        )
        times = f"x{x.get('times', 0):.3f} {x.get('times_range')}"
        print(f"{x['engine']:6} {x['case']:11} {x['batch']:4} {x['repetitions']} | {both} | {times}")
    for name, found in report["alone against"].items():
        print(name, found)
    for name, said in report["log"].items():
        print(name, *said, sep="\n  ")
    for key in ("starts", "served", "failed"):
        for x in report[key]:
            print(json.dumps(x)[:400])


def engine_main(given: argparse.Namespace) -> None:
    engine = Engine(given.engine, given)
    try:
        engine.start()
    except BaseException as error:
        engine.say(kind="failed", what="start", error=f"{type(error).__name__}: {str(error)[:600]}")
        raise
    print("READY", flush=True)
    engine.deadline = float(sys.stdin.readline() or 0)
    engine.began = time.time()
    engine.run()
    os._exit(0)


def know_model(cache: Path) -> None:
    """Tell vLLM what it would find out about the model's class in a process of its own, in 20 seconds."""
    import hashlib
    import importlib.util

    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    source = Path(spec.submodule_search_locations[0]) / "model_executor/models/llama.py"
    no = ["is_pooling_model", "supports_multimodal", "supports_multimodal_raw_input_only", "requires_raw_input_tokens",
          "supports_multimodal_encoder_tp_data", "has_inner_state", "is_attention_free", "is_hybrid", "has_noops",
          "supports_mamba_prefix_caching", "supports_transcription", "supports_transcription_only"]  # fmt: skip
    info = {"architecture": "LlamaForCausalLM", "is_text_generation_model": True, "attn_type": "decoder",
            "default_seq_pooling_type": "LAST", "default_tok_pooling_type": "ALL", "score_type": "bi-encoder",
            "supports_pp": True, **dict.fromkeys(no, False)}  # fmt: skip
    folder = cache / "modelinfos"
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.md5(b"llama.py\0" + source.read_bytes() + b"\0").hexdigest()
    name = "vllm-model_executor-models-llama-LlamaForCausalLM.json"
    (folder / name).write_text(json.dumps({"hash": digest, "modelinfo": info}))


def launch(name: str, given: argparse.Namespace) -> subprocess.Popen[str]:
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        "VLLM_USE_V2_MODEL_RUNNER": "1" if name.startswith("second") else "0", "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo",
        "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "4",
        "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
        "VLLM_CACHE_ROOT": str(given.out / "cache"), "DETSAMPLE_VLLM": "all" if name.endswith("all") else "seeded",
        "VLLM_BATCH_INVARIANT": str(int(name.endswith("invariant"))),
    }  # fmt: skip
    command = [sys.executable, __file__, "--engine", name, "--out", str(given.out)] + ["--small"] * given.small
    command += ["--repetitions", str(given.repetitions), "--cases", given.cases, "--batches", given.batches]
    command += ["--speed-only"] * given.speed_only
    return subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=(given.out / f"{name}.log").open("w"),
                            stderr=subprocess.STDOUT, text=True, start_new_session=True)  # fmt: skip


def conduct(given: argparse.Namespace) -> None:
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "model").mkdir(exist_ok=True)
    (given.out / "model" / "config.json").write_text(json.dumps(CONFIG | (SMALL if given.small else {})))
    know_model(given.out / "cache")
    names, end = given.engines.split(","), time.time() + given.deadline
    running = {name: launch(name, given) for name in names}

    def ready(name: str) -> bool:
        return running[name].poll() is not None or "READY" in (given.out / f"{name}.log").read_text()

    try:
        limit = time.time() + given.deadline * 0.7
        while time.time() < limit and not all(map(ready, names)):
            time.sleep(0.3)
        print("started:", [n for n in names if ready(n) and running[n].poll() is None], flush=True)
        for process in running.values():  # engines look for work all the time
            signal_to(process, signal.SIGSTOP)
        for i, name in enumerate(names):
            process, weights = running[name], [WEIGHTS.get(n, 1.0) for n in names[i:]]
            signal_to(process, signal.SIGCONT)
            left = end - time.time()
            if process.poll() is not None or not ready(name):
                print(name, "did not start:", *(given.out / f"{name}.log").read_text().splitlines()[-30:], sep="\n  ")
                continue
            turn = time.time() + left * weights[0] / sum(weights)
            assert process.stdin is not None
            process.stdin.write(f"{turn}\n")
            process.stdin.flush()
            try:
                process.wait(max(1, turn + 10 - time.time()))
            except subprocess.TimeoutExpired:
                print(name, "ended by force", flush=True)
            signal_to(process, signal.SIGKILL)
    finally:
        for process in running.values():
            signal_to(process, signal.SIGKILL)


def signal_to(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Each engine leads a session of its own, so it gets signals with all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--deadline", type=float, default=480)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--repetitions", type=int, default=4)
    parser.add_argument("--speed-only", action="store_true", help="of the engines first and second, nothing else")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--engine")
    parser.add_argument("--report", type=Path)
    parser.add_argument("--small", action="store_true", help="a tiny model and few requests: a check on a CPU")
    given = parser.parse_args()
    given.out = given.out.resolve()
    if given.engine:
        engine_main(given)
        return
    conduct(given)
    report = tables(given.out)
    show(report)
    if given.report:
        given.report.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
