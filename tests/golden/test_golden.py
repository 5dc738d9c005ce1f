"""Golden outputs: the file, the verdicts, the commands and the plugin, on rows of a real model and on made ones."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cases
import kernel_path
import numpy as np
import pytest
from command import Run
from hypothesis import given, settings
from hypothesis import strategies as st
from levels import amount

import detsample
from detsample import golden
from detsample.data import load_real_logits
from detsample.golden.record import REQUEST, dumps, loads, sealed, shortest
from detsample.processing import Processing

pytest_plugins = ["pytester"]

F32 = np.float32


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    return load_real_logits().logits


HOW: dict[str, Any] = {"position": 9, "temperature": 0.8, "top_k": 50, "top_p": 0.95}


@pytest.fixture(scope="module")
def recorded(real: np.ndarray) -> golden.Golden:
    return golden.record(real, np.arange(8), **HOW)


def small(rows: int = 6, vocab: int = 40) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((rows, vocab), dtype=F32) * F32(2)


def rounded_to_bf16(x: np.ndarray) -> np.ndarray:
    return cases.to_bfloat16(x)


def kinds(report: golden.Report) -> list[golden.Kind]:
    return [finding.kind for finding in report.findings]


def next_best(logits: Any, topp_seed: Any, **parameters: Any) -> Any:
    """A sampler with a bug: in rows 2 and 5 its token is one too far on."""
    out = detsample.sample(logits, topp_seed, **parameters)
    spoilt = out.token_ids.copy()
    spoilt[[2, 5]] += 1
    return replace(out, token_ids=spoilt)


# ---- the file


def test_what_was_applied_is_part_of_the_request(tmp_path: Path) -> None:
    """Catches other penalties or another grammar that are taken for drifted logits, and files without any that change.
    """
    logits = np.random.default_rng(1).standard_normal((2, 40), dtype=np.float32)
    allowed = np.array([[-1, -1], [0x0FF0, 0]], np.int32)
    processing = Processing(output=np.array([[3], [5]]), presence_penalty=np.float32([0.5, 0]))
    golden.save(golden.record(logits, np.arange(2), allowed=allowed, processing=processing), tmp_path / "x.json")
    found = golden.load(tmp_path / "x.json")
    assert golden.check(found, logits, allowed=allowed, processing=processing).exit_status == 0
    report = golden.check(found, logits, allowed=allowed)
    assert [(f.row, f.kind.name) for f in report.findings] == [(0, "REQUEST"), (1, "SAME")]
    assert "allowed or processing is not that of the record" in report.text()
    assert "applied" not in dumps(golden.record(logits, np.arange(2)))


def test_a_file_gives_every_bit_back(tmp_path: Path) -> None:
    """Catches a float that changes on its way through JSON, NaN and infinities and seeds of 64 bits included."""
    rng = np.random.default_rng(1)
    for kind, make in cases.CASES.items():
        logits = make(rng, 4, 33)
        made = golden.record(logits, **cases.parameters(rng, 4, 33))
        golden.save(made, tmp_path / "g.json")
        read = golden.load(tmp_path / "g.json")
        assert dumps(read) == dumps(made), kind
        report = golden.diff(made, read)
        assert set(kinds(report)) == {golden.Kind.SAME}, report.text()


@settings(deadline=None, derandomize=True, max_examples=amount(300, 60))
@given(st.integers(0, 2**32 - 1))
def test_shortest_decimals_read_back(pattern: int) -> None:
    """Catches a decimal that rounds to another fp32 number by way of a double."""
    value = np.uint32(pattern).view(F32)
    assert math.isnan(value) or F32(json.loads(json.dumps(shortest(value)))) == value


def test_a_file_is_readable(recorded: golden.Golden) -> None:
    """Catches a format that needs a program to be read: what rows share stands once, and a row is a line."""
    lines = dumps(recorded).splitlines()
    whole = json.loads("\n".join(lines))
    assert whole["contract_version"] == detsample.CONTRACT_VERSION
    assert whole["parameters"] == {"position": 9, "temperature": 0.8, "top_k": 50, "top_p": 0.95, "min_p": 0.0}
    assert sum('"fingerprint"' in line for line in lines) == len(recorded.rows)
    assert whole["rows"][0].keys() == {
        "topp_seed", "fingerprint", "token_id", "num_kept", "status", "logprob", "margin", "largest",
    }  # fmt: skip


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "format must be": lambda whole: whole.update(format="detsample golden 9"),
    "vocabulary' is missing": lambda whole: whole.pop("vocabulary"),
    "row 1: 'token_id' is missing": lambda whole: whole["rows"][1].pop("token_id"),
    "row 0: token_id must be an integer": lambda whole: whole["rows"][0].update(token_id="7"),
    "row 0: margin must be a number, got 'wide'": lambda whole: whole["rows"][0].update(margin="wide"),
    "row 0: logprob must be a number that fp32 holds": lambda whole: whole["rows"][0].update(logprob=-1e39),
    "row 1: temperature must be a number that fp32": lambda whole: whole["rows"][1].update(temperature=10**400),
    "row 0: topp_seed must be between": lambda whole: whole["rows"][0].update(topp_seed=2**64),
    "row 0: position must be between": lambda whole: whole["parameters"].update(position=2**63),
    "row 3: top_k must be between": lambda whole: whole["rows"][3].update(top_k=2**70),
    "row 3: token_id must be between": lambda whole: whole["rows"][3].update(token_id=2**70),
    "row 3: num_kept must be between": lambda whole: whole["rows"][3].update(num_kept=2**31),
    "row 3: status must be between": lambda whole: whole["rows"][3].update(status=-(2**40)),
    "row 4: largest must .* below 49152 for keys, got '-1'": lambda whole: whole["rows"][4].update(largest={"-1": 2}),
    "row 4: largest must .* below 49152 for keys, got 'a'": lambda whole: whole["rows"][4].update(largest={"a": 2}),
    "row 4: largest must .* for keys, got '49152'": lambda whole: whole["rows"][4].update(largest={"49152": 2}),
    "row 4: largest must be a number": lambda whole: whole["rows"][4].update(largest={"3": []}),
    "row 4: largest must be an object": lambda whole: whole["rows"][4].update(largest=[]),
    "row 5 must be an object, got 3": lambda whole: whole["rows"].__setitem__(5, 3),
    "rows must be a list": lambda whole: whole.update(rows={}),
    "contract_version must be an integer": lambda whole: whole.update(contract_version=None),
    "vocabulary must be an integer": lambda whole: whole.update(vocabulary="50"),
    "vocabulary must be between": lambda whole: whole.update(vocabulary=0),
    "dtype must be a string": lambda whole: whole.update(dtype=32),
    "sequence must be true or false": lambda whole: whole.update(sequence="no"),
    "logits_file must be a string or null": lambda whole: whole.update(logits_file=3),
    "row 2: fingerprint must be": lambda whole: whole["rows"][2].update(fingerprint="0x12"),
    "parameters must be an object": lambda whole: whole.update(parameters=[]),
    "recorded_with must be an object": lambda whole: whole.update(recorded_with=[]),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_file_is_refused_by_name(message: str, recorded: golden.Golden, tmp_path: Path) -> None:
    """Catches a file that is half right and is believed, an error that does not say where to look, and a number too
    large for its field that ended in an OverflowError, which a command reports as changed logits.
    """
    whole = json.loads(dumps(recorded))
    BROKEN[message](whole)
    (tmp_path / "g.json").write_text(json.dumps(sealed(whole)))
    with pytest.raises(golden.GoldenError, match=message) as raised:
        golden.load(tmp_path / "g.json")
    assert "g.json" in str(raised.value)


def test_what_is_no_golden_file_is_refused(tmp_path: Path) -> None:
    """Catches a traceback where a line of text is due."""
    for text in ("", "[]", "{}", "nothing", '{"format": 3}'):
        (tmp_path / "g.json").write_text(text)
        with pytest.raises(golden.GoldenError, match=r"g\.json"):
            golden.load(tmp_path / "g.json")
    with pytest.raises(golden.GoldenError, match="No such file"):
        golden.load(tmp_path / "none.json")


def test_a_seed_may_be_written_without_a_sign(recorded: golden.Golden, real: np.ndarray) -> None:
    """Catches 64 bits of a seed that are refused, or drawn with otherwise, because their first is set."""
    seeds = np.array([2**64 - 1, 2**63, 2**63 + 7, 5, 0, 2**63 - 1, 2**64 - 2, 1], np.uint64)
    made = golden.record(real, seeds.view(np.int64), **HOW)
    whole = json.loads(dumps(made))
    for row, seed in zip(whole["rows"], seeds.tolist(), strict=True):
        row["topp_seed"] = seed
    read = loads(json.dumps(sealed(whole)))
    assert read == made
    assert set(kinds(golden.check(read, real))) == {golden.Kind.SAME}


@pytest.mark.parametrize("spoil", ["empty", "cut", "bit", "text", "array", "folder", "nameless"])
def test_spoilt_kept_logits_are_refused_by_name(spoil: str, tmp_path: Path) -> None:
    """Catches an error of zipfile, zlib or NumPy that passes for a bug of detsample."""
    x, file = small(), tmp_path / "g.json"
    golden.save(golden.record(x, np.arange(1, 7)), file, x)
    kept = tmp_path / str(golden.load(file).logits_file)
    content = bytearray(kept.read_bytes())
    if spoil == "folder":
        kept.unlink()
        kept.mkdir()
    elif spoil == "array":
        with kept.open("wb") as stream:
            np.save(stream, x)
    elif spoil == "nameless":
        file.write_text(json.dumps(sealed(json.loads(file.read_text()) | {"logits_file": "/"})))
    else:
        content[200] ^= 4
        kept.write_bytes({"empty": b"", "cut": content[:-30], "bit": content, "text": b"logits"}[spoil])
    spoilt = r"g\.json: logits_file must be" if spoil == "nameless" else r"\.logits\.npz: not the logits"
    with pytest.raises(golden.GoldenError, match=spoilt):
        golden.load_logits(file, golden.load(file))


def test_kept_logits_are_those_recorded(tmp_path: Path) -> None:
    """Catches logits of another record taken for this one's, and a missing file taken for an error."""
    x = small()
    made = golden.record(x, np.arange(1, 7))
    golden.save(made, tmp_path / "g.json", x)
    read = golden.load(tmp_path / "g.json")
    file = tmp_path / str(read.logits_file)
    kept = golden.load_logits(tmp_path / "g.json", read)
    assert kept is not None
    assert kept.tobytes() == x.tobytes()
    np.savez_compressed(file, logits=x + F32(1))
    with pytest.raises(golden.GoldenError, match="not the logits that were recorded"):
        golden.load_logits(tmp_path / "g.json", read)
    np.savez_compressed(file, logits=x[:2])
    with pytest.raises(golden.GoldenError, match=r"expected float32 \[6, 40\]"):
        golden.load_logits(tmp_path / "g.json", read)
    file.unlink()
    assert golden.load_logits(tmp_path / "g.json", read) is None


