"""Records of rollouts: what is written is read back, and nothing that was on the disk is ever lost."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
import rollout_kills
from rollout_kills import STAGES, Folder, assert_same

from detsample import reference, rollout
from detsample.rollout import KeptSets, Record

pytest.importorskip("pyarrow", reason="no pyarrow for this NumPy: no record is written", exc_type=ImportError)

F32 = np.float32
V = 60


def draws(count: int, rows: int = 7, *, top_n: int = 0, vocab: int = V) -> list[Any]:
    """Draws of rows of every kind, invalid ones among them."""
    rng = np.random.default_rng(count)
    return [
        rollout.draw(cases.mixed(rng, rows, vocab), **cases.parameters(rng, rows, vocab), top_n=top_n)
        for _ in range(count)
    ]


# ---- kept sets


@pytest.mark.parametrize("vocab", [1, 2, 31, 32, 33, 64, 200])
def test_kept_sets_in_every_form(vocab: int) -> None:
    """Catches a bit at the end of a word or of the row lost on its way, and a complement taken for a set."""
    rng = np.random.default_rng(vocab)
    mask = rng.random((9, vocab)) < rng.choice([0, 0.1, 0.5, 0.9, 1], (9, 1))
    words = rollout_bits(mask)
    sets = KeptSets.of_bits(words, vocab)
    assert np.array_equal(sets.mask(), mask)
    assert np.array_equal(sets.bits(), words)
    assert sets.num_kept.tolist() == mask.sum(axis=1).tolist()
    assert (sets.listed <= vocab / 2).all()
    csr = sets.csr()
    assert csr.token_ids.tolist() == np.nonzero(mask)[1].tolist()
    assert np.array_equal(KeptSets.of_csr(csr, vocab).mask(), mask)
    order = rng.permutation(9)
    assert np.array_equal(sets.rows(order).mask(), mask[order])
    assert np.array_equal(KeptSets.concatenate([sets.rows(slice(0, 4)), sets.rows(slice(4, 9))]).mask(), mask)


def rollout_bits(mask: np.ndarray) -> np.ndarray:
    from detsample.reference.mask import bits_of

    return bits_of(mask)


def test_kept_sets_differ_where_they_differ() -> None:
    """Catches a comparison of sets that looks at the counts, or that finds the wrong row."""
    rng = np.random.default_rng(0)
    mask = rng.random((30, 70)) < rng.choice([0.1, 0.9], (30, 1))
    other = mask.copy()
    other[3, [0, 1]] = [True, False]
    mask[3, [0, 1]] = [False, True]  # of equal count
    other[17] = ~other[17]
    same = KeptSets.of_bits(rollout_bits(mask), 70).same(KeptSets.of_bits(rollout_bits(other), 70))
    assert np.flatnonzero(~same).tolist() == [3, 17]


# ---- to the disk and back


@pytest.mark.parametrize("top_n", [0, 3])
@pytest.mark.parametrize("keep_sets", [True, False])
def test_what_is_written_is_read_back(tmp_path: Path, top_n: int, keep_sets: bool) -> None:
    """Catches a column lost, of another type, rounded, or put beside another row's; NaNs and invalid rows too."""
    drawn = draws(10, top_n=top_n)
    with rollout.Writer(tmp_path / "new", batch_tokens=20, keep_sets=keep_sets) as writer:
        for i, draw in enumerate(drawn):
            writer.append(draw, sequence=np.arange(7)[::-1] + 100 * i)
        assert (writer.durable, writer.pending) == (63, 7)
    assert writer.durable == 70
    expected = Record.concatenate(
        [Record.of(draw, np.arange(7)[::-1] + 100 * i, keep_sets=keep_sets) for i, draw in enumerate(drawn)]
    ).in_order()
    assert_same(rollout.load(tmp_path / "new"), expected)
    assert [len(record) for record in rollout.read(tmp_path / "new")] == [21, 21, 21, 7]
    assert (np.diff(expected.sequence) >= 0).all()


