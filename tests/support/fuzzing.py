"""Readers given what nobody wrote: no traceback, no hang, no crash, memory bounded, and nothing wrong believed.

    python tests/support/fuzzing.py --inputs 1000000 --out docs/results/fuzzing.json

Inputs are files of tests/data/corpus, changed: bits, bytes, pieces cut, doubled, moved, numbers replaced. Half of them
are then sealed anew, as an adversary would, or none would get past the seal. They are read in children, so that a crash
or a hang is a finding and not the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import platform
import random
import re
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

CORPUS = Path(__file__).resolve().parents[1] / "data" / "corpus"
SHARES = {"golden": 5, "parquet": 2, "logits": 3, "kind": 2}
"""Of twelve inputs, how many go to which reader."""
NUMBER = re.compile(rb"(?<=[ :])-?\d+(\.\d+)?(?=[,}\s])")
NUMBERS = (b"0", b"-1", b"1e400", b"2147483648", b"9223372036854775808", b"NaN", b"null", b"true", b'"x"', b"[]", b"{}")


def changed(rng: random.Random, content: bytes) -> bytes:
    """A file that is a little, or very, different."""
    found = bytearray(content)
    while found:
        at, length = rng.randrange(len(found)), 1 << rng.randrange(10)
        kind = rng.randrange(10)
        if kind == 0:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            del found[at : at + length]
        elif kind == 3:
            found[at:at] = found[at : at + length]
        elif kind == 4:
            found[at : at + length] = rng.randbytes(min(length, 64))
        elif kind == 5 and rng.randrange(8) == 0:
            del found[at:]
        else:  # a number, or what a reader takes for one
            one = NUMBER.search(found, at)
            if one:
                found[one.start() : one.end()] = rng.choice(NUMBERS)
        if rng.randrange(2):
            break
    return bytes(found)


EDGES = (0, 1, -1, 2, 3, 4, 5, 60, 128, (1 << 31) - 1, -(1 << 31), (1 << 63) - 1, -(1 << 63), None, 0.5, float("nan"))


def other_numbers(rng: random.Random, content: bytes) -> bytes:
    """A record's file of which one number of one column, or of its words, is another; as it is where that cannot be."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with suppress(pa.ArrowException, ValueError, TypeError, KeyError, OverflowError, OSError):
        table = pq.read_table(pa.BufferReader(content))
        words = table.schema.metadata[b"detsample"]
        at = rng.randrange(table.num_columns + 1)
        if at == table.num_columns:
            words = changed(rng, words)
        else:
            values, field = table.column(at).to_pylist(), table.schema.field(at)
            row = rng.randrange(len(values))
            if isinstance(values[row], list) and rng.randrange(4):
                values[row] = [*values[row], rng.choice(EDGES)][rng.randrange(2) :]
            else:
                values[row] = [rng.choice(EDGES)] if pa.types.is_list(field.type) else rng.choice(EDGES)
            table = table.set_column(at, field, pa.array(values, field.type))
        stream = pa.BufferOutputStream()
        with pq.ParquetWriter(stream, table.schema.remove_metadata()) as writer:
            writer.write_table(table.replace_schema_metadata())
            writer.add_key_value_metadata({b"detsample": words})
        return bytes(stream.getvalue())
    return content


def other(name: str, rng: random.Random, content: bytes) -> bytes:
    """An input of a reader, changed."""
    return other_numbers(rng, content) if name == "parquet" and rng.randrange(2) else changed(rng, content)


def sealed_parquet(content: bytes) -> bytes:
    """The same with both digests right, if it still has places for them."""
    from detsample.rollout import parquet

    size = int.from_bytes(content[-8:-4], "little") + 8
    start = max(0, len(content) - size)
    places = [*parquet._SEAL.finditer(content[start:])]
    if len(places) != 1:
        return content
    (seal,) = places
    footer = bytearray(content[start:])
    for group in (1, 2):
        footer[seal.start(group) : seal.end(group)] = b"0" * 64
    return content[:start] + parquet._sealed(bytes(footer), hashlib.sha256(content[:start]).hexdigest())


def sealed_golden(content: bytes) -> bytes:
    """The same with the right seal, if it still is JSON."""
    from detsample.golden.record import sealed

    with suppress(ValueError, RecursionError):
        whole = json.loads(content)
        if isinstance(whole, dict):
            return json.dumps(sealed(whole)).encode()
    return content


def read_golden(path: Path) -> str:
    """Read a golden file: refused, or a record that can be written and compared."""
    from detsample import golden
    from detsample.golden.record import dumps, loads

    try:
        found = golden.load(path)
    except golden.GoldenError as error:
        return _refused(path, error)
    text = dumps(found)
    assert dumps(loads(text)) == text
    golden.diff(found, found).text()
    return "read"


def _refused(path: Path, error: Exception) -> str:
    if str(path) not in str(error):
        raise AssertionError(f"does not name the file: {error}")
    return "refused"


def read_parquet(path: Path) -> str:
    """Read a record's file: refused, or a record of which every number is in range."""
    from detsample import rollout
    from detsample.rollout import parquet, validity

    try:
        found = parquet.read(path)
    except rollout.RecordError as error:
        return _refused(path, error)
    validity.check(found)
    found.in_order()
    return "read"


