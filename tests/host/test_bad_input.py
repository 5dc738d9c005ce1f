"""What callers get wrong: every error names its argument, and a bad row harms no other."""

from __future__ import annotations

import fractions
from collections.abc import Callable
from typing import Any

import kernel_path
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_path import assert_same, only_rows
from levels import amount

import detsample
from detsample import reference

F32 = np.float32
LOGITS = np.random.default_rng(8).standard_normal((4, 9), dtype=F32)


def sample(**changed: Any) -> Any:
    """A call that is right but for what is changed."""
    return detsample.sample(**{"logits": LOGITS, "topp_seed": 1, "shared_noise": True} | changed)


# ---- the logits


@pytest.mark.parametrize(
    ("logits", "error", "said"),
    [
        (None, TypeError, "NoneType"),
        ([["1.0", 2.0]], TypeError, "real number"),
        ("logits", TypeError, "str"),
        (F32(1), TypeError, "float32"),
        (LOGITS.astype(np.float64) + 1e-9, ValueError, "fp32 numbers where they are float64"),
        (LOGITS.astype(np.int32), TypeError, "int32"),
        (LOGITS > 0, TypeError, "bool"),
        (LOGITS.astype(object), TypeError, "object"),
        (LOGITS.astype(np.complex64), TypeError, "complex64"),
        (LOGITS[None], ValueError, r"\[1, 4, 9\]"),
        (np.array(1, F32), ValueError, r"\[\]"),
        (np.zeros((3, 0), F32), ValueError, "0"),
        (np.broadcast_to(F32(0), (1, 2**21 + 1)), ValueError, "2097153"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, (str, type)) else None,
)
def test_logits(logits: Any, error: type[Exception], said: str) -> None:
    """Catches logits of a wrong kind that are converted, or refused without saying what came."""
    for call in (lambda: sample(logits=logits), lambda: detsample.mask(logits)):
        with pytest.raises(error, match=f"logits must .*{said}"):
            call()


# ---- the parameters

VECTORS = [
    (np.ones(3), ValueError, r"\[4\].*\[3\]"),
    (np.ones(5), ValueError, r"\[4\].*\[5\]"),
    (np.ones((1, 4)), ValueError, r"\[4, 1\].*\[1, 4\]"),
    (np.ones((4, 1, 1)), ValueError, r"\[4, 1, 1\]"),
    (np.ones(0), ValueError, r"\[0\]"),
]
REALS = ["temperature", "top_p", "min_p"]
INTEGERS = ["topp_seed", "position", "top_k"]


@pytest.mark.parametrize("name", REALS + INTEGERS)
@pytest.mark.parametrize(("vector", "error", "said"), VECTORS, ids=lambda value: str(getattr(value, "shape", "")))
def test_vectors_of_a_wrong_shape(name: str, vector: np.ndarray, error: type[Exception], said: str) -> None:
    """Catches a vector that is broadcast, or read beyond its end."""
    values = vector.astype(np.int64 if name in INTEGERS else F32)
    with pytest.raises(error, match=f"{name} must .*{said}"):
        sample(**{name: values})


@pytest.mark.parametrize("name", REALS + INTEGERS)
@pytest.mark.parametrize("value", [None, "1", [1, 2, 3, 4], (1,), {}, object(), 1j, True, np.True_, np.ones(4, bool)])
def test_no_numbers(name: str, value: Any) -> None:
    """Catches a value that Python converts on the quiet: True is 1, "1" is a float."""
    with pytest.raises(TypeError, match=f"{name} must "):
        sample(**{name: value})


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [1.0, 0.5, np.float32(2), np.ones(4, F32), np.ones(4, np.uint8), np.nan])
def test_no_integers(name: str, value: Any) -> None:
    """Catches a float that is cut to an integer: a seed of 1e18 has lost its low bits before it arrives."""
    with pytest.raises(TypeError, match=f"{name} must "):
        sample(**{name: value})