def test_parameters_are_recorded_as_the_contract_reads_them(tmp_path: Path) -> None:
    """Catches a seed above 2^63, a number for all rows, a column vector or a float64 recorded otherwise than drawn."""
    logits = np.random.default_rng(1).standard_normal((3, V), dtype=F32)
    how: dict[str, Any] = {
        "position": np.array([[1], [2], [3]]), "temperature": 0.7, "top_k": 2**40,
        "top_p": np.array([0.9, 0.8, 1e-60]), "min_p": F32(0.01),
    }  # fmt: skip
    drawn = rollout.draw(logits, 2**64 - 5, **how)
    with rollout.Writer(tmp_path) as writer:
        writer.append(drawn, sequence=4)
    back = rollout.load(tmp_path)
    assert back.topp_seed.tolist() == [-5] * 3
    assert back.top_k.tolist() == [2**40] * 3
    assert back.top_p.tolist() == [float(F32(0.9)), float(F32(0.8)), 0]
    out = reference.sample(logits, **back.parameters())
    assert out.token_ids.tolist() == back.token_ids.tolist() == drawn.token_ids.tolist()


@pytest.mark.parametrize("name", ["torch", "paddle"])
def test_tensors_are_recorded_like_arrays(name: str, tmp_path: Path) -> None:
    """Catches a tensor of a framework that is recorded otherwise than the array of the same bits."""
    framework = pytest.importorskip(name, reason=f"{name} is not installed")
    logits, seeds = np.random.default_rng(2).standard_normal((4, V), dtype=F32), np.arange(4) - 2
    tensor = framework.from_numpy if name == "torch" else framework.to_tensor
    one = rollout.draw(tensor(logits), tensor(seeds), top_p=tensor(np.full(4, 0.9)), top_n=2)
    other = rollout.draw(logits, seeds, top_p=np.full(4, 0.9), top_n=2)
    assert_same(Record.of(one, tensor(np.arange(4))), Record.of(other, np.arange(4)))


def test_writers_side_by_side_and_one_after_the_other(tmp_path: Path) -> None:
    """Catches a writer that overwrites another's file, or begins again at the first."""
    drawn = draws(3)
    writers = [rollout.Writer(tmp_path, batch_tokens=1) for _ in range(3)]
    for i, writer in enumerate(writers):
        writer.append(drawn[i], sequence=i)
    with rollout.Writer(tmp_path) as writer:
        writer.append(drawn[0], sequence=9)
    assert sorted(int(file.name[:8]) for file in rollout.files(tmp_path)) == [0, 0, 0, 1]
    assert sorted(set(rollout.load(tmp_path).sequence.tolist())) == [0, 1, 2, 9]


def test_progress_is_told(tmp_path: Path) -> None:
    """Catches numbers that do not grow to the total."""
    told: list[Any] = []
    with rollout.Writer(tmp_path, batch_tokens=14, progress=told.append) as writer:
        for draw in draws(5):
            writer.append(draw, sequence=0)
    assert told == [14, 28, 35]
    told.clear()
    rollout.load(tmp_path, progress=lambda done, total: told.append((done, total)))
    assert told == [(14, 35), (28, 35), (35, 35)]