def test_fingerprints_are_of_what_the_sampler_sees() -> None:
    """Catches a fingerprint that differs with the type, the layout or the sign of zero, or that overlooks a bit."""
    x = cases.to_bfloat16(small(2, 33))
    x[0, 3] = 0
    expected = golden.fingerprints(x)
    signed = np.where(x == 0, F32(-0.0), x)
    wide = np.zeros((2, 70), F32)
    wide[:, 1:67:2] = x
    for same in (signed, wide[:, 1:67:2], np.asfortranarray(x)):
        assert golden.fingerprints(same) == expected
    for at in (0, 32):
        other = x.copy()
        other.view(np.int32)[1, at] ^= 1
        found = golden.fingerprints(other)
        assert found[0] == expected[0]
        assert found[1] != expected[1]


# ---- verdicts


def test_what_has_not_changed_is_the_same(recorded: golden.Golden, real: np.ndarray) -> None:
    """Catches a difference where there is none."""
    report = golden.check(recorded, real)
    assert set(kinds(report)) == {golden.Kind.SAME}
    assert (report.status(), report.status(strict=True)) == (0, 0)
    assert report.text() == "8 rows: 8 same"


def test_a_sampler_bug_is_the_samplers(recorded: golden.Golden, real: np.ndarray) -> None:
    """Catches a bug put down to the logits or to the request."""
    report = golden.check(recorded, real, sampler=next_best)
    assert [f.row for f in report.of(golden.Kind.SAMPLER)] == [2, 5]
    assert report.status() == 3
    old = recorded.rows[2].token_id
    assert f"token was {old}, is {old + 1}; the same logits" in report.text()


