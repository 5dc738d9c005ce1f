"""Writers across forks, pickles, threads and kinds, and files that are sealed and yet no record."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detsample import rollout
from detsample.rollout import parquet
from detsample.rollout.record import Record

pq = pytest.importorskip("pyarrow.parquet")
pa = pytest.importorskip("pyarrow")

V = 60


def logits_of(record: Record) -> np.ndarray:
    """The logits of a token, a function of its position."""
    rows = [np.random.default_rng(p).standard_normal(V).astype(np.float32) for p in record.position.tolist()]
    return np.array(rows, np.float32).reshape(-1, V)


def drawn(first: int = 0, rows: int = 4, **how: Any) -> Record:
    """A record of some positions, which no other has."""
    at = np.arange(first, first + rows)
    logits = np.concatenate([np.random.default_rng(p).standard_normal((1, V)).astype(np.float32) for p in at.tolist()])
    return Record.of(rollout.draw(logits, 7, position=at, top_p=0.9, top_n=2, **how), 0)


def positions(folder: Path) -> list[int]:
    """The positions of all tokens of a folder: none is missing, and none there twice."""
    return sorted(p for record in rollout.read(folder) for p in record.position.tolist())


# ---- forks, pickles, threads


def _in_child(act: Any) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_a_writer_that_is_forked_loses_nothing_and_writes_nothing_twice(tmp_path: Path) -> None:
    """Would catch two processes with one name and number, whose files overwrite each other (4 tokens of 8 were there),
    and what the parent had in memory, written by both.
    """
    writer = rollout.Writer(tmp_path, batch_tokens=1000)
    writer.append(drawn(0))

    def child() -> None:
        assert (writer.pending, writer.durable) == (0, 0)
        writer.append(drawn(100))
        writer.flush()
        assert writer.durable == 4

    for _ in range(2):
        _in_child(writer.close)
    _in_child(child)
    writer.append(drawn(4))
    writer.close()
    assert writer.durable == 8
    assert positions(tmp_path) == [*range(8), *range(100, 104)]


def test_a_fork_while_another_thread_writes_does_not_hang(tmp_path: Path) -> None:
    """Would catch a lock that is held in the child by a thread that does not exist there."""
    writer = rollout.Writer(tmp_path, batch_tokens=8)
    stop = threading.Event()
    written = []

    def write() -> None:
        while not stop.is_set():
            writer.append(drawn(4 * len(written)))
            written.append(None)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(5):
            first = 100_000 + 10 * number
            _in_child(lambda first=first: (writer.append(drawn(first)), writer.close()))
    finally:
        stop.set()
        thread.join()
    writer.close()
    expected = [*range(4 * len(written)), *(100_000 + 10 * n + i for n in range(5) for i in range(4))]
    assert positions(tmp_path) == expected


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_writer_cannot_be_copied(tmp_path: Path, copied: Any) -> None:
    """Would catch a copy with the same name, in this process or another."""
    with pytest.raises(TypeError, match="make one of the same folder"):
        copied(rollout.Writer(tmp_path))


def test_threads_share_a_writer(tmp_path: Path) -> None:
    """Would catch batches torn by threads: there was a corrupt file and no error."""
    writer = rollout.Writer(tmp_path, batch_tokens=10)
    parts = [drawn(4 * number) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(writer.append, parts))
    writer.close()
    assert writer.durable == 160
    assert positions(tmp_path) == list(range(160))


def test_a_signal_handler_that_flushes_within_a_flush_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a batch written twice at once by one thread."""
    writer = rollout.Writer(tmp_path)
    writer.append(drawn(0))
    real = parquet.write

    def interrupted(file: Any, record: Record) -> None:
        writer.flush()

    monkeypatch.setattr(parquet, "write", interrupted)
    with pytest.raises(RuntimeError, match="this very thread"):
        writer.flush()
    monkeypatch.setattr(parquet, "write", real)
    writer.close()
    assert positions(tmp_path) == [0, 1, 2, 3]


