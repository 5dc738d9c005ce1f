"""The command line: `sample` and `selftest`, through `main` and as a program."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Run

from detsample import cli, reference
from detsample.cli import gpu, kernels, known, progress, sample, selftest
from detsample.cli.cases import KINDS, cases

ROWS = 12


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((ROWS, 300), dtype=np.float32) * np.float32(3)


@pytest.fixture
def file(tmp_path: Path, logits: np.ndarray) -> Path:
    np.save(tmp_path / "logits.npy", logits)
    return tmp_path / "logits.npy"


def program(*argv: object, code: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own; `code` runs first there."""
    start = ["-m", "detsample.cli"]
    if code is not None:
        start = ["-c", f"import sys\nfrom detsample.cli import main\n{code}\nsys.exit(main(sys.argv[1:]))"]
    command = [sys.executable, *start, *(str(word) for word in argv)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | environment, encoding="utf-8"
    )


def tokens_of(table: str) -> list[int]:
    return [int(line.split()[1]) for line in table.splitlines()[1:] if re.match(r"\s*\d+\s", line)]


def digest_of(table: str) -> str:
    found = re.search(r"digest of all results: ([0-9a-f]{64})", table)
    assert found, table
    return found[1]


def strict_json(text: str) -> Any:
    """JSON as other languages read it: no NaN, no Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse)


# ---- sample


def test_table_is_what_sample_returns(run: Run, file: Path, logits: np.ndarray) -> None:
    """Defect caught: a parameter is not passed on, or a column holds another result."""
    parameters = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.02}
    words = [w for name, value in parameters.items() for w in (f"--{name.replace('_', '-')}", value)]
    words += ["--filter-order", "min_p_first"]
    status, out, _ = run("sample", file, "--seed", "-3", "--position", "5", "--log-z", *words)
    seeds = reference.fold_in(-3, np.arange(ROWS))
    right = reference.sample(logits, seeds, position=5, **parameters, filter_order="min_p_first", return_log_z=True)
    rows = [line.split() for line in out.splitlines()[1 : ROWS + 1]]
    assert status == 0
    assert out.splitlines()[0].split() == ["row", "token", "kept", "logprob", "log_z", "status"]
    assert [int(r[1]) for r in rows] == right.token_ids.tolist()
    assert [int(r[2]) for r in rows] == right.num_kept.tolist()
    assert np.array_equal(np.float32([r[3] for r in rows]), right.logprobs)
    assert np.array_equal(np.float32([r[4] for r in rows]), right.log_z)
    assert {r[5] for r in rows} == {"ok"}


def test_a_program_prints_what_main_prints(run: Run, file: Path) -> None:
    """Defect caught: `python -m detsample` or `python -m detsample.cli` does not start, or loses the exit status."""
    expected = run("sample", file, "--seed", "7")[:2]
    for module in ("detsample", "detsample.cli"):
        command = [sys.executable, "-m", module, "sample", str(file), "--seed", "7"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == expected, done.stderr


@pytest.mark.parametrize("block", [1, 300, 700, 10_000])
def test_blocks_cannot_show(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Defect caught: rows, seeds or positions shift where one block of rows ends and the next begins."""
    argv = ("sample", file, "--consecutive", "--log-z", "--json", "--top-p", "0.9")
    whole = run(*argv)
    monkeypatch.setattr(sample, "BLOCK", block)
    assert run(*argv) == whole


@pytest.mark.parametrize("rows", [":", "0:5", "5:", "3:4", "4:4"])
def test_selected_rows_are_those_of_the_file(run: Run, file: Path, rows: str) -> None:
    """Defect caught: with --rows, positions or numbers count from the first selected row."""
    argv = ("sample", file, "--consecutive", "--json")
    all_rows = strict_json(run(*argv)[1])["results"]
    start, stop = (int(n) if n else None for n in rows.split(":"))
    assert strict_json(run(*argv, "--rows", rows)[1])["results"] == all_rows[start:stop]