@pytest.mark.parametrize("field", ["num_kept", "logprob", "margin", "status", "token_id"])
def test_every_result_is_compared(field: str, recorded: golden.Golden, real: np.ndarray) -> None:
    """Catches a result that is recorded and never looked at again."""
    value = getattr(recorded.rows[1], field)
    other = float(np.nextafter(F32(value), F32(9))) if isinstance(value, float) else value + 1
    rows = list(recorded.rows)
    rows[1] = replace(rows[1], **{field: other})
    report = golden.check(replace(recorded, rows=tuple(rows)), real)
    assert [f.row for f in report.of(golden.Kind.SAMPLER)] == [1]


@pytest.mark.parametrize("name", sorted({*REQUEST, "filter_order"}))
def test_a_changed_request_is_named(name: str) -> None:
    """Catches a parameter that may change unnoticed, its smallest step included."""
    base: dict[str, Any] = {
        "topp_seed": 2**63 - 1, "position": 2**40,
        "temperature": 0.8, "top_k": 5, "top_p": 0.9, "min_p": 0.01, "filter_order": "top_k_first",
    }  # fmt: skip
    recorded = golden.record(small(), **base, shared_noise=True)
    value = base[name]
    other = float(np.nextafter(F32(value), F32(9))) if isinstance(value, float) else "joint"
    other = value - 1 if isinstance(value, int) else other
    report = golden.check(recorded, small(), **{name: other})
    assert set(kinds(report)) == {golden.Kind.REQUEST}
    assert report.status() == 4
    assert f"{name} was {value}, is " in report.text()


def test_a_cast_to_bf16_is_drift(recorded: golden.Golden, real: np.ndarray) -> None:
    """Catches drift put down to the sampler; with all logits kept its size is exact, otherwise a lower bound."""
    cast = rounded_to_bf16(real)
    actual = np.abs(cast.astype(np.float64) - real).max(axis=1)
    for kept in (None, real):
        report = golden.check(recorded, cast, kept_logits=kept)
        assert set(kinds(report)) <= {golden.Kind.DRIFTED, golden.Kind.EXPLAINED}
        for finding in report.findings:
            changed = finding.recorded.token_id != finding.today.token_id
            assert (finding.kind is golden.Kind.EXPLAINED) == changed
            assert finding.exact == (kept is not None)
            assert finding.drift == actual[finding.row] if kept is not None else finding.drift <= actual[finding.row]
            assert finding.drift > 0
        assert report.status(strict=True) == 1


def drifting(t: float) -> tuple[golden.Golden, np.ndarray, np.ndarray]:
    """A record of rows with unequal margins, its logits, and others that each differ by t, the drawn token down."""
    x = np.round(small(12, 30) * 64) / F32(64)
    made = golden.record(x, np.arange(12), top_k=9)
    moved = x + F32(t)
    moved[np.arange(12), [row.token_id for row in made.rows]] -= F32(2 * t)
    return made, x, moved