def test_large_sets_make_a_batch_sooner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches memory that grows with the kept sets, and lists too long for a column."""
    from detsample.rollout import writer as module

    drawn = rollout.draw(np.zeros((4, V), F32), np.arange(4), top_k=25)
    monkeypatch.setattr(module, "BATCH_IDS", 150)
    with rollout.Writer(tmp_path) as writer:
        for _ in range(3):
            writer.append(drawn, sequence=0)
    assert [len(record) for record in rollout.read(tmp_path)] == [8, 4]


def test_another_number_of_first_tokens_is_refused(tmp_path: Path) -> None:
    """Catches a folder that was written without a word and that `load` then cannot join: by the same writer, and by one
    that was started anew.
    """
    message = r"draw must be of .*, 0 first tokens, .* like the folder, got .*, 2 first tokens"
    with rollout.Writer(tmp_path) as writer:
        writer.append(draws(1)[0], sequence=0)
        with pytest.raises(ValueError, match=message):
            writer.append(draws(1, top_n=2)[0], sequence=1)
        writer.append(draws(1)[0], sequence=2)
    with pytest.raises(ValueError, match=message), rollout.Writer(tmp_path) as writer:
        writer.append(draws(1, top_n=2)[0], sequence=3)
    assert sorted(set(rollout.load(tmp_path).sequence.tolist())) == [0, 2]


@pytest.mark.parametrize("keep_sets", [True, False])
def test_a_folder_is_with_kept_sets_or_without(tmp_path: Path, keep_sets: bool) -> None:
    """Catches files with and without kept sets in one folder, which `load` cannot join."""
    with rollout.Writer(tmp_path, keep_sets=keep_sets) as writer:
        writer.append(draws(1)[0], sequence=0)
    words = ["with kept sets", "without kept sets"]
    message = "{} like the folder, got .* {}$".format(*(words if keep_sets else words[::-1]))
    with pytest.raises(ValueError, match=message):
        rollout.Writer(tmp_path, keep_sets=not keep_sets).append(draws(1)[0], sequence=1)
    assert len(rollout.load(tmp_path)) == 7


def test_a_writer_without_kept_sets_leaves_out_those_of_records(tmp_path: Path) -> None:
    """Catches `keep_sets=False` that is only heeded for draws: a record's sets went to the disk."""
    with rollout.Writer(tmp_path, keep_sets=False) as writer:
        writer.append(Record.of(draws(1)[0], 0))
        writer.append(draws(1)[0], sequence=1)
    assert rollout.load(tmp_path).kept is None


def test_an_error_of_the_caller_loses_nothing(tmp_path: Path) -> None:
    """Catches draws thrown away because something else failed."""
    writer = rollout.Writer(tmp_path)
    writer.append(draws(1)[0], sequence=0)
    with pytest.raises(ZeroDivisionError), writer:
        print(1 // 0)
    assert len(rollout.load(tmp_path)) == 7


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a batch forgotten, or half a file left, when writing fails; the next flush writes it."""
    from detsample.rollout import parquet

    def fail(file: Any, record: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    writer = rollout.Writer(tmp_path)
    writer.append(draws(1)[0], sequence=0)
    with monkeypatch.context() as patch:
        patch.setattr(parquet, "write", fail)
        with pytest.raises(OSError, match="No space"):
            writer.flush()
    assert [path.name for path in tmp_path.iterdir()] == [".kind.json"]
    assert (writer.pending, writer.durable) == (7, 0)
    writer.close()
    assert len(rollout.load(tmp_path)) == 7


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()], ids=["disk", "signal"])
def test_an_error_behind_the_rename_writes_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Catches tokens that are twice on the disk: the file had its name when the folder's flush failed or a signal came,
    the batch was still pending, and the next flush wrote it again under another name.
    """
    from detsample import files as module

    def fail(folder: Path) -> None:
        raise error

    one, other, last = draws(3)
    writer = rollout.Writer(tmp_path)
    writer.append(one, sequence=0)
    with monkeypatch.context() as patch:
        patch.setattr(module, "sync_folder", fail)
        for _ in range(3):
            with pytest.raises(type(error)):
                writer.flush()
            assert (writer.pending, writer.durable) == (7, 0)
        writer.append(other, sequence=1)
        with pytest.raises(type(error)):
            writer.flush()
    writer.flush()
    assert (writer.pending, writer.durable) == (0, 14)
    with writer:
        writer.append(last, sequence=2)
    assert [len(record) for record in rollout.read(tmp_path)] == [14, 7]
    assert rollout.load(tmp_path).sequence.tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert [path.name[:9] for path in rollout.files(tmp_path)] == ["00000000-", "00000001-"]


def test_an_interrupt_inside_a_with_statement_writes_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches the same where nobody flushes again but the end of the block."""
    from detsample import files as module

    real, calls = module.sync_folder, []

    def interrupted(folder: Path) -> None:
        real(folder)
        calls.append(folder)
        if len(calls) == 3:  # the first is of the file that says of which kind the folder is
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "sync_folder", interrupted)
    writer = rollout.Writer(tmp_path, batch_tokens=7)

    def block() -> None:
        with writer:
            for number, draw in enumerate(draws(5)):
                writer.append(draw, sequence=number)

    with pytest.raises(KeyboardInterrupt):
        block()
    assert rollout.load(tmp_path).sequence.tolist() == [0] * 7 + [1] * 7
    assert writer.durable == 14


def test_the_disk_has_a_file_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a rename that a loss of power may carry out before the content is on the disk, or may forget."""
    order: list[str] = []
    fsync, rename = os.fsync, os.replace

    def logged_fsync(handle: int) -> None:
        order.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        fsync(handle)

    def logged_rename(old: Any, new: Any) -> None:
        order.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "replace", logged_rename)
    with rollout.Writer(tmp_path) as writer:
        writer.append(draws(1)[0], sequence=0)
    assert order[-3:] == ["file", "rename", "folder"]