def test_two_writers_of_two_kinds_cannot_begin_one_folder(tmp_path: Path) -> None:
    """Would catch a folder that `load` cannot join, because each writer looked before the other wrote."""
    one, other = rollout.Writer(tmp_path), rollout.Writer(tmp_path)
    one.append(drawn(0))
    with pytest.raises(ValueError, match="filter order joint"):
        other.append(drawn(4, filter_order="joint"))
    one.close()
    other.append(drawn(4))
    other.close()
    assert positions(tmp_path) == list(range(8))


def test_a_batch_that_no_file_may_hold_becomes_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a file that the reader refuses, and tokens lost or doubled where a batch is divided."""
    from detsample.rollout import writer as module

    monkeypatch.setattr(module, "MOST_IDS", 40)
    writer = rollout.Writer(tmp_path)
    writer.append(drawn(0, 20))
    writer.close()
    found = list(rollout.read(tmp_path))
    assert len(found) > 2
    assert all(len(record.kept.token_ids) <= 40 for record in found if record.kept is not None)
    assert positions(tmp_path) == list(range(20))
    assert writer.durable == 20


def test_offsets_beyond_int32_are_an_error() -> None:
    """Would catch offsets cast unchecked: [0, 5, 2^32 + 10] gave [0, 5, 10]."""
    with pytest.raises(ValueError, match="values, got 4294967306"):
        parquet._lists(np.array([0, 5, (1 << 32) + 10]), np.zeros(10, np.int32))


# ---- records that no draw gives


def _sets(record: Record, **change: Any) -> Record:
    assert record.kept is not None
    return replace(record, kept=replace(record.kept, **change))


def _changed(name: str, value: Any, row: int = 1) -> Any:
    def change(record: Record) -> Record:
        column = getattr(record, name).copy()
        column[row] = value
        return replace(record, **{name: column})

    return change


IMPOSSIBLE = {
    "id outside": (_changed("token_ids", V), "token_ids must be between 0 and 59, got 60 in row 1"),
    "negative id": (_changed("token_ids", -5), "token_ids must be between"),
    "count": (_changed("num_kept", V + 1), "num_kept"),
    "count of a valid row": (_changed("num_kept", 0), "num_kept"),
    "status": (_changed("status", 99), "status"),
    "token of an invalid row": (_changed("status", 1), "token_ids must be -1"),
    "rank": (_changed("rank", V), "rank"),
    "first tokens": (_changed("top_token_ids", V), "top_token_ids"),
    "kept count": (_changed("num_kept", 1, 0), "kept"),
    "kept id": (lambda r: _sets(r, token_ids=r.kept.token_ids + V), "kept.token_ids"),
    "kept order": (lambda r: _sets(r, token_ids=r.kept.token_ids[::-1].copy()), "kept.token_ids must ascend"),
    "dropped": (lambda r: _sets(r, dropped=~r.kept.dropped), "kept"),
    "vocabulary": (lambda r: replace(r, vocab=0), "vocab must be an integer between"),
    "vocabulary of another type": (lambda r: replace(r, vocab="x"), "vocab must be an integer"),
    "contract": (lambda r: replace(r, contract_version=True), "contract_version must be an integer"),
    "filter order": (lambda r: replace(r, filter_order="first"), "filter_order must be one of"),
    "seeds": (lambda r: replace(r, topp_seed=r.topp_seed.astype(float)), "topp_seed must be int64"),
    "length": (lambda r: replace(r, rank=r.rank[:2]), r"rank must be int32 \[4\]"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_writer_refuses_what_no_draw_gives(tmp_path: Path, name: str) -> None:
    """Would catch a file written that its own reader refuses, long after the fault."""
    change, message = IMPOSSIBLE[name]
    with rollout.Writer(tmp_path) as writer:
        with pytest.raises(ValueError, match=message):
            writer.append(change(drawn(0)))
        assert writer.pending == 0


def seal(table: Any, about: dict[str, Any] | bytes) -> bytes:
    """A file with a right seal around any table and any words: what nobody's accident makes."""
    words = about if isinstance(about, bytes) else json.dumps(about).encode()
    stream = pa.BufferOutputStream()
    with pq.ParquetWriter(stream, table.schema, compression="zstd") as writer:
        writer.write_table(table, row_group_size=max(1, table.num_rows))
        writer.add_key_value_metadata({parquet.KEY: words})
    content = bytes(stream.getvalue())
    start = len(content) - int.from_bytes(content[-8:-4], "little") - 8
    return content[:start] + parquet._sealed(content[start:], hashlib.sha256(content[:start]).hexdigest())


