"""The golden file: JSON that a person can read, and from which every bit can be restored.

It is sealed: a digest of the request stands in it, and one of the rest, so that a bit that flipped is found, and a
request that was changed by hand is told from a sampler that was. They are digests of the numbers and words, not of
blanks and line ends, which an editor or a version control may change. Against malice they are no help: who changes a
file can seal it anew.
"""

from __future__ import annotations

import json
import math
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from detsample.files import open_regular, whole
from detsample.reference.float_mode import usual_mode
from detsample.sampler.parameters import LARGEST_VOCABULARY, as_integer, read_filter_order

FORMAT = "detsample golden 2"
LARGEST_FILE = 1 << 30
REQUEST = ("topp_seed", "position", "temperature", "top_k", "top_p", "min_p")
"""What a row is drawn with, besides its logits."""
_FLOATS = ("temperature", "top_p", "min_p", "logprob", "margin")
_SMALL, _LARGE = (-(1 << 31), (1 << 31) - 1), (-(1 << 63), (1 << 63) - 1)
_INTEGERS = {
    "topp_seed": (-(1 << 63), (1 << 64) - 1), "position": _LARGE, "top_k": _LARGE,
    "token_id": _LARGE, "num_kept": _SMALL, "status": _SMALL, "applied": _LARGE,
}  # fmt: skip
"""The range of each integer, also for invalid rows."""
_BEYOND_FP32 = (1 << 128) - (1 << 103)
"""The smallest number that rounds to infinity."""


class GoldenError(ValueError):
    """A golden file cannot be used; the message names the file and what is wrong."""


class RequestChangedError(GoldenError):
    """The request in a golden file is not the one that its tokens were drawn with: somebody has changed it there."""


@dataclass(frozen=True)
class Row:
    """One token and what it was drawn from. Floats are exact fp32 values.

    Attributes
    ----------
    topp_seed, position, temperature, top_k, top_p, min_p
        The request, as `detsample.sample` takes it; the seed as a signed integer.
    fingerprint : str
        The fingerprint of the logits' bits: see `fingerprints`.
    token_id, num_kept, status : int
        As of `detsample.SampleOutput`.
    logprob : float
        Natural logarithm, of the token among the kept ones; NaN in an invalid row.
    margin : float
        How far the logits may move without changing the token, in their own unit: `detsample.margin`.
    largest : tuple of (int, float)
        The first tokens in order and the drawn one, with their logits: enough to see by how much logits drifted
        where it matters.
    applied : int
        A digest of the draw's `allowed` and `processing`; 0, and not in the file, where neither had to say anything.
    """

    topp_seed: int
    position: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    fingerprint: str
    token_id: int
    num_kept: int
    status: int
    logprob: float
    margin: float
    largest: tuple[tuple[int, float], ...]
    applied: int = 0


@dataclass(frozen=True)
class Golden:
    """A record of some rows.

    Attributes
    ----------
    contract_version : int
        The sampling contract that the tokens were drawn under.
    vocab : int
        Number of columns of the logits.
    dtype : str
        Element type of the logits.
    filter_order : str
        The draw's, as of `detsample.sample`.
    sequence : bool
        Whether the rows are the steps of one text, so that a token decides what the logits behind it are of.
    rows : tuple of Row
    recorded_with : mapping
        Versions, for the reader; never compared.
    logits_file : str or None
        Name of the .npz beside the file that has all logits; None where they were not kept.
    """

    contract_version: int
    vocab: int
    dtype: str
    filter_order: str
    sequence: bool
    rows: tuple[Row, ...]
    recorded_with: Mapping[str, str]
    logits_file: str | None = None


def shortest(value: float) -> float:
    """An fp32 value as the double of fewest digits that rounds to it.

    >>> shortest(np.float32(0.8))
    0.8
    """
    single = np.float32(value)
    if not np.isfinite(single):
        return float(single)
    short = float(np.format_float_scientific(single, unique=True))
    return short if np.float32(short) == single else float(single)


