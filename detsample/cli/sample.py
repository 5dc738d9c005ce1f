"""``detsample sample``: draw from the logits in a file."""

from __future__ import annotations

import argparse
import json
import math
import sys
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

import detsample
from detsample.cli import gpu
from detsample.cli.digest import Digest, host_fields
from detsample.cli.failure import Failure
from detsample.cli.progress import Progress
from detsample.cli.tables import bits, line, shortest
from detsample.sampler.parameters import FILTER_ORDERS
from detsample.sampler.status import describe

BLOCK = 1 << 21
"""How many logits are sampled at a time, so that a file may be larger than memory. No result depends on it."""
MASK64 = (1 << 64) - 1
SHOWN = {"token_ids": "token", "num_kept": "kept", "logprobs": "logprob"}
"""The names of results in a table and in JSON, where they are others."""
FLOATS = ("logprob", "log_z")


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """The arguments of this command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "sample",
        help="sample from logits in a .npy or .npz file",
        description="Draw one token for each row of a file of logits, [V] or [B, V], fp32 or fp16.",
        epilog="Row r of a file of several rows draws with the seed fold_in(--seed, r), so that no two rows see one "
        "noise, and the only row of a file with --seed itself; --seed-file, --consecutive and --shared-noise say "
        "otherwise. Exit status: 0; 1 if a row is invalid (its status says why, the others are unaffected); 2 if "
        "nothing could be sampled.",
    )
    add_input(parser)
    add_request(parser)
    yes_or_no = argparse.BooleanOptionalAction
    add_allowed(parser)
    parser.add_argument("--logprobs", action=yes_or_no, default=True, help="of the token (default: yes)")
    parser.add_argument("--log-z", action=yes_or_no, default=False, help="log of the kept mass (default: no)")
    parser.add_argument("--json", action="store_true", help="JSON, with the floats' bits in hexadecimal")
    return parser


def add_file(parser: argparse.ArgumentParser, nargs: Literal["?"] | None = None) -> None:
    """The arguments of `read_logits`."""
    parser.add_argument("file", type=Path, nargs=nargs, metavar="FILE", help=".npy, or .npz with --array")
    parser.add_argument("--array", metavar="NAME", help="which array of a .npz that has several")
    parser.add_argument("--bf16", action="store_true", help="the file holds bfloat16, as its bits in uint16")


def add_input(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which logits, and where they are to be drawn from."""
    add_file(parser)
    parser.add_argument("--rows", type=row_range, default=(0, None), metavar="A:B", help="rows A to B - 1 only")
    gpu.add_device(parser)


def add_allowed(parser: argparse.ArgumentParser) -> None:
    """The argument for sets of allowed tokens."""
    parser.add_argument("--allowed", type=Path, help="a .npy with the allowed tokens of each row of FILE, as bits")


def allowed_of_rows(options: argparse.Namespace, rows: int) -> np.ndarray | None:
    """The set of each row, if the command was given any."""
    if options.allowed is None:
        return None
    allowed = _named(_load(options.allowed), options.allowed, None)
    if allowed.shape[:1] != (rows,):
        raise Failure(f"{options.allowed}: must have a set for each of {rows} rows, got {list(allowed.shape)}")
    return allowed


def add_request(parser: argparse.ArgumentParser) -> None:
    """The arguments that say how to draw from them."""
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument(
        "--seed", type=integer, default=0, help="any 64 bits, from which each row has its own (default: 0)"
    )
    seeds.add_argument(
        "--seed-file", type=Path, metavar="SEEDS", help="a seed for each row of FILE, in a .npy or as text"
    )
    parser.add_argument("--position", type=integer, default=0, help="index of the token drawn (default: 0)")
    steps = "draw row r at position + r with --seed itself: the rows are one sequence's steps"
    parser.add_argument("--consecutive", action="store_true", help=steps)
    alike = "draw every row with --seed itself: rows alike then draw alike"
    parser.add_argument("--shared-noise", action="store_true", help=alike)
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default: 1)")
    parser.add_argument("--top-k", type=integer, default=0, help="keep the first k; 0 is off (default)")
    parser.add_argument("--top-p", type=float, default=1.0, help="keep the first of this mass; 1 is off (default)")
    parser.add_argument("--min-p", type=float, default=0.0, help="relative to the best; 0 is off (default)")
    share = "of what top-p takes its share: of what top-k keeps (default), of what top-k and min-p keep, of all"
    parser.add_argument("--filter-order", choices=FILTER_ORDERS, default=FILTER_ORDERS[0], help=share)


def filters(options: argparse.Namespace) -> dict[str, Any]:
    """What all rows are drawn with alike, as `detsample.sample` takes it."""
    return {name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "min_p", "filter_order")}