def table_and_words(record: Record) -> tuple[Any, dict[str, Any]]:
    """What a record's file has inside."""
    table = pa.Table.from_arrays(parquet._arrays(record), schema=parquet._SCHEMA)
    words = {
        "format": parquet.FORMAT, "contract_version": record.contract_version, "vocab": record.vocab,
        "top_n": record.top_token_ids.shape[1], "keep_sets": record.kept is not None,
        "filter_order": record.filter_order, "detsample": "0", "data_sha256": "0" * 64, "footer_sha256": "0" * 64,
    }  # fmt: skip
    return table, words


def _replaced(name: str, values: Any, kind: Any = None) -> Any:
    def change(table: Any) -> Any:
        field = table.schema.field(name) if kind is None else pa.field(name, kind)
        return table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))

    return change


TABLES = {
    "token": _replaced("token_ids", [0, 1, 2, V]),
    "wrapped tokens": _replaced("token_ids", [0, 1, 2, (1 << 32) + 1], pa.int64()),
    "float seeds": _replaced("topp_seed", [0.5, 1, 2, 3], pa.float64()),
    "text": _replaced("position", ["0", "1", "2", "3"], pa.string()),
    "lists of other lengths": _replaced("top_token_ids", [[0, 1], [0], [0, 1, 2], [0, 1]]),
    "kept sets outside": _replaced("kept_token_ids", [[V], [0], [0], [0]]),
    "no column": lambda table: table.drop_columns(["rank"]),
    "one more column": lambda table: table.append_column("more", pa.array([1, 2, 3, 4])),
    "other names": lambda table: table.rename_columns([f"x{i}" for i in range(table.num_columns)]),
}
WORDS: dict[str, Any] = {
    "vocabulary x": {"vocab": "x"}, "vocabulary 0": {"vocab": 0}, "vocabulary -1": {"vocab": -1},
    "vocabulary true": {"vocab": True}, "huge vocabulary": {"vocab": 10**30},
    "contract true": {"contract_version": True}, "contract float": {"contract_version": 2.0},
    "first tokens": {"top_n": 3}, "many first tokens": {"top_n": 10**12},
    "no sets": {"keep_sets": False}, "sets": {"keep_sets": 1}, "order": {"filter_order": ["joint"]},
    "format": {"format": {}}, "small vocabulary": {"vocab": 5},
}  # fmt: skip


def bad_files() -> dict[str, bytes]:
    """Files with a right seal that are no records."""
    table, words = table_and_words(drawn(0))
    found = {name: seal(change(table), words) for name, change in TABLES.items()}
    found |= {name: seal(table, words | change) for name, change in WORDS.items()}
    ends = b', "data_sha256": "' + b"0" * 64 + b'", "footer_sha256": "' + b"0" * 64 + b'"}'
    found["deep"] = seal(table, b'{"format": ' + b"[" * 100_000 + b"]" * 100_000 + ends)
    found["no object"] = seal(table, b"[" + ends[2:-1] + b"]")
    found["missing"] = seal(table, b'{"format": "detsample rollout 2"' + ends)
    return found


