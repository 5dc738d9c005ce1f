"""All measurements, and the check of bits that comes before them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

import detsample
from detsample import reference
from detsample.bench import cases, floor, peers, timing
from detsample.sampler.output import RESULTS

Table = dict[str, dict[str, float]]


def vocab_of(rows: int) -> int:
    """The vocabulary that is timed with this number of rows: Llama's 129,280 with 256 rows, and Qwen's 151,936
    otherwise.
    """
    return 129280 if rows >= 256 else 151936


def differences(rows: int = 4, vocab: int = 151936) -> int:
    """The outputs whose bits differ from the reference's, in the timed settings with new random rows."""
    wrong = 0
    for setting in cases.SETTINGS.values():
        x = torch.cat([make(rows, vocab) for make in (cases.llm, cases.normal(5.0), cases.normal(1.0))])
        given = cases.arguments(setting, len(x))
        counted = given.pop("return_num_kept", True)
        if counted:
            given |= {"return_log_z": True, "return_mask": "bits"}
        given["topp_seed"] = torch.randint(-(2**62), 2**62, (len(x),), device="cuda")
        out = detsample.sample(x, **given, return_num_kept=counted)
        on_host = {k: v.cpu().numpy() if isinstance(v, torch.Tensor) else v for k, v in given.items()}
        expected = reference.sample(x.cpu().numpy(), **on_host)
        for name in RESULTS:
            one, other = getattr(out, name), getattr(expected, name)
            wrong += one is not None and one.cpu().numpy().tobytes() != np.asarray(other).tobytes()
    return wrong


def floor_time(inputs: list[Any]) -> float:
    """Microseconds of the best read-once kernel."""
    multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count
    return min(timing.microseconds(calls, 6) for calls in floor.calls(inputs, multiprocessors))


def sampler_calls(inputs: list[Any], setting: dict[str, Any]) -> list[functools.partial[Any]]:
    """One call an input, every parameter a vector and every row seeded."""
    rows = inputs[0].shape[0]
    given = cases.arguments(setting, rows)
    seeds = torch.randint(-(2**62), 2**62, (rows,), device="cuda")
    return [functools.partial(detsample.sample, x, seeds, **given) for x in inputs]


def inputs_of(make: Callable[[int, int], Any], rows: int, vocab: int, dtype: str = "float32") -> list[Any]:
    """Inputs that fill the cache, the same in each run: a batch takes as long as its worst row."""
    torch.manual_seed(1)
    size = rows * vocab * (4 if dtype == "float32" else 2)
    return [make(rows, vocab).to(getattr(torch, dtype)) for _ in range(timing.copies_for(size))]


def main_table(
    make: Callable[[int, int], Any],
    shapes: Iterable[tuple[int, int]],
    dtype: str = "float32",
    with_peers: bool = False,
) -> Table:
    """Microseconds by setting and batch size, for (B, V) in turn, with the bytes of the logits and the floor first."""
    table: Table = {"bytes": {}, "floor": {}}
    for rows, vocab in shapes:
        inputs = inputs_of(make, rows, vocab, dtype)
        table["bytes"][str(rows)] = inputs[0].numel() * inputs[0].element_size()
        table["floor"][str(rows)] = floor_time(inputs)
        for name, setting in cases.SETTINGS.items():
            table.setdefault(name, {})[str(rows)] = timing.microseconds(sampler_calls(inputs, setting))
            if with_peers and setting | cases.TOKEN_ONLY == setting:  # they make no log probabilities
                for peer, taken in peer_times(inputs, setting).items():
                    table.setdefault(f"{peer}: {name}", {})[str(rows)] = taken
    return table


def peer_times(inputs: list[Any], setting: dict[str, Any]) -> dict[str, float]:
    """Microseconds of each other sampler that has the setting, as far as it is installed. One that cannot run here is
    named on stderr, and others are still timed.
    """
    found = {}
    for peer, make_peer in peers.PEERS.items():
        try:
            call = make_peer(setting)
            if call is not None:
                found[peer] = timing.microseconds([functools.partial(call, x) for x in inputs], 4)
        except Exception as error:
            print(f"{peer} is left out: {error}", file=sys.stderr)
    return found