def test_more_drift_than_the_margin_explains_and_less_does_not() -> None:
    """Catches the two taken for each other: with a right sampler only larger drifts change tokens; a wrong one is
    found out by a change that its drift cannot explain.
    """
    made, x, moved = drifting(0.25)
    report = golden.check(made, moved, kept_logits=x)
    flips = report.of(golden.Kind.EXPLAINED)
    assert flips
    assert all(f.drift == 0.25 and f.recorded.margin < 0.25 for f in flips)
    assert not report.of(golden.Kind.TOO_SMALL, golden.Kind.SAMPLER, golden.Kind.UNDECIDED)

    made, x, moved = drifting(2**-6)
    steady = [row for row in (2, 5) if made.rows[row].margin > 2**-6]
    wrong = golden.record(moved, np.arange(12), top_k=9, sampler=next_best)
    report = golden.diff(made, wrong, x, moved)
    assert steady
    assert {f.row for f in report.of(golden.Kind.TOO_SMALL)} == set(steady)
    assert "less than the margin" in report.text()
    assert report.status() == 3


def test_without_all_logits_the_reference_decides() -> None:
    """Catches a bug excused by a drift that is not known: what the sampler drew, the reference must draw as well."""
    made, _, moved = drifting(0.25)
    assert golden.check(made, moved).of(golden.Kind.EXPLAINED)
    report = golden.check(made, moved, sampler=next_best)
    assert {2, 5} <= {f.row for f in report.of(golden.Kind.SAMPLER)}
    assert "the reference draws" in report.text()


def less_probable(out: Any) -> Any:
    return replace(out, logprobs=out.logprobs - F32(1))


def one_more(out: Any) -> Any:
    return replace(out, num_kept=out.num_kept + 1)


def refused(out: Any) -> Any:
    return replace(out, status=out.status + 1)


@pytest.mark.parametrize(
    ("bug", "said"), [(less_probable, "logprob"), (one_more, "num_kept 9"), (refused, "status 0")]
)
@pytest.mark.parametrize("sequence", [False, True])
def test_drift_does_not_hide_a_bug(bug: Callable[[Any], Any], said: str, sequence: bool) -> None:
    """Catches a wrong log probability, count or status called drift, exit status 0, as soon as the logits move at all:
    only the token was asked of the reference.
    """
    x = small(12, 30)
    made = golden.record(x, np.arange(12), top_k=9, sequence=sequence)
    moved = x + F32(1e-6)
    moved[1:] += np.random.default_rng(4).standard_normal((11, 30), dtype=F32) * sequence

    def sampler(logits: Any, topp_seed: Any, **parameters: Any) -> Any:
        return bug(detsample.sample(logits, topp_seed, **parameters))

    fine = golden.check(made, moved)
    assert golden.Kind.SAMPLER not in kinds(fine)
    assert bool(fine.of(golden.Kind.FOLLOWS)) == sequence
    report = golden.check(made, moved, sampler=sampler)
    assert set(kinds(report)) == {golden.Kind.SAMPLER}
    assert report.status() == 3
    assert f"the reference has {said}" in report.text()


def test_a_sampler_that_draws_no_token_of_the_vocabulary() -> None:
    """Catches an IndexError where a bug is to be told of."""
    x = small()
    made = golden.record(x, np.arange(1, 7))

    def beyond(logits: Any, topp_seed: Any, **parameters: Any) -> Any:
        out = detsample.sample(logits, topp_seed, **parameters)
        return replace(out, token_ids=out.token_ids + 1000)

    assert set(kinds(golden.check(made, x, sampler=beyond))) == {golden.Kind.SAMPLER}


def test_drift_that_is_not_known_is_said_to_be_so() -> None:
    """Catches a verdict made up where two files cannot tell."""
    made, _, moved = drifting(0.25)
    wide = [replace(row, margin=math.inf) for row in made.rows]
    today = golden.record(moved, np.arange(12), top_k=9)
    report = golden.diff(replace(made, rows=tuple(wide)), today)
    assert report.of(golden.Kind.UNDECIDED)
    assert "at least" in report.text()
    nothing = [replace(row, largest=()) for row in made.rows]
    text = golden.diff(replace(made, rows=tuple(nothing)), today).text()
    assert "by how much is not known" in text


def test_in_a_text_later_rows_follow() -> None:
    """Catches a text's every later row reported as a failure of its own, and one with the same logits excused."""
    x = small(6)
    made = golden.record(x, 4, position=np.arange(6), sequence=True)
    other = x.copy()
    other[3:5] += np.random.default_rng(8).standard_normal((2, 40), dtype=F32)
    today = golden.record(other, 4, position=np.arange(6), sequence=True, sampler=next_best)
    found = kinds(golden.diff(made, today))
    assert found == [golden.Kind.SAME] * 2 + [golden.Kind.SAMPLER] + [golden.Kind.FOLLOWS] * 2 + [golden.Kind.SAMPLER]
    shorter = replace(today, rows=today.rows[:4])
    assert kinds(golden.diff(made, shorter))[4:] == [golden.Kind.FOLLOWS] * 2
    assert kinds(golden.diff(replace(made, sequence=False), shorter))[4:] == [golden.Kind.REQUEST] * 2