def run(options: argparse.Namespace) -> int:
    """Sample and print; return 1 if a row is invalid."""
    logits = read_logits(options.file, options.array, options.bf16)
    start, stop = selected(options.rows, len(logits))
    seeds = seeds_of_rows(options, len(logits))
    invalid, digest = 0, Digest()
    printer: Any = Json(options, logits, start, stop) if options.json else Table(options, stop)
    for block in sampled(logits, start, stop, seeds, options):
        digest.add(block.fields)
        invalid += int(np.count_nonzero(block.fields["status"]))
        printer.rows(block)
    printer.end(digest.hex())
    if invalid:
        print(f"detsample sample: {invalid} of {stop - start} rows are invalid", file=sys.stderr)
    return int(invalid > 0)


@dataclass(frozen=True)
class Block:
    """Results of neighbouring rows."""

    first: int
    seeds: np.ndarray
    positions: np.ndarray
    fields: dict[str, np.ndarray]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each row's results under the names by which they are shown."""
        names = {SHOWN.get(name, name): column for name, column in self.fields.items()}
        for i, status in enumerate(self.fields["status"]):
            made = {"row": self.first + i, "seed": self.seeds[i], "position": self.positions[i]}
            made |= {name: column[i] for name, column in names.items()}
            yield made | {"status": int(status), "why": describe(int(status))}