@pytest.mark.parametrize("name", REALS)
@pytest.mark.parametrize("value", [np.ones(4, np.int64), np.ones(4, "complex64"), np.array(["1"] * 4)], ids=str)
def test_no_reals(name: str, value: Any) -> None:
    """Catches a vector of another kind whose bits are taken for floats."""
    with pytest.raises(TypeError, match=f"{name} must "):
        sample(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1.0), ("temperature", -1e-45), ("temperature", np.inf), ("temperature", np.nan),
        ("temperature", 1e39), ("temperature", np.float64(-3)), ("top_p", np.nan), ("min_p", np.nan),
        ("top_p", np.float32("nan")), ("position", -1), ("position", 2**63), ("position", np.int64(-5)),
        pytest.param("temperature", 10**400, id="temperature-int"),
        pytest.param("temperature", fractions.Fraction(10**400), id="temperature-fraction"),
        ("top_k", 2**63), ("top_k", -(2**63) - 1), ("topp_seed", 2**64), ("topp_seed", -(2**63) - 1),
    ],
)  # fmt: skip
def test_numbers_out_of_range(name: str, value: Any) -> None:
    """Catches a number that the host can see is wrong and lets pass."""
    with pytest.raises(ValueError, match=f"{name} must .*got"):
        sample(**{name: value})


@pytest.mark.parametrize("kind", ["BOOL", "dense", "", b"bool", 1, True, ["bool"]])
def test_unknown_masks(kind: Any) -> None:
    """Catches a misspelt kind that gives no mask at all."""
    with pytest.raises((TypeError, ValueError), match=r"return_mask must be .*got"):
        sample(return_mask=kind)
    with pytest.raises((TypeError, ValueError), match=r"kind must be .*got"):
        detsample.mask(LOGITS, kind=kind)