def test_rows_of_a_file_have_noise_of_their_own(run: Run, file: Path, tmp_path: Path) -> None:
    """Defect caught: one seed and one position for all rows, of which rows alike draw one token: a common mistake."""
    flat = np.zeros((ROWS, 1000), np.float32)
    np.save(tmp_path / "flat.npy", flat)
    tokens = tokens_of(run("sample", tmp_path / "flat.npy", "--seed", "11", "--position", "4")[1])
    assert tokens == reference.sample(flat, reference.fold_in(11, np.arange(ROWS)), position=4).token_ids.tolist()
    assert len(set(tokens)) == ROWS
    assert len(set(tokens_of(run("sample", tmp_path / "flat.npy", "--shared-noise")[1]))) == 1


def test_one_seed_where_it_is_said(run: Run, file: Path, logits: np.ndarray, tmp_path: Path) -> None:
    """Defect caught: the row number is mixed into the seed of one request's steps, of a file of one row, or of rows
    that are to share their noise.
    """
    words = ("--seed", "11", "--position", "4")
    right = reference.sample(logits, np.full(ROWS, 11), position=4).token_ids.tolist()
    assert tokens_of(run("sample", file, *words, "--shared-noise")[1]) == right
    steps = reference.sample(logits, 11, position=4 + np.arange(ROWS)).token_ids.tolist()
    assert tokens_of(run("sample", file, *words, "--consecutive")[1]) == steps
    np.save(tmp_path / "one.npy", logits[:1])
    assert tokens_of(run("sample", tmp_path / "one.npy", *words)[1]) == right[:1]


def test_seeds_from_a_file(run: Run, file: Path, logits: np.ndarray, tmp_path: Path) -> None:
    """Defect caught: 64-bit seeds lose their sign or their high half on the way in."""
    seeds = [0, -1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1, 0x1F, 7, 8, 9, 10, 1 << 40]
    wrapped = np.array([s % 2**64 for s in seeds], np.uint64)
    right = reference.sample(logits, wrapped.view(np.int64)).token_ids.tolist()
    (tmp_path / "seeds.txt").write_text("\n".join([*map(str, seeds[:6]), "0x1f", *map(str, seeds[7:])]))
    np.save(tmp_path / "seeds.npy", wrapped)
    np.save(tmp_path / "signed.npy", wrapped.view(np.int64))
    for name in ("seeds.txt", "seeds.npy", "signed.npy"):
        assert tokens_of(run("sample", file, "--seed-file", tmp_path / name)[1]) == right


def test_other_ways_to_store_logits(run: Run, logits: np.ndarray, tmp_path: Path) -> None:
    """Defect caught: half precision, bfloat16 bits, big-endian floats or a single row are misread."""
    bits = (logits.view(np.uint32) >> 16).astype(np.uint16)
    np.save(tmp_path / "bf16.npy", bits)
    np.save(tmp_path / "big.npy", logits.astype(">f4"))
    np.save(tmp_path / "fortran.npy", np.asfortranarray(logits))
    np.save(tmp_path / "half.npy", logits.astype(np.float16))
    np.save(tmp_path / "row.npy", logits[0])
    np.savez(tmp_path / "two.npz", a=logits[1:], b=logits)
    np.savez(tmp_path / "one.npz", logits)
    plain = reference.sample(logits, 0)
    widened = reference.sample((bits.astype(np.uint32) << 16).view(np.float32), 0)
    half = reference.sample(logits.astype(np.float16), 0)
    for words, right in (
        (("bf16.npy", "--bf16"), widened),
        (("big.npy",), plain),
        (("fortran.npy",), plain),
        (("half.npy",), half),
        (("two.npz", "--array", "b"), plain),
        (("one.npz",), plain),
    ):
        status, out, _ = run("sample", tmp_path / words[0], "--shared-noise", *words[1:])
        assert (status, tokens_of(out)) == (0, right.token_ids.tolist()), words
    assert tokens_of(run("sample", tmp_path / "row.npy")[1]) == plain.token_ids[:1].tolist()