@usual_mode
def save(golden: Golden, file: str | os.PathLike[str], logits: np.ndarray | None = None) -> None:
    """Write a golden file, one row a line.

    Parameters
    ----------
    golden : Golden
    file : path
        Written under another name first: a reader never finds half a file.
    logits : [B, V] float32, optional
        Kept beside it as ``<stem>.<digest>.logits.npz``, so that a later drift is known exactly. Those that the file
        had before are removed when the new file is in its place: whatever comes in between, the file is whole and
        finds the logits that it names.

    Raises
    ------
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from detsample.golden import record
    >>> folder = Path(tempfile.mkdtemp())
    >>> rows = np.zeros((2, 50), np.float32)
    >>> save(record(rows, np.array([7, 8])), folder / "chat.json", rows)
    >>> [path.name for path in sorted(folder.iterdir())]
    ['chat.634b663fbb282a56.logits.npz', 'chat.json']
    """
    path = Path(file)
    before = _named_logits(path)
    if logits is not None:
        digest = sha256("".join(row.fingerprint for row in golden.rows).encode()).hexdigest()[:16]
        golden = replace(golden, logits_file=f"{path.stem}.{digest}.logits.npz")
        with whole(path.with_name(str(golden.logits_file))) as stream:
            np.savez_compressed(stream, logits=np.ascontiguousarray(logits, "<f4"))
    with whole(path) as stream:
        stream.write(dumps(golden).encode())
    if before not in (None, golden.logits_file):
        with suppress(OSError):
            path.with_name(str(before)).unlink()


def _named_logits(path: Path) -> str | None:
    """The logits that a golden file names, if they are its own."""
    try:
        name = json.loads(_text(path))["logits_file"]
    except (GoldenError, KeyError, TypeError, ValueError, RecursionError):
        return None
    if not isinstance(name, str) or not re.fullmatch(re.escape(path.stem) + r"\.[0-9a-f]{16}\.logits\.npz", name):
        return None
    return name