def test_a_mask_of_no_kind() -> None:
    """Catches `mask(kind=None)`, which would compute nothing."""
    with pytest.raises(ValueError, match="kind must be"):
        detsample.mask(LOGITS, kind=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", REALS + INTEGERS)
def test_tensors_of_another_framework(name: str) -> None:
    """Catches a tensor of one framework beside logits of another, whose memory would be taken for the wrong thing."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    values = np.ones(4, np.int64 if name in INTEGERS else F32)
    with pytest.raises(TypeError, match=f"{name} must .*numpy.*torch"):
        sample(**{name: torch.tensor(values)})
    with pytest.raises(TypeError, match=f"{name} must .*torch.*numpy"):
        sample(**{"logits": torch.tensor(LOGITS), name: values})


def test_what_is_not_an_error() -> None:
    """Catches a check that is too strict: these calls are right."""
    for right in (
        {"temperature": 0}, {"temperature": -0.0}, {"temperature": 1e-46}, {"top_k": -5}, {"top_k": 2**62},
        {"top_p": np.full(4, 7.5)}, {"top_p": -np.inf}, {"min_p": np.full(4, np.inf)},
        {"topp_seed": 2**64 - 1}, {"temperature": 1},
        {"temperature": np.float16(0.5)}, {"top_k": np.int8(3)}, {"top_p": np.float64(0.3)},
        {"temperature": fractions.Fraction(1, 3)}, {"topp_seed": np.uint64(2**63)},
        {"logits": LOGITS.astype(">f4")}, {"logits": np.asfortranarray(LOGITS)}, {"logits": LOGITS[:, ::-1]},
    ):  # fmt: skip
        assert sample(**right).status.tolist() == [0] * 4


# ---- streams


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((1.5, 0, [1]), "topp_seed"), ((True, 0, [1]), "topp_seed"), ((2**64, 0, [1]), "topp_seed"),
        ((None, 0, [1]), "topp_seed"), ((1, -1, [1]), "position"), ((1, 0.0, [1]), "position"),
        ((1, "0", [1]), "position"), ((1, 0, np.array([1.0])), "token_ids"), ((1, 0, [1.5]), "token_ids"),
        ((1, 0, np.zeros((2, 2, 2), int)), "token_ids"), ((1, 0, [[1], [2, 3]]), "token_ids"),
        ((np.arange(3), 0, np.zeros((2, 2), int)), "topp_seed"), ((1, np.arange(3), np.zeros((2, 2), int)), "position"),
    ],
)  # fmt: skip
def test_noise(arguments: tuple[Any, ...], name: str) -> None:
    """Catches an argument of `gumbel_noise` that is cut, broadcast or refused without its name."""
    with pytest.raises((TypeError, ValueError), match=name):
        detsample.gumbel_noise(*arguments)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((1.5, 0), "topp_seed"), ((1, 0.5), "i must"), ((1, None), "i"), ((True, 0), "topp_seed"),
        ((1, 2**64), "i must"), ((np.ones(3), 1), "topp_seed"), ((np.arange(3), np.arange(4)), "topp_seed"),
    ],
)  # fmt: skip
def test_fold_in(arguments: tuple[Any, ...], name: str) -> None:
    """Catches an argument of `fold_in` that is cut, broadcast or refused without its name."""
    with pytest.raises((TypeError, ValueError), match=name):
        detsample.fold_in(*arguments)


# ---- bad rows

BAD: dict[str, tuple[Any, int]] = {
    "logits": (np.nan, 1), "temperature": (-1.0, 8), "top_p": (np.nan, 8), "min_p": (np.nan, 8), "position": (-1, 8),
}  # fmt: skip
GOOD: dict[str, np.ndarray] = {
    "topp_seed": np.arange(4), "position": np.arange(4), "temperature": F32([1, 0.5, 2, 1]),
    "top_k": np.array([0, 3, 4, 5]), "top_p": F32([1, 0.9, 0.5, 1]), "min_p": F32([0, 0.1, 0, 0]),
}  # fmt: skip


@pytest.mark.parametrize(
    "call", [reference.sample, kernel_path.sample, detsample.sample], ids=["reference", "kernels", "api"]
)
@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_alone_is_bad(call: Callable[..., Any], name: str) -> None:
    """Catches a bad value in a vector that raises, passes, or changes the bits of the rows beside it."""
    if call is kernel_path.sample:
        pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")
    value, status = BAD[name]
    arguments = {"logits": LOGITS.copy(), **{key: given.copy() for key, given in GOOD.items()}}
    if name == "logits":
        arguments["logits"][2, 5] = value
    else:
        arguments[name][2] = value
    out = call(**arguments, return_log_z=True)
    assert (out.token_ids[2], out.num_kept[2], out.status[2]) == (-1, 0, status)
    assert out.logprobs[2:3].view(np.uint32) == out.log_z[2:3].view(np.uint32) == 0x7FC00000
    for rows in ([0, 1, 3],):
        few = reference.sample(LOGITS[rows], **only_rows(GOOD, rows), return_log_z=True)
        for field in ("token_ids", "num_kept", "status", "logprobs", "log_z"):
            assert np.array_equal(getattr(out, field)[rows], getattr(few, field)), field


def test_check_names_the_rows_and_why() -> None:
    """Catches `check=True` that raises without saying which rows, or that does not raise."""
    logits = np.repeat(LOGITS, 5, axis=0)
    logits[3, 1], logits[7] = np.inf, -np.inf
    temperature = np.ones(20, F32)
    temperature[11] = np.nan
    for call in (detsample.sample, lambda logits, seed, **given: detsample.mask(logits, **given)):
        with pytest.raises(ValueError, match=r"3 of 20 rows.*row 3:.*inf.*row 7:.*finite.*row 11:.*parameter"):
            call(logits, np.arange(20), temperature=temperature, check=True)
        call(LOGITS, np.arange(4), check=True)
    with pytest.raises(ValueError, match=r"row 7: .*and 12 more"):
        sample(logits=np.full((20, 3), np.nan, F32), check=True)


def test_nothing_is_written_to_the_arguments() -> None:
    """Catches arguments that are normalised in place."""
    logits = LOGITS.copy()
    logits[0, :2] = -0.0, np.nan
    arguments = {"logits": logits, **GOOD}
    before = {name: array.tobytes() for name, array in arguments.items()}
    for array in arguments.values():
        array.flags.writeable = False
    try:
        detsample.sample(**arguments)
    finally:
        for array in arguments.values():
            array.flags.writeable = True
    assert {name: array.tobytes() for name, array in arguments.items()} == before


# ---- anything at all

DTYPES = ["f2", "f4", "f8", "i1", "i4", "i8", "u8", "c8", "?", "U3", "O", "M8[s]", ">f4", ">i8"]


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """An array of any type and of a shape that is right, nearly right or wrong."""
    shape = draw(st.sampled_from([(), (4,), (4, 1), (1,), (3,), (0,), (4, 9), (1, 4), (0, 9), (4, 0), (2, 2, 2)]))
    array = np.zeros(shape, draw(st.sampled_from(DTYPES)))
    array[...] = draw(st.sampled_from([0, 1]))
    if array.dtype.kind == "f" and array.ndim:
        array.flat[:2] = draw(st.sampled_from([np.nan, np.inf, -np.inf, -1.0, 0.5]))
    return array


JUNK = st.one_of(
    arrays(),
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=2),
    st.complex_numbers(), st.fractions(), st.decimals(), st.lists(st.integers(-5, 5), max_size=5),
    st.lists(st.floats(), max_size=3),
    st.dictionaries(st.integers(), st.integers(), max_size=1), st.just(object()), st.just(int), st.just(...),
    st.sampled_from([10**400, -(10**400), 2**63, 2**64, -(2**63) - 1]),
    st.sampled_from([np.float64(1e300), np.datetime64(1, "s"), np.str_("x")]),
    st.sampled_from([np.ma.masked, range(4), slice(4), np.float16(1), np.bool_(True), np.longdouble(1), [[1], [2, 3]]]),
)  # fmt: skip
ARGUMENTS = ["logits", *INTEGERS, *REALS, "return_mask"]


def assert_refused_or_served(call: Callable[..., Any], arguments: dict[str, Any], name: str) -> None:
    """The call works, or raises a TypeError or ValueError that names the argument."""
    message = name
    try:
        call(**arguments)
    except (TypeError, ValueError) as error:
        message = str(error)
    assert name in message, f"{name}={arguments[name]!r}"


JUNKED = settings(
    max_examples=amount(400, 60),
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    database=None,
)


@settings(JUNKED, max_examples=amount(1500, 200))
@given(st.sampled_from(ARGUMENTS), JUNK)
def test_junk_for_any_argument_of_sample(name: str, junk: Any) -> None:
    """Catches whatever else goes wrong: another exception, a message about some inner function, a crash."""
    assert_refused_or_served(sample, {name: junk}, name)
    if name in ("logits", *REALS, "top_k"):
        assert_refused_or_served(detsample.mask, {"logits": LOGITS} | {name: junk}, name)


@JUNKED
@given(st.sampled_from(["topp_seed", "position", "token_ids"]), JUNK)
def test_junk_for_gumbel_noise(name: str, junk: Any) -> None:
    """Catches the same in `gumbel_noise`."""
    arguments = {"topp_seed": 1, "position": 2, "token_ids": np.arange(4)}
    assert_refused_or_served(detsample.gumbel_noise, arguments | {name: junk}, name)


@JUNKED
@given(st.sampled_from(["topp_seed", "i"]), JUNK)
def test_junk_for_fold_in(name: str, junk: Any) -> None:
    """Catches the same in `fold_in`."""
    assert_refused_or_served(detsample.fold_in, {"topp_seed": 1, "i": 2} | {name: junk}, name)


@JUNKED
@given(st.sampled_from(ARGUMENTS), JUNK)
def test_the_reference_refuses_no_less(name: str, junk: Any) -> None:
    """Catches a reference that serves what the public call refuses as bad values, or fails in another way."""
    arguments = {"logits": LOGITS, "topp_seed": 1} | {name: junk}
    assert_refused_or_served(reference.sample, arguments, name)


def test_the_api_is_the_reference_on_arrays() -> None:
    """Catches a public call that gives arrays to the reference in another form than they came in."""
    wanted: dict[str, Any] = {"return_log_z": True, "return_mask": "bits"}
    assert_same(detsample.sample(LOGITS, **GOOD, **wanted), reference.sample(LOGITS, **GOOD, **wanted))


@pytest.mark.parametrize("value", ["no", 1, None, np.array([True, False])], ids=["text", "one", "nothing", "array"])
def test_flags_are_true_or_false(value: Any) -> None:
    """Catches `"no"` taken for yes, and an array that raises without the argument's name."""
    logits = np.zeros((1, 4), np.float32)
    calls = {
        "return_logprobs": (detsample.sample, detsample.plan),
        "return_log_z": (detsample.sample, detsample.plan),
        "check": (detsample.sample,),
    }
    for name, functions in calls.items():
        for function in functions:
            with pytest.raises(TypeError, match=f"^{name} must be True or False, got "):
                function(logits, 1, **{name: value})
    for name in ("return_log_z", "check"):
        with pytest.raises(TypeError, match=f"^{name} must be True or False, got "):
            detsample.mask(logits, **{name: value})
    with pytest.raises(TypeError, match=r"^check must be True or False, got "):
        detsample.plan(logits, 1)(logits, check=value)
    assert detsample.sample(logits, 1, return_log_z=np.True_).log_z is not None