def other_rows(rows: int = 128) -> Table:
    """Microseconds of rows of other laws, with the floor and other samplers."""
    table: Table = {}
    for name, (make, setting, vocab, dtype) in cases.others().items():
        inputs = inputs_of(make, rows, vocab, dtype)
        alone = setting | cases.TOKEN_ONLY
        table[name] = {
            "floor": floor_time(inputs),
            "detsample": timing.microseconds(sampler_calls(inputs, setting), 6),
            "token only": timing.microseconds(sampler_calls(inputs, alone), 6),
            **peer_times(inputs, alone),
        }
    return table


def masks(rows: int = 128) -> Table:
    """Microseconds with a mask of each kind asked for."""
    inputs = inputs_of(cases.normal(1.0), rows, vocab_of(rows))
    setting = cases.FILTERS["k=50 p=.95 min_p=.05"]
    table: Table = {"no mask": {str(rows): timing.microseconds(sampler_calls(inputs, setting))}}
    given = cases.arguments(setting, rows)
    for kind in ("bits", "bool"):
        calls = [functools.partial(detsample.sample, x, 1, **given, return_mask=kind) for x in inputs]
        table[kind] = {str(rows): timing.microseconds(calls, 6)}
    return table


def growth(setting: dict[str, Any]) -> dict[str, Table]:
    """Microseconds over B at one V, and over V at one B, with the floor."""
    over_rows: Table = {"floor": {}, "detsample": {}}
    over_vocab: Table = {"floor": {}, "detsample": {}}
    shapes = [(over_rows, rows, 32768, rows) for rows in (1, 4, 16, 64, 256, 1024, 4096)]
    shapes += [(over_vocab, 64, vocab, vocab) for vocab in (1024, 4096, 16384, 65536, 262144, 1048576)]
    for table, rows, vocab, at in shapes:
        inputs = inputs_of(cases.normal(1.0), rows, vocab)[:8]
        table["floor"][str(at)] = floor_time(inputs)
        table["detsample"][str(at)] = timing.microseconds(sampler_calls(inputs, setting), 6)
    return {"over B, V = 32768": over_rows, "over V, B = 64": over_vocab}


def host_times() -> dict[str, float]:
    """Microseconds of the host for an eager call of one row, beside an empty launch."""
    x = torch.randn(1, 151936, device="cuda")
    (call,) = sampler_calls([x], cases.FILTERS["k=50 p=.95 min_p=.05"])
    draw = detsample.plan(*call.args, **call.keywords)
    named: dict[str, Callable[[], Any]] = {
        "sample": call, "planned": functools.partial(draw, x), "one launch": floor.calls([x[:, :1024]], 1)[0][0],
    }  # fmt: skip
    for warm in named.values():
        warm()
    return {name: timing.host_microseconds(timed) for name, timed in named.items()}


def tables(batches: Iterable[int], full: bool) -> dict[str, Callable[[], Any]]:
    """What makes each table, by its title; `full` adds other rows, masks, bf16, growth and other samplers."""
    shapes = [(rows, vocab_of(rows)) for rows in batches]
    small = [(rows, 49152) for rows, _ in shapes]
    k50 = cases.FILTERS["k=50 p=.95 min_p=.05"]
    found: dict[str, Callable[[], Any]] = {
        "microseconds, llm rows": lambda: main_table(cases.llm, shapes, with_peers=full),
        "microseconds, SmolLM2-135M, V = 49152": lambda: main_table(cases.real(1.0), small, with_peers=full),
        "microseconds, randn x 5": lambda: main_table(cases.normal(5.0), shapes, with_peers=full),
        "microseconds, randn x 1": lambda: main_table(cases.normal(1.0), shapes, with_peers=full),
        "host microseconds, B = 1": host_times,
    }
    more: dict[str, Callable[[], Any]] = {
        "microseconds, other rows, B = 128": other_rows,
        "microseconds, bfloat16, llm rows": lambda: main_table(cases.llm, shapes[-1:], "bfloat16", with_peers=True),
        "microseconds, masks": masks,
        "microseconds, growth, k=50 p=.95 min_p=.05": lambda: growth(k50),
    }
    return found | (more if full else {})
