"""Replay and audit: what is as recorded is called so, and every kind of change is told by its name."""

from __future__ import annotations

import functools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cases
import kernel_path
import numpy as np
import pytest
import rollout_replay
from rollout_kills import assert_same

from detsample import rollout
from detsample.processing import Processing
from detsample.rollout import Record, replay
from detsample.rollout.replaying import MEANING, Replay

F32 = np.float32
ROWS, V = 40, 50


@functools.cache
def recorded(keep_sets: bool = True) -> tuple[Record, np.ndarray]:
    """A record of ordinary rows and its logits."""
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((ROWS, V), dtype=F32) * F32(2)
    drawn = rollout.draw(
        logits, np.arange(ROWS), position=np.arange(ROWS) + 5, top_p=F32(0.9), temperature=0.7, top_n=3
    )
    return Record.of(drawn, np.arange(ROWS) // 8, keep_sets=keep_sets), logits


def changed(record: Record, name: str, row: int, value: Any) -> Record:
    column = getattr(record, name).copy()
    column[row] = value
    return replace(record, **{name: column})


# ---- as recorded


@pytest.mark.parametrize("kind", cases.CASES)
def test_rows_of_every_kind_are_as_recorded(kind: str) -> None:
    """Catches a parameter or a result that a record does not hold exactly; invalid rows, NaNs and greedy ones too."""
    rng = np.random.default_rng(len(kind))
    logits, params = cases.CASES[kind](rng, 20, V), cases.parameters(rng, 20, V)
    record = Record.of(rollout.draw(logits, **params, top_n=2), 0)
    assert replay(record, logits) == Replay(20)
    assert str(replay(record, logits)) == "20 tokens, all as recorded"


@pytest.mark.parametrize("name", ["torch", "paddle"])
def test_replay_from_tensors(name: str) -> None:
    """Catches parameters that do not reach the tensors' framework."""
    framework = pytest.importorskip(name, reason=f"{name} is not installed")
    record, logits = recorded()
    tensor = (framework.from_numpy if name == "torch" else framework.to_tensor)(logits)
    assert replay(record, tensor).same
    assert replay(changed(record, "token_ids", 3, 49), tensor).first.row == 3  # type: ignore[union-attr]


@pytest.mark.paddles_own_kernels
@pytest.mark.gpu
def test_on_a_gpu() -> None:
    """Catches a tensor on a GPU that is drawn, recorded, replayed or weighed otherwise than an array."""
    record, logits = recorded()
    tensor = kernel_path.on_device(logits)
    given = {name: kernel_path.on_device(value) for name, value in record.parameters().items()}
    there = Record.of(rollout.draw(tensor, **given, top_n=3), kernel_path.on_device(record.sequence))
    assert replay(there, logits).same
    assert replay(record, tensor).same
    assert replay(changed(record, "token_ids", 3, 49), tensor).first.row == 3  # type: ignore[union-attr]
    found = rollout.kept_logprobs(tensor, record.kept, record.token_ids, temperature=record.temperature)
    assert np.abs(kernel_path.to_array(found.logprobs) - record.logprobs).max() < 1e-5
    assert not kernel_path.to_array(found.outside).any()


def test_sixteen_bit_logits() -> None:
    """Catches logits that are widened or rounded on their way."""
    logits = np.random.default_rng(1).standard_normal((9, V), dtype=F32).astype(np.float16)
    assert replay(Record.of(rollout.draw(logits, np.arange(9)), 0), logits).same


def test_no_tokens() -> None:
    """Catches a comparison that an empty record breaks."""
    record, logits = recorded()
    assert replay(record.rows(slice(0, 0)), logits[:0]) == Replay(0)


@pytest.mark.parametrize("name", ["numpy", "torch", "paddle"])
def test_a_draw_keeps_what_it_was_drawn_with(name: str) -> None:
    """Catches a record that says the next token's position, because the caller counted on in the tensor it had given.
    """
    framework = pytest.importorskip(name, reason=f"{name} is not installed")
    tensor = getattr(framework, {"numpy": "array", "torch": "tensor", "paddle": "to_tensor"}[name])
    logits = tensor(np.random.default_rng(2).standard_normal((4, V), dtype=F32))
    given = {
        "topp_seed": tensor(np.arange(4)), "position": tensor(np.array([[7], [8], [9], [10]])),
        "temperature": tensor(np.full(4, 0.7)), "top_k": tensor(np.arange(4) + 20), "top_p": tensor(np.full(4, 0.9)),
        "min_p": tensor(np.full(4, 0.01)),
    }  # fmt: skip
    expected = Record.of(rollout.draw(logits, **given), 0)
    drawn = rollout.draw(logits, **given)
    for value in given.values():
        value[:] = value + 1  # in place, in Paddle too
    found = Record.of(drawn, 0)
    assert_same(found, expected)
    assert found.position.tolist() == [7, 8, 9, 10]


# ---- and not


@pytest.mark.parametrize(
    ("column", "row", "value", "kind"),
    [
        ("token_ids", 7, 49, "token_ids"),
        ("topp_seed", 2, 999, "token_ids"),
        ("position", 9, 999, "token_ids"),
        ("top_p", 3, F32(0.5), "kept"),
        ("top_k", 3, 2, "kept"),
        ("temperature", 5, F32(0.71), "log_z"),
        ("logprobs", 5, F32(-0.5), "logprobs"),
        ("raw_logprobs", 5, F32(-0.5), "raw_logprobs"),
        ("rank", 5, 44, "rank"),
        ("entropy", 5, F32(0.5), "entropy"),
        ("log_z", 39, F32(0.0), "log_z"),
        ("num_kept", 0, 2**20, "kept"),
        ("status", 0, 1, "status"),
        ("top_logprobs", 4, F32(-0.5), "top"),
        ("top_token_ids", 4, 1, "top"),
        ("min_p", 6, F32(np.nan), "status"),
        ("applied", 6, 12, "applied"),
    ],
)
def test_a_change_is_told_by_its_kind(column: str, row: int, value: Any, kind: str) -> None:
    """Catches a change that goes unnoticed, that is put down to another cause, or to another row."""
    record, logits = recorded()
    found = replay(changed(record, column, row, value), logits)
    assert found.first is not None
    assert (found.first.row, found.first.kind, found.kinds) == (row, kind, {kind: 1})
    assert found.first.sequence == row // 8
    assert found.first.position == (value if column == "position" else row + 5)
    assert f"row {row} " in str(found)
    assert MEANING[kind] in str(found)


def test_what_was_applied_is_repeated_or_told(tmp_path: Path) -> None:
    """Catches a replay with other penalties or another grammar that passes, is put down to the logits or is told of
    rows without any; a caller's change of the lists that reaches the record; and a digest that the file loses.
    """
    logits = np.random.default_rng(4).standard_normal((3, V), dtype=F32)
    allowed = np.array([[-1, -1], [-1, -1], [0x0FFF, 1]], np.int32)
    output = np.array([[-1, -1], [4, 5], [-1, -1]])
    processing = Processing(output=output, repetition_penalty=F32([1.0, 1.2, 1.0]))
    with rollout.Writer(tmp_path) as writer:
        drawn = rollout.draw(logits, 7, position=np.arange(3), allowed=allowed, processing=processing)
        given = allowed.copy(), replace(processing, output=output.copy())
        allowed[:], output[:] = 0, 9
        writer.append(drawn, sequence=0)
    record = rollout.load(tmp_path)
    assert (record.applied != 0).tolist() == [False, True, True]
    assert replay(record, logits, *given).same
    assert replay(record, logits).kinds == {"applied": 2}
    other = replace(given[1], output=np.array([[8, -1], [4, 6], [8, -1]]))
    found = replay(record, logits, given[0], other)
    assert (found.kinds, found.first.row) == ({"applied": 1}, 1)  # type: ignore[union-attr]
    with ThreadPoolExecutor() as executor:
        assert rollout.audit(tmp_path, lambda record: (logits, *given), executor=executor).same
    assert replay(replace(record, applied=record.applied * 0), logits, *given).same  # as of before there were digests


def test_every_kind_is_tested() -> None:
    """Catches a kind that nobody has seen."""
    (mark,) = test_a_change_is_told_by_its_kind.pytestmark  # type: ignore[attr-defined]
    assert {case[-1] for case in mark.args[1]} == set(MEANING)


def test_logits_that_moved_by_one_bit() -> None:
    """Catches a change of the logits so small that no token flips: of kept ones and of others, the mass tells."""
    record, logits = recorded()
    other = logits.copy()
    token = int(logits[11].argmax())
    other[11, token] = np.nextafter(other[11, token], F32(9))
    found = replay(record, other)
    assert found.first is not None
    assert found.first.row == 11
    assert found.first.kind in ("log_z", "entropy", "top", "logprobs", "raw_logprobs")


def test_a_kept_set_is_compared_by_its_ids() -> None:
    """Catches a kept set of the right size that holds another token; the ids are told."""
    record, logits = recorded()
    mask = record.kept.mask()  # type: ignore[union-attr]
    inside, outside = int(np.flatnonzero(mask[2])[0]), int(np.flatnonzero(~mask[2])[0])
    mask[2, [inside, outside]] = [False, True]
    from detsample.reference.mask import bits_of

    spoilt = replace(record, kept=rollout.KeptSets.of_bits(bits_of(mask), V))
    first = replay(spoilt, logits).first
    assert first is not None
    assert (first.row, first.kind, first.recorded, first.found) == (2, "kept", [outside], [inside])
    bare, _ = recorded(keep_sets=False)
    assert replay(bare, logits).same


def test_the_first_row_is_told_and_all_are_counted() -> None:
    """Catches a first difference that is first of its kind but not of the record, and one row counted twice."""
    record, logits = recorded()
    spoilt = changed(changed(record, "token_ids", 9, 49), "status", 20, 2)
    spoilt = changed(changed(spoilt, "token_ids", 20, 3), "token_ids", 30, 49)
    found = replay(spoilt, logits)
    assert found.first is not None
    assert (found.first.row, found.first.kind) == (9, "token_ids")
    assert found.kinds == {"status": 1, "token_ids": 2}
    halves = [replay(spoilt.rows(part), logits[part]) for part in (slice(0, 5), slice(5, 25), slice(25, 40))]
    assert Replay.join(halves) == found


def test_bad_arguments() -> None:
    """Catches logits of other rows or another vocabulary, and a record of rules that are not these."""
    record, logits = recorded()
    with pytest.raises(ValueError, match=r"logits must have shape \[40, 50\] like the record, got \[39, 50\]"):
        replay(record, logits[:39])
    with pytest.raises(ValueError, match="record must be of contract version 2, got 3"):
        replay(replace(record, contract_version=3), logits)


# ---- many files



@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Some thousand synthetic tokens in several files."""
    pytest.importorskip("pyarrow", reason="no pyarrow for this NumPy: no record is written", exc_type=ImportError)
    with rollout.Writer(tmp_path, batch_tokens=512) as writer:
        for position in range(40):
            sequence = np.arange(64)
            logits = rollout_replay.logits_at(sequence, np.full(64, position))
            drawn = rollout.draw(logits, sequence * 3, position=position, temperature=0.8, top_p=0.9, top_k=40)
            writer.append(drawn, sequence=sequence)
    return tmp_path


def test_audit_in_other_processes(folder: Path) -> None:
    """Catches something that cannot be sent to a worker, files in another order, and progress that stays behind."""
    told: list[Any] = []
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = rollout.audit(
            folder, rollout_replay.logits_of, executor=pool, progress=lambda *numbers: told.append(numbers)
        )
    assert found.same
    assert str(found) == "2,560 tokens in 5 files, all as recorded"
    assert [file.path for file in found.files] == rollout.files(folder)
    assert told == [(512 * i, 2560) for i in range(1, 6)]


def test_audit_on_the_cores_of_this_machine(folder: Path) -> None:
    """Catches a default that starts no workers; one file is enough for one of them."""
    assert rollout.audit(rollout.files(folder)[0], rollout_replay.logits_of).tokens == 512


def test_audit_finds_a_planted_token_and_a_damaged_file(folder: Path) -> None:
    """Catches a wrong token that is missed, or told at another place, and a damaged file that stops the audit."""
    sequence, position, name = rollout_replay.plant(folder, 0.4)
    damaged = rollout.files(folder)[4]
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with ThreadPoolExecutor(1) as pool:
        found = rollout.audit(folder, rollout_replay.logits_of, executor=pool)
    assert not found.same
    first, second = found.bad
    assert (first.path.name, first.replay.kinds) == (name, {"token_ids": 1})
    assert first.replay.first is not None
    assert (first.replay.first.sequence, first.replay.first.position) == (sequence, position)
    assert damaged.name in str(second.error)
    assert found.tokens == 4 * 512
    assert str(found).startswith("2 of 5 files are not as recorded:")


def test_a_bad_file_of_any_kind_keeps_no_other_from_being_replayed(folder: Path) -> None:
    """Catches an audit that ends at a flipped bit of a footer, a link to nothing, or a folder named like a file."""
    good = rollout.files(folder)
    content = bytearray(good[1].read_bytes())
    content[-500] ^= 8  # pyarrow's own error of this one is an OSError without a name
    good[1].write_bytes(content)
    (folder / "00000007-link.parquet").symlink_to(folder / "nowhere")
    (folder / "00000008-folder.parquet").mkdir()
    told: list[Any] = []
    with ThreadPoolExecutor(1) as pool:
        found = rollout.audit(folder, rollout_replay.logits_of, executor=pool, progress=lambda *n: told.append(n))
    bad = [good[1].name, "00000007-link.parquet", "00000008-folder.parquet"]
    assert [file.path.name for file in found.bad] == bad
    assert all(name in str(file.error) for name, file in zip(bad, found.bad, strict=True))
    assert found.tokens == 4 * 512
    assert told[-1] == (2048, 2048)


def test_a_file_of_other_rules_keeps_no_other_from_being_replayed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an audit that ends at a file of another contract version instead of telling of it."""
    from detsample.rollout import parquet

    file = rollout.files(folder)[2]
    other = replace(parquet.read(file), contract_version=3)
    with file.open("wb") as out:
        parquet.write(out, other)
    with ThreadPoolExecutor(1) as pool:
        found = rollout.audit(folder, rollout_replay.logits_of, executor=pool)
    (bad,) = found.bad
    assert bad.error is not None
    assert str(file) in bad.error
    assert "expected contract version 2, got 3" in bad.error
    assert found.tokens == 4 * 512


def test_an_audit_of_nothing_is_an_error(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Catches "all as recorded" said of a folder without a record, and of no folder at all."""
    empty = tmp_path_factory.mktemp("empty")
    for paths in (empty, [folder, empty]):
        with pytest.raises(ValueError, match=f"at least one record, got {empty}, which has none"):
            rollout.audit(paths, rollout_replay.logits_of)
    with pytest.raises(ValueError, match="paths must name at least one folder or file, got none"):
        rollout.audit([], rollout_replay.logits_of)


def test_parts_of_a_file_do_not_show(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a row number that is that of a part, or a token at a part's end that is left out."""
    from detsample.rollout import auditing

    rollout_replay.plant(folder, 0)
    file = rollout.files(folder)[0]
    whole = auditing.audit_file(file, rollout_replay.logits_of)
    monkeypatch.setattr(auditing, "LOGITS_AT_A_TIME", 100 * rollout_replay.VOCAB)
    assert auditing.audit_file(file, rollout_replay.logits_of) == whole
    assert whole.replay.tokens == 512


def test_what_logits_of_raises_is_raised(folder: Path) -> None:
    """Catches a model's failure that is taken for a record that is as recorded."""
    with ThreadPoolExecutor(1) as pool, pytest.raises(ZeroDivisionError):
        rollout.audit(folder, lambda record: 1 // 0, executor=pool)


def test_audit_through_dask(folder: Path) -> None:
    """Catches an executor of another library that is used as only those of the standard library can be."""
    distributed = pytest.importorskip("distributed", reason="distributed (Dask) is not installed")
    settings = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(**settings) as cluster, distributed.Client(cluster) as client:
        rollout_replay.plant(folder, 0.4)
        told: list[Any] = []
        executor = client.get_executor()
        found = rollout.audit(folder, rollout_replay.logits_of, executor=executor, progress=lambda *n: told.append(n))
    assert len(found.bad) == 1
    assert told[-1] == (2560, 2560)