def read_logits(path: Path) -> str:
    """Read kept logits of the corpus' golden file: refused, or exactly those."""
    from detsample.golden import GoldenError
    from detsample.golden.record import _read_logits

    try:
        found = _read_logits(path, (2, 4))
    except (MemoryError, AssertionError):
        raise
    except (GoldenError, Exception):  # whatever it is, `load_logits` makes a GoldenError of it
        return "refused"
    assert found.shape == (2, 4)
    return "read"


def read_kind(path: Path) -> str:
    """Read what says of which kind a folder is."""
    from detsample.rollout.folder import RecordError, claim
    from detsample.rollout.record import Kind

    try:
        claim(path.parent, Kind(2, 60, 2, True, "joint"))
    except RecordError:
        return "refused"
    return "read"


READERS: dict[str, Callable[[Path], str]] = {
    "golden": read_golden, "parquet": read_parquet, "logits": read_logits, "kind": read_kind,
}  # fmt: skip
NAMES = {"golden": "g.json", "parquet": "00000000-a.parquet", "logits": "g.logits.npz", "kind": ".kind.json"}


SEALED: dict[str, Callable[[bytes], bytes]] = {"golden": sealed_golden, "parquet": sealed_parquet}


def corpus(name: str) -> list[bytes]:
    """What a reader's inputs are made of: a whole file, and inputs that `guided_fuzzing.py` found to reach much."""
    return [(CORPUS / name).read_bytes(), *(path.read_bytes() for path in sorted((CORPUS / "grown" / name).glob("*")))]


def in_memory() -> str | None:
    """A folder that is no disk's, if there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def make_corpus() -> None:
    """Write the files that inputs are made of."""
    from detsample import golden, rollout
    from detsample.rollout import folder

    CORPUS.mkdir(parents=True, exist_ok=True)
    x = np.random.default_rng(1).standard_normal((2, 4), dtype=np.float32)
    how = {"position": np.arange(2), "temperature": np.float32([0.7, 0]), "top_p": 0.9}
    golden.save(golden.record(x, np.arange(2), **how), CORPUS / "golden")
    np.savez_compressed(CORPUS / "logits.npz", logits=x)
    (CORPUS / "logits.npz").rename(CORPUS / "logits")
    with tempfile.TemporaryDirectory() as made:
        with rollout.Writer(made) as writer:
            writer.append(rollout.draw(x, np.arange(2), **how, top_n=2), sequence=1)
        (CORPUS / "parquet").write_bytes(rollout.files(made)[0].read_bytes())
        (CORPUS / "kind").write_bytes((Path(made) / folder.KIND_FILE).read_bytes())


def fuzz(seed: int, inputs: int, seconds: float = 10.0) -> Counter[str]:
    """Give readers so many inputs; how many of each were read or refused. What a reader does wrong is raised."""
    rng, told = random.Random(seed), Counter[str]()
    seeds = {name: corpus(name) for name in SHARES}
    names = [name for name, share in SHARES.items() for _ in range(share)]
    with tempfile.TemporaryDirectory(dir=in_memory()) as folder:
        for number in range(inputs):
            name = names[number % len(names)]
            content = other(name, rng, rng.choice(seeds[name]))
            if number // len(names) % 2:
                content = SEALED.get(name, bytes)(content)
            path = Path(folder) / NAMES[name]
            path.write_bytes(content)
            signal.setitimer(signal.ITIMER_REAL, seconds)
            try:
                told[f"{name} {READERS[name](path)}"] += 1
            except BaseException as error:
                kept = Path(tempfile.gettempdir()) / f"found-{name}-{seed}-{number}"
                kept.write_bytes(content)
                raise AssertionError(f"{kept}: {type(error).__name__}: {error}") from error
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    return told


def main() -> None:
    """Fuzz, and write down what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--make-corpus", action="store_true", help="write tests/data/corpus anew, and nothing else")
    options = parser.parse_args()
    if options.make_corpus:
        make_corpus()
        return
    at_a_time, started = 10_000, time.monotonic()
    seeds = range(options.seed, options.seed + -(-options.inputs // at_a_time))
    told: Counter[str] = Counter()
    with multiprocessing.get_context("fork").Pool(options.processes) as pool:
        for part in pool.imap_unordered(_part, ((seed, at_a_time) for seed in seeds)):
            told += part
            seconds = round(time.monotonic() - started)
            _write(told, seconds, options.out)
            print(f"{sum(told.values()):,} inputs, {seconds} s", file=sys.stderr, flush=True)


def _write(told: Counter[str], seconds: int, out: Path | None) -> None:
    found = {
        "what": "files changed at random, half of them sealed anew; each refused by name or read as a whole record",
        "inputs": sum(told.values()),
        "by_reader": dict(sorted(told.items())),
        "tracebacks": 0,
        "hangs_of_10_seconds": 0,
        "crashes": 0,
        "limit_of_memory_mb": 4096,
        "seconds": seconds,
        "python": platform.python_version(),
    }
    if out:
        out.write_text(json.dumps(found, indent=2) + "\n")


def _part(given: tuple[int, int]) -> Counter[str]:
    import pyarrow

    pyarrow.set_cpu_count(1)
    memory = 4 << 30
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    return fuzz(*given)


if __name__ == "__main__":
    main()