def test_contract_type_and_vocabulary_are_noted() -> None:
    """Catches another contract version that is not told of."""
    made = golden.record(small(), np.arange(1, 7))
    other = replace(made, contract_version=3, dtype="bfloat16", vocab=41)
    text = golden.diff(made, other).text()
    for note in ("contract was 2, is 3", "type of the logits was float32, is bfloat16", "vocabulary was 40, is 41"):
        assert note in text


def test_invalid_rows_are_recorded_as_such() -> None:
    """Catches NaN that is not equal to itself, or a status that may change unnoticed."""
    x = small(3)
    x[1, 0] = np.nan
    made = golden.record(x, np.arange(1, 4))
    assert set(kinds(golden.check(made, x))) == {golden.Kind.SAME}
    x[1, 0] = np.inf
    report = golden.check(made, x)
    assert kinds(report)[1] is golden.Kind.DRIFTED
    rows = list(made.rows)
    rows[1] = replace(rows[1], status=2)
    x[1, 0] = np.nan
    assert (
        "status was 2, is 1 (a logit is +inf / a logit is NaN)"
        in golden.check(replace(made, rows=tuple(rows)), x).text()
    )


def test_logits_of_another_shape_are_refused() -> None:
    """Catches rows compared with others."""
    made = golden.record(small(), np.arange(1, 7))
    with pytest.raises(golden.GoldenError, match=r"shape \[6, 40\], as recorded, got \[5, 40\]"):
        golden.check(made, small(5))
    with pytest.raises(TypeError, match="topk is no parameter"):
        golden.check(made, small(), topk=3)


# ---- one record, every path


def kernel_sampler(logits: Any, topp_seed: Any, **parameters: Any) -> Any:
    """The kernels: in the interpreter, or on a GPU."""
    pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")
    return kernel_path.sample(logits, topp_seed, **parameters)


@pytest.mark.full("a golden file in the interpreter")
def test_a_record_of_numpy_holds_for_the_kernels() -> None:
    """Catches kernels that draw, count or weigh otherwise than what was recorded through NumPy."""
    rng = np.random.default_rng(5)
    logits = cases.CASES["randn_x5"](rng, 6, 33)
    logits[4, 7] = np.nan
    recorded = golden.record(logits, **cases.parameters(rng, 6, 33))
    report = golden.check(loads(dumps(recorded)), logits, sampler=kernel_sampler)
    assert set(kinds(report)) == {golden.Kind.SAME}, report.text()
    margins = kernel_path.margin(logits, **golden.comparison.request(recorded.rows))
    expected = np.array([row.margin for row in recorded.rows], F32)
    assert np.array_equal(kernel_path.bits(margins), kernel_path.bits(expected))


@pytest.mark.gpu
def test_a_record_of_numpy_holds_for_tensors_on_a_gpu(recorded: golden.Golden, real: np.ndarray) -> None:
    """Catches a path through a framework's tensors on which a bit is lost: margins and log probabilities included."""
    report = golden.check(recorded, kernel_path.on_device(real))
    assert set(kinds(report)) == {golden.Kind.SAME}, report.text()
    drawn = golden.record(kernel_path.on_device(real), 3, top_p=0.9, shared_noise=True)
    assert drawn.rows == golden.record(real, 3, top_p=0.9, shared_noise=True).rows


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_a_record_of_numpy_holds_for_tensors(framework: str, recorded: golden.Golden, real: np.ndarray) -> None:
    """Catches a framework whose tensors cannot be recorded or checked."""
    tensors = pytest.importorskip(framework)
    x = tensors.from_numpy(real) if framework == "torch" else tensors.to_tensor(real, place=tensors.CPUPlace())
    report = golden.check(recorded, x)
    assert set(kinds(report)) == {golden.Kind.SAME}, report.text()
    how: dict[str, Any] = {"top_p": 0.9, "shared_noise": True}
    assert golden.record(x, 3, **how).rows == golden.record(real, 3, **how).rows


# ---- the commands


def test_record_check_and_diff(run: Run, tmp_path: Path) -> None:
    """Catches a command that loses a parameter or an exit status."""
    x, file, out = small(6), tmp_path / "x.npy", tmp_path / "g.json"
    np.save(file, x)
    how = ("--seed", 5, "--consecutive", "--top-k", 9, "--temperature", 0.7, "--rows", "1:6")
    assert run("golden", "record", file, "--out", out, *how, "--keep-logits")[0] == 0
    read = golden.load(out)
    assert read == replace(
        golden.record(x[1:], 5, position=np.arange(1, 6), top_k=9, temperature=0.7), logits_file=read.logits_file
    )
    assert run("golden", "check", out, file, "--rows", "1:6")[:2] == (0, "5 rows: 5 same\n")

    moved = tmp_path / "moved.npy"
    np.save(moved, x + F32(1e-6))
    assert run("golden", "check", out, moved, "--rows", "1:6")[0] == 0
    assert run("golden", "check", out, moved, "--rows", "1:6", "--strict")[0] == 1

    other = tmp_path / "other.json"
    run("golden", "record", file, "--out", other, *how[:1], 6, *how[2:])
    status, text, _ = run("golden", "diff", out, other, "--shown", 2)
    assert (status, text.count("topp_seed was 5, is 6"), text.count("... and 3 more")) == (4, 2, 1)

    whole = json.loads(out.read_text())
    whole["rows"][3]["token_id"] += 1
    out.write_text(json.dumps(sealed(whole)))
    status, text, _ = run("golden", "check", out, file, "--rows", "1:6")
    assert status == 3
    assert "row 3, position 4: sampler changed: token was" in text