def sampled(
    logits: np.ndarray, start: int, stop: int, seeds: np.ndarray, options: argparse.Namespace
) -> Iterator[Block]:
    """Sample a block of rows at a time."""
    tensor = gpu.mover(options)
    check_position(options, stop)
    step = max(1, BLOCK // max(logits.shape[1], 1))
    allowed = allowed_of_rows(options, len(logits))
    progress = Progress("rows", stop - start)
    for first in range(start, stop, step):
        rows = np.arange(first, min(first + step, stop))
        of_rows = seeds[rows]
        positions = options.position + rows * options.consecutive
        try:
            out = detsample.sample(
                tensor(decoded(logits[first : first + len(rows)], options.bf16)),
                tensor(of_rows),
                position=tensor(positions),
                **filters(options),
                allowed=None if allowed is None else tensor(allowed[first : first + len(rows)]),
                return_logprobs=options.logprobs,
                return_log_z=options.log_z,
            )
        except (TypeError, ValueError) as error:
            raise Failure(str(error)) from error
        fields = host_fields(out)
        progress.clear()
        yield Block(first, of_rows, positions, fields)
        progress.at(int(rows[-1]) + 1 - start)
    progress.clear()


def decoded(rows: np.ndarray, bf16: bool) -> np.ndarray:
    """Rows of the file as native floats; bfloat16 as the same numbers in fp32."""
    rows = np.ascontiguousarray(rows, rows.dtype.newbyteorder("="))
    return (rows.astype(np.uint32) << 16).view(np.float32) if bf16 else rows


def read_logits(file: Path, name: str | None, bf16: bool) -> np.ndarray:
    """The logits of a file, [B, V]; those of a .npy are mapped, not read."""
    array = _named(_load(file), file, name)
    if array.ndim not in (1, 2):
        raise Failure(f"{file}: logits must have shape [V] or [B, V], got {list(array.shape)}")
    if bf16 and array.dtype != np.uint16:
        raise Failure(f"{file}: with --bf16 the array must be uint16, got {array.dtype}")
    if not bf16 and array.dtype.name not in ("float32", "float16"):
        hint = "; is it bfloat16? then say --bf16" if array.dtype == np.uint16 else ""
        raise Failure(f"{file}: logits must be float32 or float16, got {array.dtype}{hint}")
    return array.reshape(1, -1) if array.ndim == 1 else array


def _load(file: Path) -> Any:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise Failure(f"{file}: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise Failure(f"{file}: not an array of numbers in a .npy or .npz file") from error


def _named(loaded: Any, file: Path, name: str | None) -> np.ndarray:
    if isinstance(loaded, np.ndarray):
        if name is not None:
            raise Failure(f"{file}: --array is for .npz files, and this is a .npy")
        return loaded
    names = list(loaded)
    if name is None and len(names) != 1:
        raise Failure(f"{file}: choose an array with --array: {', '.join(names) or 'there are none'}")
    if name is not None and name not in names:
        raise Failure(f"{file}: no array {name!r}, only {', '.join(names)}")
    try:
        return np.asarray(loaded[name or names[0]])
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise Failure(f"{file}: not an array of numbers ({error})") from error


def seeds_of_rows(options: argparse.Namespace, rows: int) -> np.ndarray:
    """A seed for each row of the file, int64."""
    if options.seed_file is not None:
        return read_seeds(options.seed_file, rows)
    if not -(1 << 63) <= options.seed <= MASK64:
        raise Failure(f"--seed must be a 64-bit integer, signed or unsigned, got {options.seed}")
    one = np.full(rows, options.seed & MASK64, np.uint64).view(np.int64)
    if rows == 1 or options.consecutive or options.shared_noise:
        return one
    return np.asarray(detsample.fold_in(one, np.arange(rows)))


def read_seeds(file: Path, rows: int) -> np.ndarray:
    """A seed for each row of the logits, int64."""
    if file.suffix == ".npy":
        array = _load(file)
        if not isinstance(array, np.ndarray):
            raise Failure(f"{file}: seeds must be one array in a .npy, and this is a .npz under that name")
        if array.dtype.kind not in "iu":
            raise Failure(f"{file}: seeds must be integers, got {array.dtype}")
        numbers = [int(seed) for seed in array.reshape(-1)]
    else:
        try:
            numbers = [integer(word) for word in file.read_text(encoding="utf-8").split()]
        except OSError as error:
            raise Failure(f"{file}: {error.strerror or error}") from error
        except ValueError as error:
            raise Failure(f"{file}: seeds must be integers ({error})") from error
    if len(numbers) != rows:
        raise Failure(f"{file}: {len(numbers)} seeds for {rows} rows of logits")
    if any(not -(1 << 63) <= seed <= MASK64 for seed in numbers):
        raise Failure(f"{file}: seeds must be 64-bit integers, signed or unsigned")
    return np.array([seed & MASK64 for seed in numbers], np.uint64).view(np.int64)


def selected(rows: tuple[int, int | None], count: int) -> tuple[int, int]:
    """The first row, and the one behind the last."""
    start, stop = rows[0], count if rows[1] is None else rows[1]
    if not 0 <= start <= stop <= count:
        raise Failure(f"--rows {start}:{stop} is not within the file's {count} rows")
    return start, stop


def row_range(text: str) -> tuple[int, int | None]:
    start, colon, stop = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"expected A:B, A: or :B, got {text!r}")
    try:
        return int(start or 0), int(stop) if stop else None
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected A:B, A: or :B, got {text!r}") from None


def check_position(options: argparse.Namespace, stop: int) -> None:
    """Raise Failure unless every row before `stop` has a valid position."""
    if not 0 <= options.position <= (1 << 63) - 1 - (stop if options.consecutive else 0):
        raise Failure(f"--position must be between 0 and 2^63 - 1 in every row, got {options.position}")


def integer(text: str) -> int:
    """An integer in any base that its prefix names."""
    return int(text, 0)


class Table:
    """Prints a line for each row, as soon as it is known."""

    def __init__(self, options: argparse.Namespace, stop: int) -> None:
        self._columns = {"row": max(3, len(str(stop - 1))), "token": 8, "kept": 8}
        self._columns |= {"logprob": 13} if options.logprobs else {}
        self._columns |= {"log_z": 13} if options.log_z else {}
        self._columns |= {"status": -1}
        self._headed = False

    def _line(self, cells: Iterable[Any]) -> None:
        """Print a line; before the first one the names of the columns."""
        if not self._headed:
            self._headed = True
            self._line(self._columns)
        print(line(list(cells), list(self._columns.values())))

    def rows(self, block: Block) -> None:
        """Print the rows of a block."""
        for row in block.rows():
            row["status"] = row["why"] or "ok"
            self._line(shortest(row[name]) if name in FLOATS else row[name] for name in self._columns)

    def end(self, digest: str) -> None:
        """Print the digest of all rows."""
        print(f"\ndigest of all results: {digest}")


class Json:
    """Collects the rows for one object."""

    def __init__(self, options: argparse.Namespace, logits: np.ndarray, start: int, stop: int) -> None:
        self._head = {
            "detsample": detsample.__version__,
            "contract": detsample.CONTRACT_VERSION,
            "file": str(options.file),
            "shape": list(logits.shape),
            "rows": [start, stop],
            "device": options.device,
            "parameters": {name: _number(value) for name, value in filters(options).items()},
        }
        self._results: list[dict[str, Any]] = []

    def rows(self, block: Block) -> None:
        """Take the rows of a block."""
        for row in block.rows():
            made: dict[str, Any] = {}
            for name, value in row.items():
                made[name] = _number(value.item() if isinstance(value, np.generic) else value)
                made |= {f"{name}_bits": bits(value)} if name in FLOATS else {}
            self._results.append(made)

    def end(self, digest: str) -> None:
        """Print it all."""
        whole = self._head | {"results": self._results, "digest": digest}
        print(json.dumps(whole, indent=1, ensure_ascii=False))


def _number(value: Any) -> Any:
    """A value as JSON has it: null for NaN, and infinities in words."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
