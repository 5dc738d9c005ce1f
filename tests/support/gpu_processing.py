"""Processing and sets of allowed tokens on a GPU, against the reference as bits, and what they cost.

    python tests/support/gpu_processing.py --rows 1000000 --seconds 30 --out report.json

Worker processes make what the reference gives; this one runs the kernels. Each part ends after so many seconds at the
latest, and says how many rows it had.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import multiprocessing
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kernel_path
import numpy as np
import processing_cases as cases

import detsample
from detsample import reference
from detsample.processing import CONVENTIONS, Processing, apply

F32 = np.float32
REQUESTS, ROWS = 1000, 2000
WIDE = 9000, 20000, 40001, 151936
OUTPUTS = ("token_ids", "num_kept", "status", "logprobs", "log_z", "mask")


def processing_case(seed: int) -> tuple[np.ndarray, Processing, dict[str, Any]]:
    """A case of many requests. Types of lists make other kernels, seconds to compile, so all are int64."""
    x, asked, how = cases.case(seed, longest=40 if seed % 5 == 0 else 12, requests=REQUESTS)
    asked = dataclasses.replace(asked, **{f.name: wide(getattr(asked, f.name)) for f in dataclasses.fields(asked)})
    return x, asked, {name: wide(value) for name, value in how.items()}


def wide(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(wide, value))
    return value.astype(np.int64) if isinstance(value, np.ndarray) and value.dtype.kind == "i" else value


def processed(seed: int) -> np.ndarray:
    x, asked, how = processing_case(seed)
    return apply(x, asked, **how)


def set_case(seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Rows with sets of any density, which wide rows have another of for each 1,024 tokens, some of none and of all;
    all filters and orders.
    """
    rng = np.random.default_rng(seed)
    vocab = WIDE[seed // 32 % 4] if seed % 32 == 0 else int(rng.choice([5, 33, 64, 100, 257, 300, 1000, 2049]))
    rows = ROWS if vocab < 1000 else ROWS // 8 if vocab < 5000 else int(rng.choice([1, 9, 40]))
    x = rng.standard_normal((rows, vocab), dtype=F32) * rng.choice(F32([0.5, 3, 9]), (rows, 1))
    x[rng.random(x.shape) < 0.02] = rng.choice(F32([-np.inf, 0.0, -0.0, 2.0]))
    words = -(-vocab // 32)
    shares, odds = [0.0, 0.02, 0.5, 0.98, 1.0], [0.02, 0.28, 0.3, 0.3, 0.1]
    density = rng.choice(shares, (rows, 1), p=odds)
    if vocab > 5000:
        odds = rng.dirichlet(np.ones(5))
        density = rng.choice(shares, (rows, words // 32 + 1), p=odds).repeat(1024, axis=1)[:, : words * 32]
    octets = np.packbits(rng.random((rows, words * 32)) < density, axis=1, bitorder="little")
    how = {
        "topp_seed": rng.integers(-(2**63), 2**63, rows), "position": rng.integers(0, 2**40, rows),
        "temperature": rng.choice(F32([0, 0.3, 1, 2]), rows), "top_k": rng.choice([0, 1, 5, 50], rows),
        "top_p": rng.choice(F32([0.3, 0.9, 1]), rows), "min_p": rng.choice(F32([0, 0.05]), rows),
        "filter_order": str(rng.choice(["top_k_first", "min_p_first", "joint"])), "allowed": octets.view(np.int32),
        "return_log_z": True, "return_mask": "bits",
    }  # fmt: skip
    return x, how


def drawn(seed: int) -> list[np.ndarray]:
    x, how = set_case(seed)
    out = reference.sample(x, **how)
    return [np.asarray(getattr(out, name)) for name in OUTPUTS]


def unequal(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Rows that differ in a bit; NaNs are all alike."""
    same = (found == expected) & (np.signbit(found) == np.signbit(expected))
    same |= (found != found) & (expected != expected)
    return ~same.reshape(len(same), -1).all(axis=1)


def check(stream: Iterator[Any], run: Callable[[int, Any], tuple[int, int]], given: Any) -> Any:
    """(rows, rows that differ, seeds of those), of as many cases as there is time for."""
    rows = wrong = 0
    seeds: list[int] = []
    end = time.perf_counter() + given.seconds
    for seed, expected in enumerate(stream):
        here, bad = run(seed, expected)
        rows, wrong = rows + here, wrong + bad
        seeds += [seed] * bool(bad)
        if rows >= given.rows or time.perf_counter() > end:
            break
    return {"rows": rows, "rows_that_differ": wrong, "seeds": seeds[:20]}


def check_processed(seed: int, expected: np.ndarray) -> tuple[int, int]:
    found = cases.by_kernel(*processing_case(seed))
    vocab = found.shape[-1]
    bad = unequal(found.reshape(-1, vocab), expected.reshape(-1, vocab))
    return len(bad), int(bad.sum())


def check_drawn(seed: int, expected: list[np.ndarray]) -> tuple[int, int]:
    x, how = set_case(seed)
    out = kernel_path.sample(x, **how)
    bad = np.zeros(len(x), bool)
    for name, due in zip(OUTPUTS, expected, strict=True):
        bad |= unequal(np.asarray(getattr(out, name)), due)
    return len(bad), int(bad.sum())


def some_tokens(rows: int, vocab: int, number: int) -> Any:
    """Sets with so many tokens, roughly, anywhere, as bools."""
    import torch

    tokens = torch.randint(0, vocab, (rows, number), device="cuda")
    return torch.zeros((rows, vocab), dtype=torch.bool, device="cuda").scatter_(1, tokens, True)


def packed(sets: Any) -> Any:
    import torch

    words = (sets.view(len(sets), -1, 32).long() << torch.arange(32, device="cuda")).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).int()


def sets_of(rows: int, vocab: int) -> dict[str, Any]:
    """Sets as grammars give them: rows without one, within strings, and where little may follow."""
    import torch

    few = some_tokens(rows, vocab, 44)
    few[:, :256] = True
    return {
        "no set": None, "all": torch.full((rows, vocab // 32), -1, dtype=torch.int32, device="cuda"),
        "all but 300": packed(~some_tokens(rows, vocab, 300)),
        "half": packed(some_tokens(rows, vocab, vocab * 7 // 10)),
        "256 neighbours and 44": packed(few), "50": packed(some_tokens(rows, vocab, 50)),
    }  # fmt: skip


def functions_of(folder: Path, file: str, *names: str) -> Any:
    """A module of some functions of another project's file, so that what else it imports need not be there."""
    text = (folder / file).read_text()
    found = [re.search(rf"^(@triton.jit\n)?def {name}\(.*?(?=^\S(?<!\)))", text, re.M | re.S) for name in names]
    path = folder / f"only_{Path(file).stem}.py"
    path.write_text("\n".join(["import torch, triton, triton.language as tl", *(part[0] for part in found if part)]))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def beside(folder: Path, inputs: list[Any], sets: dict[str, Any], output: Any) -> dict[str, Callable[[Any], Any]]:
    """What others do to logits in place: xgrammar's kernel of Triton for sets; vLLM's penalties, as functions of torch
    that count anew, and as the kernel of its second runner, whose counts are there already.
    """
    import torch

    rows, vocab = inputs[0].shape
    apply_set = functions_of(folder, "apply_token_bitmask_inplace_triton.py", "apply_token_bitmask_inplace_kernel")
    first = functions_of(folder, "utils.py", "get_token_bin_counts_and_mask")
    scale = functions_of(folder, "_custom_ops.py", "apply_repetition_penalties_torch")
    second = functions_of(folder, "penalties.py", "_penalties_kernel", "apply_penalties")
    r, f, p = (torch.full((rows,), value, device="cuda") for value in (1.2, 0.1, 0.2))
    each, none = torch.arange(rows, device="cuda"), torch.zeros((rows, 1), dtype=torch.int64, device="cuda") + vocab
    counts = first.get_token_bin_counts_and_mask(output, vocab, rows)[0].int().contiguous()
    prompt = torch.zeros((rows, vocab // 32), dtype=torch.int32, device="cuda")
    processors = torch.cuda.get_device_properties(0).multi_processor_count

    def vllm_first(x: Any) -> None:
        _, in_prompt = first.get_token_bin_counts_and_mask(none, vocab, rows)
        number, in_output = first.get_token_bin_counts_and_mask(output, vocab, rows)
        scale.apply_repetition_penalties_torch(x, in_prompt, in_output, r)
        x -= f[:, None] * number
        x -= p[:, None] * in_output

    def xgrammar(x: Any, name: str) -> None:
        apply_set.apply_token_bitmask_inplace_kernel[(processors,)](
            x, sets[name], None, rows, vocab, vocab, vocab // 32, processors, 4096, num_warps=32, num_stages=3
        )

    return {
        **{f"xgrammar, {name}": lambda x, name=name: xgrammar(x, name) for name in sets if name != "no set"},
        "vLLM's penalties, torch": vllm_first,
        "vLLM's penalties, second runner": lambda x: second.apply_penalties(
            x, each, each, torch.zeros_like(each), r, f, p, prompt, counts
        ),
    }


def times(found: dict[str, float], rows: int, others: Path | None, vocab: int = 151936, history: int = 1000) -> None:
    """Finds microseconds for so many rows of fp32, with all parameters as vectors."""
    import torch

    from detsample.bench.timing import copies_for, microseconds

    torch.manual_seed(1)
    inputs = [torch.randn(rows, vocab, device="cuda") * 3 for _ in range(copies_for(rows * vocab * 4))]
    each, sets = torch.arange(rows, device="cuda"), sets_of(rows, vocab)

    def measure(name: str, call: Callable[[Any], Any]) -> None:
        # Many calls to a graph, whose start takes about 6 microseconds of its own.
        found[name] = round(microseconds([lambda x=x: call(x) for x in inputs * -(-16 // len(inputs))], 25), 2)

    def draw(x: Any, allowed: Any = None, **columns: Any) -> Any:
        return detsample.sample(x, each, position=each, allowed=allowed, return_logprobs=False, **columns)

    for filters, how in {"none": {}, "k=50 p=.95": {"top_k": 50, "top_p": 0.95}, "p=.95": {"top_p": 0.95}}.items():
        columns = {n: torch.full((rows,), v, device="cuda") for n, v in how.items()}
        for name, allowed in sets.items():
            measure(f"{filters}, {name}", lambda x, a=allowed, c=columns: draw(x, a, **c))
    output, k = torch.randint(0, vocab, (rows, history), device="cuda"), torch.full((rows,), 50, device="cuda")
    asked = Processing(output=output, repetition_penalty=1.2, frequency_penalty=0.1, presence_penalty=0.2)
    measure("three penalties", lambda x: apply(x, asked, in_place=True))
    measure("k=50", lambda x: draw(x, top_k=k))
    measure("three penalties, then k=50", lambda x: draw(apply(x, asked, in_place=True), top_k=k))
    for name, call in beside(others, inputs, sets, output).items() if others else ():
        measure(name, call)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--processes", type=int, default=7, help="of each part")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--times", type=int, nargs="*", default=[128], help="for how many rows times are measured")
    parser.add_argument("--beside", type=Path, help="a folder with xgrammar's and vLLM's files, to time them too")
    given = parser.parse_args()
    report: dict[str, Any] = {"conventions": list(CONVENTIONS)}
    pools = [multiprocessing.get_context("spawn").Pool(given.processes) for _ in range(2)]
    expected = [pool.imap(expect, range(5000)) for pool, expect in zip(pools, (processed, drawn), strict=True)]
    if kernel_path.GPU is not None:
        start = time.perf_counter()
        detsample.warmup(kernel_path.GPU, dtypes=["float32"], masks=["bits"], allowed=True)
        print("warm", round(time.perf_counter() - start, 1), flush=True)
    parts = zip(("processing", "sets"), expected, (check_processed, check_drawn), pools, strict=True)
    for name, stream, run, pool in parts:
        start = time.perf_counter()
        report[name] = check(stream, run, given) | {"seconds": round(time.perf_counter() - start, 1)}
        tell(report, given.out)
        pool.terminate()
    if kernel_path.GPU is not None:
        report |= {"device": kernel_path.GPU, "times": {}}
        for rows in given.times:
            times(report["times"].setdefault(rows, {}), rows, given.beside)
            tell(report, given.out)


def tell(report: dict[str, Any], out: Path | None) -> None:
    """What is known so far, since a run may be ended from outside."""
    text = json.dumps(report, indent=1, default=str)
    print(text, flush=True)
    if out:
        out.write_text(text + "\n")


if __name__ == "__main__":
    main()