def test_json_has_the_bits(run: Run, file: Path, logits: np.ndarray) -> None:
    """Defect caught: a float printed in too few digits, or bits that are not those of the float."""
    status, out, _ = run("sample", file, "--json", "--log-z", "--min-p", "0.01")
    seeds = reference.fold_in(0, np.arange(ROWS))
    found, right = strict_json(out), reference.sample(logits, seeds, min_p=0.01, return_log_z=True)
    assert status == 0
    assert found["contract"] == 2
    assert found["shape"] == [ROWS, 300]
    for name, key in (("logprobs", "logprob"), ("log_z", "log_z")):
        values = getattr(right, name)
        assert [row[key] for row in found["results"]] == values.tolist()
        assert [int(row[f"{key}_bits"], 16) for row in found["results"]] == values.view(np.uint32).tolist()
    assert "logprob" not in strict_json(run("sample", file, "--json", "--no-logprobs")[1])["results"][0]


def test_digest_is_of_all_result_bits(run: Run, file: Path, logits: np.ndarray) -> None:
    """Defect caught: the digest leaves out an output, or depends on how results are printed."""
    plain = digest_of(run("sample", file)[1])
    assert strict_json(run("sample", file, "--json")[1])["digest"] == plain
    assert digest_of(run("sample", file, "--log-z")[1]) != plain
    logits[3, 0] = np.nextafter(logits[3].max(), np.float32(9))  # one more token that shares the row's mass
    np.save(file, logits)
    assert digest_of(run("sample", file)[1]) != plain


def test_invalid_rows_are_told_and_exit_1(run: Run, file: Path, logits: np.ndarray) -> None:
    """Defect caught: an invalid row passes for a token, spoils its neighbours, or makes JSON that is none."""
    right = reference.sample(logits, reference.fold_in(0, np.arange(ROWS))).token_ids.tolist()
    logits[2, 7], logits[5] = np.nan, -np.inf
    np.save(file, logits)
    status, out, err = run("sample", file)
    assert status == 1
    assert "2 of 12 rows are invalid" in err
    assert out.splitlines()[3].endswith("a logit is NaN")
    assert out.splitlines()[6].endswith("no logit is finite")
    tokens = tokens_of(out)
    assert [t for i, t in enumerate(tokens) if i not in (2, 5)] == [t for i, t in enumerate(right) if i not in (2, 5)]
    status, out, _ = run("sample", file, "--json", "--log-z")
    bad = strict_json(out)["results"][2]
    assert status == 1
    assert (bad["token"], bad["kept"], bad["logprob"], bad["log_z"]) == (-1, 0, None, None)
    assert (bad["logprob_bits"], bad["status"], bad["why"]) == ("0x7fc00000", 1, "a logit is NaN")


ERRORS = {
    "nowhere.npy": "No such file",
    "text.npy": "not an array of numbers",
    "empty.npy": "not an array of numbers",
    "objects.npy": "not an array of numbers",
    "cut.npz": "not an array of numbers",
    "double.npy": "must be float32 or float16, got float64",
    "bits.npy": "--bf16",
    "cube.npy": r"shape \[V\] or \[B, V\], got \[2, 2, 2\]",
    "scalar.npy": r"shape \[V\] or \[B, V\], got \[\]",
    "no_columns.npy": "between 1 and 2.21 columns",
    "two.npz": "choose an array with --array: a, b",
    "two.npz --array c": "no array 'c', only a, b",
    "logits.npy --array a": "--array is for .npz",
    "logits.npy --bf16": "must be uint16",
    "logits.npy --rows 3:13": "not within the file's 12 rows",
    "logits.npy --rows 5:4": "not within the file's 12 rows",
    "logits.npy --temperature -1": "temperature must be finite and at least 0",
    "logits.npy --temperature nan": "temperature must be finite and at least 0",
    "logits.npy --top-p nan": "top_p must be",
    "logits.npy --top-p 95": "top_p must be",
    "logits.npy --seed 99999999999999999999": "64-bit",
    "logits.npy --position -1": "--position must be between",
    "logits.npy --position 9223372036854775800 --consecutive": "--position must be between",
    "logits.npy --seed-file nowhere": "No such file",
    "logits.npy --seed-file logits.npy": "seeds must be integers, got float32",
    "logits.npy --seed-file words.txt": "seeds must be integers",
    "logits.npy --seed-file three.txt": "3 seeds for 12 rows",
    "logits.npy --seed-file wide.txt": "64-bit",
}


