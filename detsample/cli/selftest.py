"""``detsample selftest``: checks known answers, and compares the kernels with the reference, on this machine."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import detsample.reference as reference
from detsample.cli import gpu, known
from detsample.cli.cases import Case, cases
from detsample.cli.digest import host_fields
from detsample.cli.failure import Failure
from detsample.cli.kernels import Fields, InInterpreter, Kernels, OnGpu, interpreting, triton_is_installed
from detsample.cli.progress import Progress
from detsample.cli.tables import line
from detsample.cli.versions import versions
from detsample.sampler.output import RESULTS, SampleOutput

OLD_INTERPRETER = "only 0-dimensional arrays can be converted to Python scalars"
"""What NumPy 2.4 and newer say to the interpreters of Triton 3.3 to 3.6, unless `kernels` has mended them."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """The arguments of this command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "selftest",
        help="check detsample on this machine",
        description="Check the reference against known answers, and the kernels against the reference, bit "
        "for bit: on the GPU (through Paddle or torch) if there is one, otherwise in Triton's interpreter, "
        "which takes about half a second a row.",
        epilog="Exit status: 0, all equal; 1, a mismatch, which is printed; 2, the test could not be run.",
    )
    parser.add_argument(
        "--rows",
        type=int,
        metavar="N",
        help=f"rows to compare (default: {OnGpu.rows} on a GPU, {InInterpreter.rows} in the interpreter)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the rows: another seed, another test")
    parser.add_argument(
        "--device", choices=["auto", "gpu", "interpreter", "none"], default="auto",
        help="where to run the kernels; none: check only the reference (default: auto)",
    )  # fmt: skip
    return parser


@dataclass
class Report:
    """Prints a line for each check, and counts those that fail."""

    failures: int = 0
    checks: int = 0

    def line(self, name: str, amount: str, wrong: str) -> None:
        """Tell how a check ended; `wrong` is empty if it passed."""
        self.checks += 1
        self.failures += bool(wrong)
        print(line(["  " + name, amount, "FAILED" if wrong else "equal"], [-36, 15, -8]), flush=True)
        if wrong:
            print(f"    {wrong}", flush=True)


def run(options: argparse.Namespace) -> int:
    """Run all checks that this machine allows; return 1 if one fails."""
    if options.rows is not None and options.rows < 1:
        raise Failure(f"--rows must be at least 1, got {options.rows}")
    if options.seed < 0:
        raise Failure(f"--seed must be at least 0, got {options.seed}")
    kernels, why_not = choose_kernels(options.device)
    if isinstance(kernels, InInterpreter) and not interpreting():
        environment = os.environ | {"TRITON_INTERPRET": "1"}
        command = [sys.executable, "-m", "detsample", *options.argv]
        return subprocess.run(command, env=environment).returncode
    started, report = time.monotonic(), Report()
    for name, version in versions().items():
        print(line([name, version], [-16, -1]))
    check_known_answers(report)
    check_reference(report, options.seed)
    if kernels is None:
        print(f"\nkernels: not checked, {why_not}")
    else:
        check_kernels(report, kernels, options.rows or kernels.rows, options.seed)
    seconds = time.monotonic() - started
    if report.failures:
        print(f"\n{report.failures} of {report.checks} checks FAILED, {seconds:.1f} s")
        return 1
    print(f"\nall {report.checks} checks passed, {seconds:.1f} s")
    return 0


def choose_kernels(device: str) -> tuple[Kernels | None, str]:
    """Where to run the kernels, or why not at all."""
    if device == "none":
        return None, "as asked"
    if not triton_is_installed():
        if device != "auto":
            raise Failure(f"--device {device} needs Triton, which is not installed")
        return None, "Triton is not installed"
    if device == "gpu":
        return OnGpu(gpu.require()), ""
    found = gpu.find() if device == "auto" and os.environ.get("TRITON_INTERPRET") != "1" else None
    return (InInterpreter() if found is None else OnGpu(found)), ""


def check_known_answers(report: Report) -> None:
    """The functions of the contract against values kept as data."""
    print("\nreference against known answers")
    for name, count, wrong in known.check(known.load()):
        report.line(name, f"{count} answers", wrong)


def check_reference(report: Report, seed: int) -> None:
    """Check that the reference's results for a row do not depend on other rows."""
    print("\nreference, the same rows in other surroundings")
    case = cases(seed, 40, (1000,), ("float32",), 40_000)
    logits = np.concatenate([c.logits for c in case])
    parameters = {name: np.concatenate([c.parameters[name] for c in case]) for name in case[0].parameters}
    whole = Case("all", "float32", logits, parameters)
    plain = expected(whole)

    def part(rows: slice) -> Fields:
        return expected(Case("", "", logits[rows], {name: value[rows] for name, value in parameters.items()}))

    order = slice(None, None, -1)
    padded = np.concatenate([logits, np.full((len(logits), 24), -np.inf, np.float32)], axis=1)
    alone = [part(slice(b, b + 1)) for b in range(len(logits))]
    together = {name: np.concatenate([one[name] for one in alone]) for name in plain}
    surroundings = {
        "each row alone": together,
        "the batch reversed": {name: value[order] for name, value in part(order).items()},
    }
    for name, found in surroundings.items():
        report.line(name, f"{len(logits)} rows", first_difference(whole, plain, found))
    # A top_k of V or more is off, so more columns could switch it on; and the mask has other columns.
    same: dict[str, Any] = {name: value for name, value in parameters.items() if name != "top_k"}
    pair = [fields(reference.sample(x, **same, return_log_z=True)) for x in (logits, padded)]
    report.line("24 more columns of -inf", f"{len(logits)} rows", first_difference(whole, *pair))