# ---- killed


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_every_stage_of_a_write(tmp_path: Path, stage: str) -> None:
    """Catches a file that is there before it is whole, and one that is lost after it was told of."""
    batches = rollout_kills.one_kill(rollout_kills.forks(), Folder(tmp_path), 0, None, stage)
    assert batches == (3 if stage == "renamed" else 2)


def test_killed_at_random_moments(tmp_path: Path) -> None:
    """Catches what the stages do not name; 200 kills are in docs/results/rollout-kills.json."""
    rng, folder, batches = np.random.default_rng(0), Folder(tmp_path), 0
    for _ in range(6):
        batches = rollout_kills.one_kill(rollout_kills.forks(), folder, batches, float(rng.uniform(0, 0.4)))


# ---- damaged, or not what was expected


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "short", "other", "long"])
def test_damage_is_told_of_with_the_file(tmp_path: Path, damage: str) -> None:
    """Catches a damaged file that is read as if it were whole, and an error that does not say which it is."""
    with rollout.Writer(tmp_path) as writer:
        writer.append(draws(1, rows=200)[0], sequence=0)
    (file,) = rollout.files(tmp_path)
    content = bytearray(file.read_bytes())
    if damage == "bit":
        content[2000] ^= 4
    made = {
        "cut": content[:-100], "bit": content, "empty": b"", "short": b"PAR1", "other": b"PAR1" * 10,
        "long": content + content[-8:],
    }  # fmt: skip
    file.write_bytes(made[damage])
    with pytest.raises(rollout.RecordError, match=file.name):
        list(rollout.read(tmp_path))