@pytest.mark.parametrize("words", ERRORS, ids=lambda w: w.replace(" ", "_"))
def test_errors_are_one_clear_line(
    run: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    """Defect caught: a traceback, a half-printed table, a wrong exit status, a message that names nothing."""
    monkeypatch.chdir(tmp_path)
    Path("text.npy").write_text("hello")
    Path("empty.npy").touch()
    np.save("objects.npy", np.array([{}], object), allow_pickle=True)
    np.save("double.npy", np.zeros((2, 2)))
    np.save("bits.npy", np.zeros((2, 2), np.uint16))
    np.save("cube.npy", np.zeros((2, 2, 2), np.float32))
    np.save("scalar.npy", np.float32(1))
    np.save("no_columns.npy", np.zeros((2, 0), np.float32))
    np.savez("two.npz", a=np.zeros(3, np.float32), b=np.zeros(3, np.float32))
    Path("cut.npz").write_bytes(Path("two.npz").read_bytes()[:100])
    Path("words.txt").write_text("1 two 3")
    Path("three.txt").write_text("1 2 3")
    Path("wide.txt").write_text("1 " * 11 + str(2**64))
    status, out, err = run("sample", *words.split())
    assert (status, out) == (2, "")
    assert err.startswith("detsample sample: error: ")
    assert err.count("\n") == 1
    assert re.search(ERRORS[words], err), err


@pytest.mark.parametrize(
    "words",
    ["", "sample", "draw x", "sample x --rows 3", "sample x --seed 1 --seed-file y", "sample x --top-k few"],
)
def test_wrong_usage_exits_2(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Defect caught: a misspelt command or number runs something else."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(words.split())
    assert stopped.value.code == 2
    assert "usage: detsample" in capsys.readouterr().err


def test_gpu_without_one_is_a_clear_error(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect caught: --device gpu falls back to the CPU in silence, or ends in a framework's traceback."""
    monkeypatch.setattr(gpu, "driver_sees_one", lambda: False)
    status, out, err = run("sample", file, "--device", "gpu")
    assert (status, out) == (2, "")
    assert "needs an NVIDIA GPU" in err


def test_a_reader_that_stops_reading_is_no_error(tmp_path: Path) -> None:
    """Defect caught: `detsample sample ... | head` ends in a traceback."""
    np.save(tmp_path / "long.npy", np.zeros((20_000, 1), np.float32))
    command = [sys.executable, "-m", "detsample.cli", "sample", str(tmp_path / "long.npy")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("words", [("sample", "--json"), ("sample",), ("explain",)])
def test_a_full_disk_is_one_line(words: tuple[str, ...], file: Path) -> None:
    """Defect caught: a traceback where what is printed cannot be written, or a second complaint when Python ends."""
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "detsample", words[0], str(file), *words[1:]]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"detsample {words[0]}: error: standard output: No space left on device\n"


def test_progress_waits_and_then_counts(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect caught: quick commands chatter on stderr, slow ones are silent, or progress is on stdout."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = progress.Progress("rows", 1000)
    for done, second in ((10, 1.0), (100, 2.0), (101, 3.0), (400, 40.0), (1000, 80.0)):
        now[0] = second
        shown.at(done)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "100 of 1,000 rows, 2 s, about 18 s left", "400 of 1,000 rows, 40 s, about 60 s left"
    ]  # fmt: skip


def test_commands_import_no_framework(file: Path) -> None:
    """Defect caught: sampling a file takes seconds, or fails, for a framework imported for nothing."""
    found = "sorted({'torch', 'paddle', 'triton'} & set(sys.modules))"
    code = f"import atexit\natexit.register(lambda: print({found}))"
    assert program("sample", file, code=code).stdout.splitlines()[-1] == "[]"


# ---- selftest


def test_selftest_passes_without_kernels(run: Run) -> None:
    """Defect caught: the reference or the stored answers have changed."""
    status, out, _ = run("selftest", "--device", "none")
    assert status == 0, out
    assert "kernels: not checked" in out
    assert "numpy" in out


@pytest.mark.parametrize("part", ["philox", "fold_in", "weight", "gumbel", "noise"])
def test_selftest_notices_a_wrong_answer(run: Run, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """Defect caught: a part of the known answers is loaded and not compared."""
    answers = known.load()
    last = answers[part][-1]
    answers[part][-1] = last[:-1] + "0" if isinstance(last, str) else [*last[:-1], last[-1] + 1]
    monkeypatch.setattr(known, "load", lambda: answers)
    status, out, _ = run("selftest", "--device", "none")
    assert status == 1
    assert re.search(rf"{part} .* FAILED", out)
    assert "expected" in out
    assert "1 of 8 checks FAILED" in out


def test_known_answers_are_the_oracles() -> None:
    """Defect caught: the stored answers were made by what they are meant to check."""
    import oracle

    answers = known.load()
    assert len(answers["philox"]) >= 3
    for case in answers["philox"]:
        counter, key, words = ([int(w, 16) for w in part.split()] for part in re.split(r" \| | -> ", case))
        assert list(oracle.philox(counter, key)) == words
    for seed, i, expected in answers["fold_in"]:
        assert oracle.fold_in(seed, i) == expected
    for bits, expected in answers["weight"]:
        a = np.inf if bits == "7f800000" else oracle.fraction_of(int(bits, 16))
        assert oracle.weight(a) == expected
    for s, expected in answers["gumbel"]:
        assert oracle.gumbel(int(s, 16)) == expected
    for seed, position, token, expected in answers["noise"]:
        assert oracle.gumbel(oracle.uniform(seed, position, token)) == expected


def test_selftest_notices_rows_that_depend_on_others(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect caught: the checks of surroundings compare a result with itself."""
    whole = reference.sample

    def by_batch(logits: np.ndarray, topp_seed: Any, **given: Any) -> Any:
        return whole(logits, topp_seed, **given | {"position": given["position"] // len(logits)})

    monkeypatch.setattr(selftest.reference, "sample", by_batch)
    status, out, _ = run("selftest", "--device", "none")
    assert status == 1
    assert re.search(r"each row alone .* FAILED\n    token_ids, \d+ of 40 rows; row \d+: expected", out)


def test_selftest_without_triton_checks_what_it_can(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect caught: without Triton an ImportError, or a pass that does not say what was left out."""
    monkeypatch.setattr(selftest, "triton_is_installed", lambda: False)
    status, out, _ = run("selftest")
    assert status == 0
    assert "kernels: not checked, Triton is not installed" in out
    status, out, err = run("selftest", "--device", "interpreter")
    assert (status, out) == (2, "")
    assert "needs Triton" in err


def test_selftest_starts_over_where_triton_is_loaded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect caught: compiled kernels are launched where the interpreter was meant."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setitem(sys.modules, "triton", type(sys)("triton"))
    assert not kernels.interpreting()
    started: list[Any] = []

    def start(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        started.append((command[1:], env["TRITON_INTERPRET"]))
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(selftest, "triton_is_installed", lambda: True)
    monkeypatch.setattr(selftest.subprocess, "run", start)
    assert run("selftest", "--device", "interpreter", "--rows", "3")[0] == 1
    assert started == [(["-m", "detsample", "selftest", "--device", "interpreter", "--rows", "3"], "1")]


@pytest.mark.full("the whole self-test in the interpreter")
def test_selftest_runs_the_kernels() -> None:
    """Defect caught: the kernels disagree with the reference in the interpreter, or cannot run in it."""
    pytest.importorskip("triton")
    done = program("selftest", "--device", "interpreter", "--rows", "9", "--seed", "5", TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "checks passed" in done.stdout
    assert all(f"  {kind} " in done.stdout for kind in KINDS)


BROKEN = """
import numpy as np, detsample.sampler.on_gpu as engine
run_kernels = engine.run
def broken(*arguments):
    out = run_kernels(*arguments)
    out.{field}.view(np.uint8).reshape(len(out.status), -1)[-1, 0] ^= 1
    return out
engine.run = broken
"""


@pytest.mark.full("one wrong bit in more outputs")
@pytest.mark.parametrize("field", ["token_ids", "num_kept", "status", "logprobs", "log_z", "mask"])
def test_selftest_notices_one_wrong_bit(field: str) -> None:
    """Defect caught: an output of the kernels is not compared, or the exit status ignores a mismatch."""
    pytest.importorskip("triton")
    code = BROKEN.format(field=field)
    argv = ("selftest", "--device", "interpreter", "--rows", "1")
    done = program(*argv, code=code, TRITON_INTERPRET="1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(rf"FAILED\n    {field}, 1 of 1 rows; row 0", done.stdout), done.stdout
    assert "topp_seed" in done.stdout


@pytest.mark.full("the whole self-test in the interpreter")
def test_selftest_survives_kernels_that_do_not_run() -> None:
    """Defect caught: what a compiler or a driver raises ends the test before the other checks."""
    pytest.importorskip("triton")
    code = "import detsample.sampler.on_gpu as e\ndef broken(*a): raise RuntimeError('no\\nway')\ne.run = broken"
    argv = ("selftest", "--device", "interpreter", "--rows", "2")
    done = program(*argv, code=code, TRITON_INTERPRET="1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.count("    RuntimeError: no way") == 2
    assert "gumbel_noise" in done.stdout


OLD = """
import numpy as np
from triton.runtime import interpreter

patch = interpreter._patch_lang_tensor


def index(number):
    if np.ndim(number.handle.data):
        raise TypeError({message!r})
    return int(number.handle.data)


def patch_as_of_old(tensor, *scope):
    patch(tensor, *scope)
    tensor.__index__ = index


interpreter._patch_lang_tensor = patch_as_of_old
"""


@pytest.mark.full("the whole self-test in the interpreter")
def test_selftest_runs_in_an_interpreter_too_old_for_numpy() -> None:
    """Defect caught: kernels that an allowed pair of versions, Triton 3.3 or 3.6 and NumPy 2.4, cannot check."""
    pytest.importorskip("triton")
    code = OLD.format(message=selftest.OLD_INTERPRETER)
    argv = ("selftest", "--device", "interpreter", "--rows", "3")
    done = program(*argv, code=code, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "checks passed" in done.stdout
    assert "not checked" not in done.stdout


def test_selftest_tells_an_interpreter_too_old_for_numpy() -> None:
    """Defect caught: another interpreter that NumPy 2.4 refuses looks as if the kernels were wrong."""
    pytest.importorskip("triton")
    code = "import detsample.sampler.on_gpu as e\n"
    code += f"def old(*a): raise TypeError({selftest.OLD_INTERPRETER!r})\ne.run = old"
    done = program("selftest", "--device", "interpreter", code=code, TRITON_INTERPRET="1")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "NumPy below 2.4" in done.stderr


@pytest.mark.parametrize("rows", [1, 20, 4000])
def test_cases_of_the_selftest(rows: int) -> None:
    """Defect caught: fewer rows than asked for, a kind or a size never met, cases that differ by call."""
    vocabularies = (5, 64, 1000, 5000)
    made = cases(3, rows, vocabularies, ("float32", "float16"), 1 << 14)
    assert sum(len(c.logits) for c in made) == rows
    assert all(c.logits.size <= max(1 << 14, c.logits.shape[1]) for c in made)
    again = cases(3, rows, vocabularies, ("float32", "float16"), 1 << 14)
    assert all(np.array_equal(a.logits, b.logits, equal_nan=True) for a, b in zip(made, again, strict=True))
    for c in made:
        with np.errstate(over="ignore"):
            assert np.array_equal(c.logits.astype(c.dtype).astype(np.float32), c.logits, equal_nan=True)
    if rows >= 20:
        assert {c.kind for c in made} == set(KINDS)
    if rows == 4000:
        assert len({(c.kind, c.logits.shape[1]) for c in made}) == len(KINDS) * len(vocabularies)
        assert len({(c.kind, c.dtype) for c in made}) == len(KINDS) * 2


def test_selftest_refuses_what_it_cannot_do(run: Run) -> None:
    """Defect caught: `--rows 0` passes as a test of nothing."""
    for words in (("--rows", "0"), ("--rows", "-1"), ("--seed", "-1")):
        status, out, err = run("selftest", *words)
        assert (status, out) == (2, "")
        assert words[0] in err