def check_kernels(report: Report, kernels: Kernels, rows: int, seed: int) -> None:
    """Every output of the kernels against the reference, as bits."""
    print(f"\nkernels {kernels}, against the reference, {rows} rows")
    progress, done = Progress("rows", rows), 0
    for case in cases(seed, rows, kernels.vocabularies, kernels.dtypes, kernels.most):
        try:
            wrong = first_difference(case, expected(case), kernels.sample(case))
        except Exception as error:  # Whatever a compiler, a driver or an interpreter raises counts as a failed check.
            wrong = in_one_line(error)
            if OLD_INTERPRETER in wrong and isinstance(kernels, InInterpreter):
                raise Failure("this Triton's interpreter needs NumPy below 2.4: kernels not checked") from error
        done += len(case.logits)
        progress.clear()
        report.line(str(case), f"{len(case.logits)} rows", wrong)
        progress.at(done)
    progress.clear()
    rng = np.random.default_rng(seed)
    for name, count, wrong in check_streams(kernels, rng):
        report.line(name, f"{count} values", wrong)


def check_streams(kernels: Kernels, rng: np.random.Generator) -> Iterator[tuple[str, int, str]]:
    """`gumbel_noise` and `fold_in` on their own."""
    seeds = rng.integers(-(1 << 63), (1 << 63) - 1, 4, endpoint=True)
    positions = rng.integers(0, (1 << 63) - 1, 4, endpoint=True)
    tokens = rng.integers(0, 1 << 21, 250)
    pairs: dict[str, tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]] = {
        "gumbel_noise": (
            lambda: reference.gumbel_noise(seeds, positions, tokens),
            lambda: kernels.gumbel_noise(seeds, positions, tokens),
        ),
        "fold_in": (lambda: reference.fold_in(seeds, positions), lambda: kernels.fold_in(seeds, positions)),
    }
    for name, (ours, theirs) in pairs.items():
        right, wrong = ours(), ""
        try:
            different = np.flatnonzero(right != theirs())
            if different.size:
                wrong = f"{different.size} of {right.size} values differ, the first is number {different[0]}"
        except Exception as error:  # as above
            wrong = in_one_line(error)
        yield name, right.size, wrong


def in_one_line(error: Exception) -> str:
    """The first line of the exception that was raised first, since frameworks wrap exceptions in others."""
    first: BaseException = error
    while first.__cause__ is not None:
        first = first.__cause__
    return f"{type(first).__name__}: {first}".replace("\n", " ")


def expected(case: Case) -> Fields:
    """The reference's results for a batch."""
    parameters: dict[str, Any] = dict(case.parameters)
    return fields(reference.sample(case.logits, **parameters, return_log_z=True, return_mask="bits"))


def fields(out: Any) -> Fields:
    """The reference's output by names."""
    return host_fields(SampleOutput(*(getattr(out, name) for name in RESULTS)))


def first_difference(case: Case, right: Fields, found: Fields) -> str:
    """What differs first, in words; empty if every bit of every output agrees."""
    for name, expected_values in right.items():
        a, b = (as_bits(x) for x in (expected_values, found[name]))
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{name}: expected {a.dtype} {list(a.shape)}, found {b.dtype} {list(b.shape)}"
        rows = np.flatnonzero((a != b).reshape(len(a), -1).any(axis=1))
        if rows.size:
            row = int(rows[0])
            at = int(np.flatnonzero(a[row].reshape(-1) != b[row].reshape(-1))[0])
            values = ", ".join(f"{key} {value[row].item()!r}" for key, value in case.parameters.items())
            where = f"row {row}" if a.ndim == 1 else f"row {row}, word {at}"
            wrong = f"expected {shown(a[row], at)}, found {shown(b[row], at)}"
            return f"{name}, {rows.size} of {len(a)} rows; {where}: {wrong}; {values}"
    return ""


def as_bits(array: np.ndarray) -> np.ndarray:
    """Floats as the integers that they are made of."""
    return array.view(np.uint32) if array.dtype == np.float32 else array


def shown(row: np.ndarray, at: int) -> str:
    """One number of a row; bits in hexadecimal."""
    value = row.reshape(-1)[at]
    return f"0x{int(value):08x}" if row.dtype == np.uint32 else str(value)
