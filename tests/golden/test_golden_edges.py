"""Golden files that threads write at once, that a bit flips in, that a kill leaves, that are larger than they seem."""

from __future__ import annotations

import contextlib
import io
import json
import os
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plugin import LOADED

from detsample import files, golden
from detsample.cli import main
from detsample.golden.record import dumps, sealed

pytest_plugins = ["pytester"]


def made(seed: int, rows: int = 4, vocab: int = 50, **how: Any) -> tuple[golden.Golden, np.ndarray]:
    """A record and its logits."""
    x = np.random.default_rng(seed).standard_normal((rows, vocab), dtype=np.float32)
    return golden.record(x, np.arange(rows), **how), x


def test_threads_may_save_one_file(tmp_path: Path) -> None:
    """Would catch a temporary name that two threads share: 251 of 925 reads found a broken file."""
    file = tmp_path / "g.json"
    records = [made(seed)[0] for seed in range(4)]
    golden.save(records[0], file)
    stop = threading.Event()

    def save(record: golden.Golden) -> None:
        while not stop.is_set():
            golden.save(record, file)

    with ThreadPoolExecutor(4) as pool:
        saving = [pool.submit(save, record) for record in records]
        try:
            for _ in range(200):
                assert golden.load(file) in records
        finally:
            stop.set()
        for future in saving:
            future.result()
    assert [path.name for path in tmp_path.iterdir()] == ["g.json"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a golden file that a loss of power leaves empty under its name."""
    order: list[str] = []
    fsync, replace = os.fsync, os.replace

    def logged_fsync(handle: int) -> None:
        order.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        fsync(handle)

    def logged_replace(old: Any, new: Any) -> None:
        order.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "replace", logged_replace)
    record, x = made(1)
    golden.save(record, tmp_path / "g.json", x)
    assert order == ["file", "rename", "folder"] * 2


@pytest.mark.parametrize("calls", range(8))
def test_an_update_that_is_killed_leaves_a_file_that_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Would catch new logits beside the old file: neither could be checked any more."""
    file = tmp_path / "g.json"
    old, old_x = made(1)
    new, new_x = made(2)
    golden.save(old, file, old_x)
    seen: list[None] = []

    class Killed(BaseException):
        pass

    def counted(name: str) -> Any:
        real = getattr(os, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            seen.append(None)
            if len(seen) > calls:
                raise Killed
            return real(*arguments, **keywords)

        return call

    with monkeypatch.context() as patch:
        for name in ("fsync", "replace", "unlink"):
            patch.setattr(os, name, counted(name))
        with contextlib.suppress(Killed):
            golden.save(new, file, new_x)
    read = golden.load(file)
    x = golden.load_logits(file, read)
    assert x is not None
    assert x.tobytes() in (old_x.tobytes(), new_x.tobytes())
    assert golden.check(read, x, kept_logits=x).exit_status == 0
    golden.save(new, file, new_x)
    assert golden.load_logits(file, golden.load(file)) is not None


def test_old_logits_are_removed_with_their_record(tmp_path: Path) -> None:
    """Would catch a folder that grows with each update; files that are no logits of this record stay."""
    file = tmp_path / "g[1].json"
    other = tmp_path / "g[1].notes.logits.npz"
    other.write_bytes(b"mine")
    for seed in (1, 2):
        record, x = made(seed)
        golden.save(record, file, x)
    assert len(list(tmp_path.iterdir())) == 3
    golden.save(made(3)[0], file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g[1].json", "g[1].notes.logits.npz"]


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """Would catch a flipped bit that is called drift, with exit 0: 103 of 1,000 in `largest`, 25 in `fingerprint`."""
    file = tmp_path / "g.json"
    record, _ = made(1, rows=3, vocab=20)
    golden.save(record, file)
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for bit in rng.choice(8 * len(whole), 1000, replace=False).tolist():
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        try:
            assert golden.load(file) == record  # of blanks and line ends nothing depends
        except golden.GoldenError:
            refused += 1
    assert refused > 900


@pytest.mark.parametrize("where", ["parameters", "rows", "filter_order"])
def test_a_request_edited_by_hand_is_told_from_another_sampler(where: str, tmp_path: Path, capsys: Any) -> None:
    """Would catch the sampler blamed, or the file called damaged, where somebody has edited a seed or a filter."""
    file = tmp_path / "g.json"
    record, x = made(1)
    golden.save(record, file)
    np.save(tmp_path / "x.npy", x)
    content = json.loads(file.read_text())
    edits = {"parameters": {"temperature": 2.0}, "rows": {"topp_seed": 99}, "filter_order": "joint"}
    if where == "rows":
        content["rows"][1] |= edits["rows"]
    elif where == "parameters":
        content["parameters"] |= edits["parameters"]
    else:
        content[where] = edits[where]
    file.write_text(json.dumps(content))
    with pytest.raises(golden.RequestChangedError, match=r"g\.json: request changed: "):
        golden.load(file)
    assert main(["golden", "check", str(file), str(tmp_path / "x.npy")]) == 4
    assert capsys.readouterr().out.startswith(f"{file}: request changed: ")
    content["rows"][0]["token_id"] += 1  # with a result edited as well it is nothing but damaged
    file.write_text(json.dumps(content))
    with pytest.raises(golden.GoldenError, match="damaged") as raised:
        golden.load(file)
    assert type(raised.value) is golden.GoldenError


def test_blanks_and_line_ends_are_nobodys_business(tmp_path: Path) -> None:
    """Would catch a seal of the text, which an editor or a version control breaks."""
    file = tmp_path / "g.json"
    record, _ = made(1)
    golden.save(record, file)
    text = file.read_text()
    for other in (text.replace("\n", "\r\n"), json.dumps(json.loads(text), indent=4)):
        file.write_bytes(other.encode())
        assert golden.load(file) == record


def test_a_file_of_contract_1_is_refused_with_the_reason(tmp_path: Path) -> None:
    """Would catch the sampler blamed for what another contract draws."""
    content = json.loads(dumps(made(1)[0]))
    for old in ({"format": "detsample golden 1"}, {"contract_version": 1}):
        (tmp_path / "g.json").write_text(json.dumps(sealed(content | old)))
        with pytest.raises(golden.GoldenError, match="other tokens under contract 2"):
            golden.load(tmp_path / "g.json")


def test_what_is_no_file_or_deep_is_neither_read_nor_waited_for(tmp_path: Path) -> None:
    """Would catch a link to /dev/zero, a pipe, a file without end, and nested JSON that ends in a RecursionError."""
    (tmp_path / "zero").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "deep").write_text('{"format": ' + "[" * 100_000)
    (tmp_path / "deep2").write_text('{"format": ' + "[" * 100_000 + "]" * 100_000 + "}")
    for name in ("zero", "pipe", "sparse", "deep", "deep2"):
        with pytest.raises(golden.GoldenError):
            golden.load(tmp_path / name)


def test_logits_are_not_unpacked_before_their_shape_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch 2 MB that become 2.1 GB before anybody looks at their shape, and a header that says too little."""
    record, x = made(1)
    golden.save(record, tmp_path / "g.json", x)
    read = golden.load(tmp_path / "g.json")
    kept = tmp_path / str(read.logits_file)
    largest = []
    real = zipfile.ZipExtFile.read

    def read_some(self: Any, n: int | None = -1) -> bytes:
        content = real(self, n)
        largest.append(len(content))
        return content

    monkeypatch.setattr(zipfile.ZipExtFile, "read", read_some)
    small = io.BytesIO()
    np.lib.format.write_array(small, x)
    bombs = {"shape": np.zeros((4, 500_000), np.float32), "type": np.zeros((4, 50), np.int64)}
    for name in ("shape", "type", "more"):
        with zipfile.ZipFile(kept, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("logits.npy", "w") as member:
            if name == "more":
                member.write(small.getvalue() + bytes(2_000_000))
            else:
                np.lib.format.write_array(member, bombs[name])
        with pytest.raises(golden.GoldenError, match="expected"):
            golden.load_logits(tmp_path / "g.json", read)
    assert max(largest) <= 1 << 16


def test_names_of_any_length_and_script(pytester: pytest.Pytester) -> None:
    """Would catch a test id of 31 Chinese characters, whose file's name has more than 255 bytes, and a traceback."""
    long = "\u4e2d\u6587" * 16
    pytester.makepyfile(
        "import numpy as np\nimport pytest\nX = np.zeros((1, 9), np.float32)\n"
        f"@pytest.mark.parametrize('word', ['{long}', '{long}x', 'a' * 300])\n"
        f"def test_it(golden_tokens, word):\n    golden_tokens.check(X, 7, name='{long}' * 9, keep_logits=True)\n"
    )
    pytester.runpytest(*LOADED, "--golden-update").assert_outcomes(passed=3)
    pytester.runpytest(*LOADED).assert_outcomes(passed=3)
    names = [path.name for path in (pytester.path / "golden").iterdir()]
    assert len(names) == 6
    assert max(len(name.encode()) for name in names) <= 255


def test_a_changed_filter_order_is_a_changed_request() -> None:
    """Would catch another order of filters that is taken for a bug of the sampler."""
    record, x = made(1, top_k=9, min_p=0.1, top_p=0.8)
    report = golden.check(record, x, filter_order="joint")
    assert {finding.kind for finding in report.findings} == {golden.Kind.REQUEST}
    assert "filter_order was top_k_first, is joint" in report.text()
    joint, _ = made(1, top_k=9, min_p=0.1, top_p=0.8, filter_order="joint")
    assert golden.check(joint, x).exit_status == 0


@pytest.mark.parametrize("shown", [-1, True, 1.5, "8"])
def test_a_number_of_rows_shown_is_one(shown: Any) -> None:
    """Would catch nonsense printed for -1."""
    record, x = made(1)
    with pytest.raises((TypeError, ValueError), match="shown must be"):
        golden.check(record, x).text(shown)


def test_commands_refuse_what_makes_no_sense(run: Any, tmp_path: Path) -> None:
    """Would catch `--shown -1`, and rows behind the last position written as invalid ones with exit 0."""
    np.save(tmp_path / "x.npy", made(1)[1])
    x, out = str(tmp_path / "x.npy"), str(tmp_path / "g.json")
    status, _, said = run("golden", "record", x, "--out", out, "--consecutive", "--position", 2**63 - 2)
    assert status == 2
    assert "--position" in said
    assert not Path(out).exists()
    assert run("golden", "record", x, "--out", out)[0] == 0
    assert run("golden", "check", out, x, "--shown", 0)[0] == 0
    with pytest.raises(SystemExit, match="2"):
        run("golden", "check", out, x, "--shown", -1)


def test_a_folder_made_and_a_file_written_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a new folder that a loss of power forgets, with the files in it."""
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    files.make_folder(tmp_path / "a" / "b")
    assert synced == [tmp_path / "a", tmp_path]
    assert (tmp_path / "a" / "b").is_dir()