def test_record_overwrites_only_by_force(run: Run, tmp_path: Path) -> None:
    """Catches a golden file that a slip of the hand replaces with what it was to be checked against."""
    np.save(tmp_path / "x.npy", small(2))
    argv = ("golden", "record", tmp_path / "x.npy", "--out", tmp_path / "g.json")
    assert run(*argv)[0] == 0
    before = (tmp_path / "g.json").read_bytes()
    status, _, error = run(*argv, "--seed", 9)
    assert (status, (tmp_path / "g.json").read_bytes()) == (2, before)
    assert error.endswith("g.json is there already: --force writes it anew\n")
    assert run(*argv, "--seed", 9, "--force")[0] == 0
    assert (tmp_path / "g.json").read_bytes() != before


def test_commands_fail_in_one_line(run: Run, tmp_path: Path) -> None:
    """Catches a traceback, or an exit status that a script takes for a verdict."""
    np.save(tmp_path / "x.npy", small(2))
    (tmp_path / "g.json").write_text("{}")
    for words in (
        ("check", tmp_path / "g.json", tmp_path / "x.npy"),
        ("check", tmp_path / "none.json", tmp_path / "x.npy"),
        ("diff", tmp_path / "g.json", tmp_path / "g.json"),
        ("record", tmp_path / "none.npy", "--out", tmp_path / "o.json"),
        ("record", tmp_path / "x.npy", "--out", tmp_path / "no" / "o.json"),
        ("record", tmp_path / "x.npy", "--out", tmp_path / "o.json", "--temperature", -1),
        ("record", tmp_path / "x.npy", "--out", tmp_path / "o.json", "--seed", 2**65),
    ):
        status, out, error = run("golden", *words)
        assert (status, out, error.count("\n")) == (2, "", 1), (words, error)
        assert error.startswith("detsample golden: error: ")
    assert not list(tmp_path.glob("*.part"))


def test_odd_golden_files_are_no_verdict(run: Run, tmp_path: Path) -> None:
    """Catches a traceback, whose exit status 1 says that the logits changed; a seed of 64 bits is no error."""
    np.save(tmp_path / "x.npy", small(3))
    file = tmp_path / "g.json"
    words = ("--out", file, "--seed", 2**64 - 1, "--shared-noise", "--keep-logits")
    run("golden", "record", tmp_path / "x.npy", *words)
    whole = json.loads(file.read_text())
    assert whole["parameters"]["topp_seed"] == -1

    def check(**changed: Any) -> tuple[int, str, str]:
        file.write_text(json.dumps(sealed(whole | {"parameters": whole["parameters"] | changed})))
        return run("golden", "check", file, tmp_path / "x.npy")

    assert check(topp_seed=2**64 - 1)[:2] == (0, "3 rows: 3 same\n")
    for changed in ({"topp_seed": 2**64}, {"position": 2**63}, {"top_k": 2**70}, {"temperature": 10**400}):
        (name,) = changed
        status, out, error = check(**changed)
        assert (status, out, error.count("\n")) == (2, "", 1)
        assert error.startswith(f"detsample golden: error: {file}: row 0: {name} must be ")
    (tmp_path / whole["logits_file"]).write_bytes(b"PK")
    assert check()[0] == 2
    file.write_text("[" * 100_000)
    assert run("golden", "diff", file, file)[0] == 2


def test_the_command_takes_sets(run: Run, tmp_path: Path) -> None:
    """Catches a set of another row, a forbidden token that is recorded, and a check that does not miss the set."""
    file, sets, out = tmp_path / "x.npy", tmp_path / "sets.npy", tmp_path / "g.json"
    np.save(file, np.zeros((3, 40), F32))
    np.save(sets, np.array([[-1, -1], [0x10, 0], [0, 0x20]], np.int32))
    assert run("golden", "record", file, "--out", out, "--rows", "1:3", "--allowed", sets)[0] == 0
    assert [row.token_id for row in golden.load(out).rows] == [4, 37]
    assert run("golden", "check", out, file, "--rows", "1:3", "--allowed", sets)[:2] == (0, "2 rows: 2 same\n")
    status, text, _ = run("golden", "check", out, file, "--rows", "1:3")
    assert (status, "allowed or processing is not that of the record" in text) == (4, True)


def test_a_seed_file_and_bf16(run: Run, tmp_path: Path) -> None:
    """Catches seeds of other rows, and bits read as another type."""
    x = cases.to_bfloat16(small(4))
    np.save(tmp_path / "x.npy", (x.view(np.uint32) >> 16).astype(np.uint16))
    (tmp_path / "seeds.txt").write_text("1 2 3 18446744073709551615")
    argv = ("--bf16", "--rows", "2:4", "--seed-file", tmp_path / "seeds.txt")
    assert run("golden", "record", tmp_path / "x.npy", "--out", tmp_path / "g.json", *argv)[0] == 0
    assert golden.load(tmp_path / "g.json").rows == golden.record(x[2:], np.array([3, -1])).rows