def dumps(golden: Golden) -> str:
    """The text of a golden file."""
    rows = [_row_object(row) for row in golden.rows]
    common = {name: rows[0][name] for name in REQUEST if rows and all(row[name] == rows[0][name] for row in rows)}
    lines = [{k: v for k, v in row.items() if k not in common} for row in rows]
    content = sealed({
        "format": FORMAT,
        "seal": "",
        "request_seal": "",
        "contract_version": golden.contract_version,
        "recorded_with": dict(golden.recorded_with),
        "vocabulary": golden.vocab,
        "dtype": golden.dtype,
        "filter_order": golden.filter_order,
        "sequence": golden.sequence,
        "logits_file": golden.logits_file,
        "parameters": common,
        "rows": lines,
    })  # fmt: skip
    text = json.dumps({k: v for k, v in content.items() if k != "rows"}, indent=1, ensure_ascii=False)
    body = ",\n  ".join(json.dumps(line, ensure_ascii=False) for line in lines)
    return text.removesuffix("\n}") + ',\n "rows": [\n  ' + body + "\n ]\n}\n"


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a golden file with the seals that belong to it."""
    content = content | {"request_seal": _request_seal(content)}
    return content | {"seal": _seal(content)}


def _request_seal(content: dict[str, Any]) -> str:
    """A digest of what the rows are drawn with, besides their logits."""
    rows = [{name: row[name] for name in REQUEST if name in row} for row in _lines(content)]
    return _digest([content.get("filter_order"), content.get("parameters"), rows])


def _seal(content: dict[str, Any]) -> str:
    """A digest of all the rest, the other seal with it."""
    rows = [{name: value for name, value in row.items() if name not in REQUEST} for row in _lines(content)]
    apart = ("seal", "filter_order", "parameters", "rows")
    return _digest([{name: value for name, value in content.items() if name not in apart}, rows])


def _lines(content: dict[str, Any]) -> list[dict[str, Any]]:
    rows = content.get("rows")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _digest(content: Any) -> str:
    return sha256(json.dumps(content).encode()).hexdigest()


def _row_object(row: Row) -> dict[str, Any]:
    made: dict[str, Any] = {field.name: getattr(row, field.name) for field in fields(row)}
    for name in _FLOATS:
        made[name] = _number(made[name])
    made["largest"] = {str(token): _number(logit) for token, logit in row.largest}
    return made if row.applied else {name: value for name, value in made.items() if name != "applied"}


def _number(value: float) -> float | str | None:
    """A number as JSON has it: null for NaN, and infinities in words."""
    short = shortest(value)
    return short if math.isfinite(short) else None if math.isnan(short) else str(short)


@usual_mode
def load(file: str | os.PathLike[str]) -> Golden:
    """Read a golden file.

    Parameters
    ----------
    file : path
        A file that `save` wrote.

    Returns
    -------
    Golden
        Equal to what was saved, to the last bit of each number.

    Raises
    ------
    GoldenError
        The file is missing, is no golden file or one of another format, does not have a field, or has a value that is
        not allowed. The message names the field. It is a `RequestChangedError` if nothing but the request was changed.

    Examples
    --------
    >>> import tempfile
    >>> from detsample.golden import record
    >>> file = Path(tempfile.mkdtemp(), "chat.json")
    >>> golden = record(np.zeros((2, 50), np.float32), np.array([7, 8]))
    >>> save(golden, file)
    >>> load(file) == golden
    True
    """
    path = Path(file)
    try:
        return loads(_text(path))
    except GoldenError as error:
        raise type(error)(f"{path}: {error}") from error


def _text(path: Path) -> str:
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > LARGEST_FILE:
                raise GoldenError(f"a golden file has at most {LARGEST_FILE} bytes, got {size}")
            return file.read(size).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise GoldenError(str(getattr(error, "strerror", None) or error)) from error


FIRST_CONTRACT = (
    "it was written under contract 1, and the same seeds and logits give other tokens under contract 2: record it anew"
)


def loads(text: str) -> Golden:
    """The golden file with this text."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GoldenError(f"not JSON ({error})") from error
    try:
        if not isinstance(content, dict) or "format" not in content:
            raise GoldenError("not a golden file: it does not say its format")
        if content["format"] == "detsample golden 1" or content.get("contract_version") == 1:
            raise GoldenError(FIRST_CONTRACT)
        if content["format"] != FORMAT:
            raise GoldenError(f"format must be {FORMAT!r}, got {content['format']!r:.80}")
        if content.get("seal") != _seal(content):
            raise GoldenError("damaged, or changed by hand: the seal is that of other content; record it anew")
        if content.get("request_seal") != _request_seal(content):
            raise RequestChangedError(
                "request changed: a seed, a position or another parameter in this file is not the one that its tokens "
                "were drawn with; undo that, or record it anew"
            )
        return _golden(content)
    except GoldenError:
        raise
    except KeyError as error:
        raise GoldenError(f"{error} is missing") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise GoldenError(str(error)) from error


_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "parameters": (dict, "an object"), "rows": (list, "a list"), "recorded_with": (dict, "an object"),
    "dtype": (str, "a string"), "sequence": (bool, "true or false"),
    "logits_file": ((str, type(None)), "a string or null"),
}  # fmt: skip


def _golden(content: dict[str, Any]) -> Golden:
    for name, (kind, expected) in _TYPES.items():
        _is_a(name, content[name], kind, expected)
    vocab = as_integer("vocabulary", content["vocabulary"], 1, LARGEST_VOCABULARY)
    version = as_integer("contract_version", content["contract_version"], 2, _LARGE[1])
    read_filter_order(content["filter_order"])
    rows = tuple(_row(index, vocab, content["parameters"], line) for index, line in enumerate(content["rows"]))
    same = {name: content[name] for name in ("dtype", "filter_order", "sequence", "recorded_with", "logits_file")}
    return Golden(version, vocab, rows=rows, **same)