def test_what_is_sealed_and_no_record_is_refused_and_the_audit_goes_on(tmp_path: Path) -> None:
    """Would catch numbers believed because the seal is right: `audit` raised IndexError or ZeroDivisionError, and named
    no file.
    """
    with rollout.Writer(tmp_path) as writer:
        writer.append(drawn(0))
    table, words = table_and_words(drawn(0))
    assert len(rollout.load(tmp_path)) == 4
    (tmp_path / "00000001-whole.parquet").write_bytes(seal(table, words))
    bad = bad_files()
    for number, content in enumerate(bad.values(), 2):
        (tmp_path / f"{number:08d}-bad.parquet").write_bytes(content)
    with ThreadPoolExecutor(1) as pool:
        found = rollout.audit(tmp_path, logits_of, executor=pool)
    assert [file.error is None for file in found.files] == [True, True] + [False] * len(bad)
    assert found.tokens == 8
    for file in found.bad:
        assert str(file).startswith(str(file.path))
        with pytest.raises(rollout.RecordError):
            parquet.read(file.path)


def test_files_of_contract_1_are_refused_with_the_reason(tmp_path: Path) -> None:
    """Would catch an old record replayed under rules that draw other tokens, or refused without a word of why."""
    table, words = table_and_words(drawn(0))
    for old in ({"format": "detsample rollout 1", "contract_version": 1}, {"contract_version": 1}):
        file = tmp_path / "00000000-old.parquet"
        file.write_bytes(seal(table, words | old))
        with pytest.raises(rollout.RecordError, match="other tokens under contract 2"):
            rollout.load(tmp_path)
        with pytest.raises(rollout.RecordError, match="other tokens under contract 2"):
            rollout.Writer(tmp_path)


def test_what_is_no_file_is_neither_read_nor_waited_for(tmp_path: Path) -> None:
    """Would catch a link to /dev/zero that is read without end, and a pipe that is waited for."""
    (tmp_path / "0-zero.parquet").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "1-pipe.parquet")
    (tmp_path / "2-folder.parquet").mkdir()
    sparse = tmp_path / "3-sparse.parquet"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    for path in rollout.files(tmp_path):
        for read in (parquet.read, parquet.about):
            with pytest.raises(rollout.RecordError, match=re.escape(str(path))):
                read(path)
    with pytest.raises(rollout.RecordError):
        rollout.load("/dev/zero")


def test_out_of_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a whole file called damaged because a machine was too small; an audit tells, and goes on."""
    for first in (0, 4):
        with rollout.Writer(tmp_path) as writer:
            writer.append(drawn(first))
    real, calls = pq.ParquetFile, []

    def small(source: Any) -> Any:
        calls.append(source)
        if len(calls) == 1:
            raise pa.ArrowMemoryError("malloc of size 64 failed")
        return real(source)

    monkeypatch.setattr(pq, "ParquetFile", small)
    with pytest.raises(MemoryError):
        parquet.read(rollout.files(tmp_path)[0])
    calls.clear()
    with ThreadPoolExecutor(1) as pool:
        found = rollout.audit(tmp_path, logits_of, executor=pool)
    assert [file.error is None for file in found.files] == [False, True]
    assert "memory" in str(found.bad[0])
    assert "damaged" not in str(found.bad[0])


def test_files_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """Would catch a ninth digit sorted as text, and a writer that goes on at a number that is taken."""
    for name in ("99999999-a.parquet", "100000000-a.parquet"):
        (tmp_path / name).write_bytes(seal(*table_and_words(drawn(0))))
    assert [path.name for path in rollout.files(tmp_path)] == ["99999999-a.parquet", "100000000-a.parquet"]
    with rollout.Writer(tmp_path) as writer:
        writer.append(drawn(4))
    assert rollout.files(tmp_path)[-1].name.startswith("100000001-")


@pytest.mark.parametrize("order", ["top_k_first", "min_p_first", "joint"])
def test_the_filter_order_is_recorded_and_replayed(tmp_path: Path, order: str) -> None:
    """Would catch a record replayed in another order than it was drawn in."""
    record = drawn(0, 12, top_k=9, min_p=0.08, filter_order=order)
    with rollout.Writer(tmp_path) as writer:
        writer.append(record)
    back = rollout.load(tmp_path)
    assert back.filter_order == order
    assert rollout.replay(back, logits_of(back)).same