@pytest.mark.full("every bit of a file is flipped in turn")
def test_every_flipped_bit_of_the_data_is_noticed(tmp_path: Path) -> None:
    """Catches pages and a footer without checksums: a bit flipped in the footer was an error that did not name the
    file, or was read without a word as fewer rows. A bit in every byte, and every bit at the end of the footer, where
    the metadata is; and nothing but a `RecordError`.
    """
    with rollout.Writer(tmp_path) as writer:
        writer.append(draws(1, rows=100, top_n=2)[0], sequence=0)
    (file,) = rollout.files(tmp_path)
    content = file.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    metadata = content.rindex(b'{"format": "detsample')
    assert len(content) - footer < metadata < len(content) - 8
    each = np.arange(len(content)) * 8 + np.random.default_rng(5).integers(0, 8, len(content))
    flips = set(each.tolist()) | set(range(metadata * 8, metadata * 8 + 8 * 300)) | set(range(-64, 0))
    for at in flips:
        spoilt = bytearray(content)
        spoilt[at // 8] ^= 1 << at % 8
        file.write_bytes(spoilt)
        with pytest.raises(rollout.RecordError, match=file.name):
            next(rollout.read(file))
    file.write_bytes(content)
    assert len(rollout.load(tmp_path)) == 100


def test_a_flipped_bit_of_the_footer_is_noticed_by_who_reads_nothing_else(tmp_path: Path) -> None:
    """Catches totals of progress, and a writer's look at the folder, that trust a damaged footer."""
    from detsample.rollout import parquet

    with rollout.Writer(tmp_path) as writer:
        writer.append(draws(1, rows=100)[0], sequence=0)
    (file,) = rollout.files(tmp_path)
    content = file.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    for at in np.random.default_rng(6).integers(len(content) - footer, len(content), 500).tolist():
        spoilt = bytearray(content)
        spoilt[at] ^= 1 << at % 8
        file.write_bytes(spoilt)
        with pytest.raises(rollout.RecordError, match=file.name):
            parquet.about(file)
    with pytest.raises(rollout.RecordError, match=file.name):
        rollout.Writer(tmp_path)


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_what_cannot_be_read_is_named(tmp_path: Path, kind: str) -> None:
    """Catches an error of the file system that is no `RecordError`: of a link to nothing, of a folder with the name of
    a file.
    """
    path = tmp_path / "00000000-0.parquet"
    if kind == "link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.mkdir()
    for use in (lambda: list(rollout.read(tmp_path)), lambda: rollout.Writer(tmp_path)):
        with pytest.raises(rollout.RecordError, match=r"00000000-0\.parquet: cannot be read: "):
            use()


def test_other_programs_read_a_record(tmp_path: Path) -> None:
    """Catches a seal that makes of a file something that only detsample reads, or that anybody can read wrongly."""
    import pyarrow.parquet as pq

    drawn = draws(1, rows=100, top_n=2)[0]
    with rollout.Writer(tmp_path) as writer:
        writer.append(drawn, sequence=0)
    (file,) = rollout.files(tmp_path)
    table = pq.read_table(file, page_checksum_verification=True)
    assert table.num_rows == 100
    assert table.column("token_ids").to_pylist() == rollout.load(tmp_path).token_ids.tolist()


def test_another_table_is_no_record(tmp_path: Path) -> None:
    """Catches someone else's Parquet file read as a record."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1]}), tmp_path / "00000000-a.parquet")
    with pytest.raises(rollout.RecordError, match="not a record"):
        list(rollout.read(tmp_path))


def test_a_folder_holds_one_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches two vocabularies or two contract versions mixed in one folder."""
    import detsample

    with rollout.Writer(tmp_path) as writer:
        writer.append(draws(1)[0], sequence=0)
        with pytest.raises(ValueError, match="vocabulary"):
            writer.append(draws(1, vocab=61)[0], sequence=0)
    with pytest.raises(ValueError, match="vocabulary"):
        rollout.Writer(tmp_path).append(draws(1, vocab=61)[0], sequence=0)
    monkeypatch.setattr(detsample, "CONTRACT_VERSION", 3)
    with pytest.raises(rollout.RecordError, match="expected contract version 3, got 2"):
        rollout.Writer(tmp_path)


def test_bad_arguments(tmp_path: Path) -> None:
    """Catches an argument that is misread, or an error that does not name it."""
    with pytest.raises(ValueError, match="batch_tokens must be between 1 and 16777216, got 0"):
        rollout.Writer(tmp_path, batch_tokens=0)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        rollout.files(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="at least one record"):
        rollout.load(tmp_path)
    drawn = draws(1)[0]
    writer = rollout.Writer(tmp_path)
    with pytest.raises(TypeError, match="sequence must be given"):
        writer.append(drawn)
    with pytest.raises(TypeError, match="sequence must be integers, got float64"):
        writer.append(drawn, sequence=np.zeros(7))
    with pytest.raises(ValueError, match=r"sequence must be a number or have shape \[7\], got \[6\]"):
        writer.append(drawn, sequence=np.arange(6))


def test_without_pyarrow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an error that leaves the user guessing, and an import of pyarrow by `draw`."""
    import subprocess
    import sys

    code = """
import sys
sys.modules["pyarrow"] = None
import numpy as np
from detsample import rollout
rollout.draw(np.zeros((1, 5), np.float32), 1)
try:
    rollout.Writer
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "records of rollouts need pyarrow: pip install 'detsample[rollout]'"