def _is_a(name: str, value: Any, kind: type | tuple[type, ...], expected: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {expected}, got {value!r:.80}")


def _row(index: int, vocab: int, common: dict[str, Any], line: Any) -> Row:
    _is_a(f"row {index}", line, dict, "an object")
    made = {"applied": 0} | common | line
    try:
        values: dict[str, Any] = {name: _float(name, made[name]) for name in _FLOATS}
        values |= {name: as_integer(name, made[name], *bounds) for name, bounds in _INTEGERS.items()}
        if values["topp_seed"] >= 1 << 63:
            values["topp_seed"] -= 1 << 64  # the same 64 bits, with a sign
        values["fingerprint"] = str(made["fingerprint"])
        if not re.fullmatch("[0-9a-f]{32}", values["fingerprint"]):
            raise ValueError(f"fingerprint must be 32 hexadecimal digits, got {values['fingerprint']!r:.80}")
        _is_a("largest", made["largest"], dict, "an object")
        values["largest"] = tuple(_logit(vocab, *pair) for pair in made["largest"].items())
        return Row(**values)
    except KeyError as error:
        raise ValueError(f"row {index}: {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"row {index}: {error}") from error


def _float(name: str, value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not (isinstance(value, (int, float)) or value in ("inf", "-inf")):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if not isinstance(value, str) and _BEYOND_FP32 <= abs(value) < math.inf:
        raise ValueError(f"{name} must be a number that fp32 holds, got {value!r}")
    return float(np.float32(float(value)))


def _logit(vocab: int, token: str, logit: Any) -> tuple[int, float]:
    """A token of `Row.largest` and its logit."""
    if not re.fullmatch("[0-9]{1,9}", token) or int(token) >= vocab:
        raise ValueError(f"largest must have token ids below {vocab} for keys, got {token!r:.80}")
    return int(token), _float("largest", logit)


@usual_mode
def load_logits(file: str | os.PathLike[str], golden: Golden) -> np.ndarray | None:
    """The logits that were kept beside a golden file.

    Parameters
    ----------
    file : path
        The golden file, not the file of the logits: that one's name is in `golden`.
    golden : Golden
        What `load` read from it.

    Returns
    -------
    [B, V] float32, or None
        None if they were not kept, or the file is no longer there.

    Raises
    ------
    GoldenError
        They are there and are not these rows' (their fingerprints say so).

    Examples
    --------
    >>> import tempfile
    >>> from detsample.golden import record
    >>> file, rows = Path(tempfile.mkdtemp(), "chat.json"), np.ones((2, 50), np.float32)
    >>> save(record(rows, np.array([7, 8])), file, rows)
    >>> np.array_equal(load_logits(file, load(file)), rows)
    True
    """
    from detsample.golden.fingerprint import fingerprints

    if golden.logits_file is None:
        return None
    name = Path(golden.logits_file).name
    if not name:
        raise GoldenError(f"{file}: logits_file must be the name of a file, got {golden.logits_file!r}")
    path = Path(file).with_name(name)
    if not path.exists():
        return None
    try:
        logits = _read_logits(path, (len(golden.rows), golden.vocab))
    except MemoryError:
        raise
    except Exception as error:  # NumPy, zipfile and zlib each have errors of their own for a broken file
        raise GoldenError(f"{path}: not the logits of a golden file ({error})") from error
    if fingerprints(logits) != [row.fingerprint for row in golden.rows]:
        raise GoldenError(f"{path}: these are not the logits that were recorded")
    return logits


def _read_logits(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """The array of an npz. No more is unpacked than `shape` takes: a small file may hold any number of zeros."""
    with open_regular(path) as file, zipfile.ZipFile(file) as archive, archive.open("logits.npy") as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        found, by_columns, dtype = read(member)
        if found != shape or dtype != np.dtype("<f4") or by_columns:
            raise GoldenError(f"expected float32 {list(shape)} row by row, got {dtype} {list(found)}")
        size = 4 * shape[0] * shape[1]
        content = member.read(size + 1)
    if len(content) != size:
        raise GoldenError(f"expected {size} bytes of logits, got {'more' if len(content) > size else 'fewer'}")
    return np.frombuffer(content, "<f4").reshape(shape).astype(np.float32)


def request(rows: Sequence[Row]) -> dict[str, Any]:
    """The parameters of rows as the vectors that `detsample.sample` takes."""
    types = {"topp_seed": np.int64, "position": np.int64, "top_k": np.int64}
    return {name: np.array([getattr(row, name) for row in rows], types.get(name, np.float32)) for name in REQUEST}