# ---- the plugin

TEST = """
import numpy as np
import pytest

X = np.random.default_rng(0).standard_normal((3, 50), dtype=np.float32)

def test_tokens(golden_tokens):
    golden_tokens.check(X, {seed}, shared_noise=True, top_p=0.9{more})

class TestGroup:
    @pytest.mark.parametrize("k", [2, 5])
    def test_k(self, golden_tokens, k):
        golden_tokens.check(X, 1, shared_noise=True, top_k=k)
        golden_tokens.check(X, 2, shared_noise=True, top_k=k, name="other seed", keep_logits=True)
"""


def write(pytester: pytest.Pytester, seed: int = 7, more: str = "") -> None:
    pytester.makepyfile(test_it=TEST.replace("{seed}", str(seed)).replace("{more}", more))


def pytest_run(pytester: pytest.Pytester, *words: str) -> pytest.RunResult:
    """pytest in this process, with the plugin whether or not this install names it."""
    named = pytester.plugins or "detsample.integrations.pytest_plugin" in _entry_points()
    return pytester.runpytest(*words, *([] if named else ["-p", "detsample.integrations.pytest_plugin"]))


def _entry_points() -> list[str]:
    from importlib.metadata import entry_points

    return [point.value for point in entry_points(group="pytest11")]


def test_the_fixture_writes_checks_and_fails(pytester: pytest.Pytester) -> None:
    """Catches a test that passes without its golden file, an update that does not, a failure that does not say why."""
    write(pytester)
    missing = pytest_run(pytester)
    missing.assert_outcomes(failed=3)
    missing.stdout.fnmatch_lines(["*no golden file*golden?test_it.test_tokens.json: run pytest with --golden-update*"])

    updated = pytest_run(pytester, "--golden-update")
    updated.assert_outcomes(passed=3)
    updated.stdout.fnmatch_lines(["*golden files written*", "*test_it.test_tokens.json"])
    names = (path.name for path in (pytester.path / "golden").iterdir())
    found = sorted(re.sub(r"\.[0-9a-f]{16}(?=\.logits)", "", name) for name in names)
    assert found == [
        "test_it.TestGroup.test_k[2]-other seed.json", "test_it.TestGroup.test_k[2]-other seed.logits.npz",
        "test_it.TestGroup.test_k[2].json",
        "test_it.TestGroup.test_k[5]-other seed.json", "test_it.TestGroup.test_k[5]-other seed.logits.npz",
        "test_it.TestGroup.test_k[5].json", "test_it.test_tokens.json",
    ]  # fmt: skip
    pytest_run(pytester).assert_outcomes(passed=3)

    write(pytester, seed=8)
    changed = pytest_run(pytester)
    changed.assert_outcomes(passed=2, failed=1)
    changed.stdout.fnmatch_lines(["*3 request changed*", "*row 0, position 0: request changed: topp_seed was 7, is 8*"])


def test_the_fixture_takes_a_sampler_and_strictness(pytester: pytest.Pytester) -> None:
    """Catches a sampler under test that is not asked, and drift that `strict` lets pass."""
    write(pytester)
    pytest_run(pytester, "--golden-update").assert_outcomes(passed=3)
    source = (pytester.path / "test_it.py").read_text()
    drifted = (
        source.replace("X =", "Y =")
        .replace("check(X", "check(X")
        .replace("\ndef test", "\nX = Y + Y.dtype.type(1e-6)\n\ndef test", 1)
    )
    (pytester.path / "test_it.py").write_text(drifted)
    pytest_run(pytester).assert_outcomes(passed=3)
    (pytester.path / "test_it.py").write_text(drifted.replace("top_p=0.9", "top_p=0.9, strict=True"))
    strict = pytest_run(pytester)
    strict.assert_outcomes(passed=2, failed=1)
    strict.stdout.fnmatch_lines(["*3 drifted*"])

    bug = "import detsample\ndef bug(x, s, **p):\n    return detsample.sample(x, s, **p | {'top_p': 0.5})\n"
    (pytester.path / "test_it.py").write_text(bug + source.replace("top_p=0.9", "top_p=0.9, sampler=bug"))
    wrong = pytest_run(pytester)
    wrong.assert_outcomes(passed=2, failed=1)
    wrong.stdout.fnmatch_lines(["*sampler changed*"])


def test_a_spoilt_golden_file_fails_the_test(pytester: pytest.Pytester) -> None:
    """Catches a file that cannot be read and is passed over."""
    write(pytester)
    pytest_run(pytester, "--golden-update")
    (pytester.path / "golden" / "test_it.test_tokens.json").write_text("{}")
    spoilt = pytest_run(pytester)
    spoilt.assert_outcomes(passed=2, failed=1)
    spoilt.stdout.fnmatch_lines(["*test_it.test_tokens.json: not a golden file*"])


NAMES = """
import numpy as np
import pytest

X = np.random.default_rng(0).standard_normal((3, 50), dtype=np.float32)
SEEDS = iter(range(99))

ODD = ["org/model-a", "other/model-a", "a::b", "1.5", "1.5 ", "-1", "_1", "", "%2F", "]-x", "a b"]

@pytest.mark.parametrize("m", ODD)
def test_k(golden_tokens, m):
    golden_tokens.check(X, next(SEEDS), shared_noise=True)
    golden_tokens.check(X, next(SEEDS), shared_noise=True, name="x")
    golden_tokens.check(X, next(SEEDS), shared_noise=True, name="a/b")

@pytest.mark.parametrize("m", ["org/model-a"])
def test_other(golden_tokens, m):
    golden_tokens.check(X, next(SEEDS), shared_noise=True)

def test_k_1(golden_tokens):
    golden_tokens.check(X, next(SEEDS), shared_noise=True)

def test_k_(golden_tokens):
    golden_tokens.check(X, next(SEEDS), shared_noise=True)
"""


def test_no_two_tests_share_a_file(pytester: pytest.Pytester) -> None:
    """Catches a name cut at a slash in a parameter, or with its brackets lost, which two tests then have: each draws
    with a seed of its own, so that none passes with the other's file.
    """
    pytester.makepyfile(**{"test_it": NAMES, "sub/test_it": NAMES})
    (pytester.path / "sub" / "test_it.py").rename(pytester.path / "sub" / "test_it.v2.py")
    pytest_run(pytester, "--golden-update", "test_it.py").assert_outcomes(passed=14)
    pytest_run(pytester, "test_it.py").assert_outcomes(passed=14)
    found = {path.name for path in (pytester.path / "golden").iterdir()}
    assert len(found) == 36
    assert {
        "test_it.test_k_1.json", "test_it.test_k[1.5].json", "test_it.test_k[_1].json", "test_it.test_k[].json",
        "test_it.test_k[org%2Fmodel-a]-a%2Fb.json", "test_it.test_k[a%3A%3Ab].json", "test_it.test_k[%252F].json",
        "test_it.test_other[org%2Fmodel-a].json", "test_it.test_k[%5D-x]-x.json", "test_it.test_k[a b].json",
    } <= found  # fmt: skip
    pytest_run(pytester, "--golden-update", "--import-mode=importlib", "sub").assert_outcomes(passed=14)
    assert (pytester.path / "sub" / "golden" / "test_it%2Ev2.test_k_1.json").exists()


def test_two_names_that_are_one_file_fail(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a file system that does not tell capitals apart and lets a test overwrite another's file."""
    from detsample.integrations import pytest_plugin as plugin

    monkeypatch.setattr(plugin.os.path, "normcase", lambda path: str(path).lower())
    source = TEST.replace("[2, 5]", '["a", "A"]').replace("top_k=k", "top_k=5").replace("{seed}", "1")
    pytester.makepyfile(test_it=source.replace("{more}", ""))
    done = pytest_run(pytester, "--golden-update")
    done.assert_outcomes(passed=2, failed=1)
    owner = "test_it.py::TestGroup::test_k*"
    done.stdout.fnmatch_lines([f"*test_k*A*.json is the golden file of {owner}: {owner}A* needs another name"])


def test_a_second_check_of_one_name_is_of_the_first(pytester: pytest.Pytester) -> None:
    """Catches an update in which the second of two checks overwrites what the first has written, unseen."""
    source = "import numpy as np\nX = np.zeros((2, 9), np.float32)\n\n\ndef test_it(golden_tokens):\n"
    for seed, failed in ((7, 0), (8, 1)):
        checks = "".join(f"    golden_tokens.check(X, {one}, shared_noise=True)\n" for one in (7, seed))
        pytester.makepyfile(test_it=source + checks)
        done = pytest_run(pytester, "--golden-update")
        done.assert_outcomes(passed=1 - failed, failed=failed)
    done.stdout.fnmatch_lines(["*row 0, position 0: request changed: topp_seed was 7, is 8*"])
    assert golden.load(pytester.path / "golden" / "test_it.test_it.json").rows[0].topp_seed == 7


TEXT = """
import numpy as np

X = np.random.default_rng(0).standard_normal((6, 50), dtype=np.float32)

def test_text(golden_tokens):
    x = X[:{rows}] + np.float32({drift}) * np.arange(6, dtype=np.float32)[:{rows}, None] * X[::-1][:{rows}]
    golden_tokens.check(x, 4, position=np.arange({rows}), sequence=True, keep_logits=True)
"""


def test_a_text_that_became_shorter_or_longer(pytester: pytest.Pytester) -> None:
    """Catches an IndexError for a text whose tokens changed and that has fewer rows today, and one for more."""

    def write_text(rows: int, drift: float) -> None:
        pytester.makepyfile(test_it=TEXT.replace("{rows}", str(rows)).replace("{drift}", str(drift)))

    for before, now in ((6, 4), (4, 6)):
        write_text(before, 0)
        pytest_run(pytester, "--golden-update").assert_outcomes(passed=1)
        write_text(now, 3)
        done = pytest_run(pytester)
        done.assert_outcomes(failed=1)
        what = "missing today" if before > now else "not recorded"
        done.stdout.fnmatch_lines(["*6 rows: *", "*drift explains*", f"row 5, position 5: follows: {what}"])
        done.stdout.no_fnmatch_line("*Error*")
