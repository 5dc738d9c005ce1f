"""Numbers as parameters: rounded once to fp32, and refused by name."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import kernel_path
import numpy as np
import pytest
from detsample.reference.parameters import check_logits

import detsample
from detsample import frameworks, reference, rollout, speculative
from detsample.sampler import parameters

F32 = np.float32
LOGITS = np.zeros((1, 2), F32)
LONG = np.finfo(np.longdouble).nmant > 60
"""Whether NumPy's longest float is longer than fp64 here."""


def nearest(value: Any) -> float:
    """The fp32 nearest to a number, and of two the even one: compared as fractions, nothing is rounded twice."""
    exact = Fraction(*value.as_integer_ratio())
    if abs(exact) >= Fraction(2) ** 128 - Fraction(2) ** 103:
        return math.inf if exact > 0 else -math.inf
    near = F32(max(-float(np.finfo(F32).max), min(float(exact), float(np.finfo(F32).max))))
    around = [near, np.nextafter(near, F32(-np.inf)), np.nextafter(near, F32(np.inf))]
    finite = [x for x in around if np.isfinite(x)]
    return float(min(finite, key=lambda x: (abs(Fraction(float(x)) - exact), int(x.view(np.uint32)) & 1)))


def taken(value: Any) -> float:
    """What `sample` makes of a number that may be as large as it likes."""
    return parameters._real_number("top_p", value, "a number", lambda number: not math.isnan(number))


def by_reference(value: Any) -> float:
    """What the reference makes of a number, which may be no parameter of any kind."""
    return float(reference.parameters._as_floats("top_p", value))


def near_ties() -> list[Fraction]:
    """Numbers so near to the middle of two fp32 numbers that fp64 takes them for it, the middle, and others."""
    rng = np.random.default_rng(3)
    found = []
    for exponent in (-172, -151, -149, -126, -30, 0, 40, 60, 90, 103):
        for first in rng.integers(1 << 23, 1 << 24, 12).tolist():
            for little in (0, 1, -1):
                middle = Fraction(2 * first + 1, 2) + Fraction(little, 2**36)
                found.append(middle * Fraction(2) ** exponent * int(rng.choice([1, -1])))
    return [*found, Fraction(1, 3), Fraction(1, 10), Fraction(2**128), Fraction(2**128 - 2**103 - 1), Fraction(0)]


def test_fractions_are_rounded_once() -> None:
    """Catches a fraction that becomes an fp64 first, and on a tie there the wrong fp32."""
    for value in near_ties():
        assert taken(value) == nearest(value), value


def test_integers_are_rounded_once() -> None:
    """Catches an integer beyond 2^53 that becomes an fp64 first, in either of the two."""
    found = [int(value) for value in near_ties()]
    for value in [*found, *range(-3, 3), 2**53 + 1, 2**53 - 1, 10**400, -(10**400)]:
        assert taken(value) == by_reference(value) == nearest(value), value
    for scalar in (np.uint64(2**64 - 1), np.int64(2**62 + 2**38 + 1), np.int64(-(2**63)), np.int8(-3)):
        assert taken(scalar) == by_reference(scalar) == nearest(int(scalar)), scalar


@pytest.mark.skipif(not LONG, reason="np.longdouble is fp64 here")
def test_long_floats_are_rounded_once() -> None:
    """Catches a np.longdouble that the public call rounds by way of fp64 and the reference does not."""
    for fraction in near_ties():
        value = np.longdouble(fraction.numerator) / np.longdouble(fraction.denominator)
        assert taken(value) == by_reference(value) == nearest(value), value
    for text in ("1e4000", "-1e4000", "1e-4000", "inf", "-inf", "0"):
        assert taken(np.longdouble(text)) == float(text), text
    with pytest.raises(ValueError, match="top_p must be"):
        taken(np.longdouble("nan"))


@pytest.mark.parametrize("share", [Fraction(2**60 + 2**36 + 2, 2**61), None], ids=["ratio", "long"])
def test_rounding_shows_in_the_kept_set(share: Any) -> None:
    """Catches a share a little above a half that is rounded to a half: one of two equal tokens is then lost."""
    if share is None:
        share = np.longdouble(0.5) + np.longdouble(2) ** -25 + np.longdouble(2) ** -60
        if not LONG:
            pytest.skip("np.longdouble is fp64 here")
        assert reference.sample(LOGITS, 1, top_p=share).num_kept.tolist() == [2]
    assert detsample.sample(LOGITS, 1, top_p=share).num_kept.tolist() == [2]


@pytest.mark.parametrize("value", [0.1, -0.0, 5e-324, 1e300, np.float64(0.1), np.float16(0.1), F32(0.1), 1, True])
def test_usual_numbers(value: Any) -> None:
    """Catches a shortcut for usual numbers that rounds otherwise, or that takes a bool."""
    if value is True:
        with pytest.raises(TypeError, match="top_p must be a real number"):
            taken(value)
        return
    with np.errstate(over="ignore"):
        assert F32(taken(value)).tobytes() == F32(value).tobytes()


@pytest.mark.parametrize("name", ["topp_seed", "position", "temperature", "top_k", "top_p", "min_p"])
def test_time_spans(name: str) -> None:
    """Catches np.timedelta64, an integer by its class, that fails inside int() or float() without the name."""
    with pytest.raises(TypeError, match=f"{name} must be .*got .*timedelta64"):
        detsample.sample(LOGITS, **{"topp_seed": 1, name: np.timedelta64(5, "s")})


@pytest.mark.parametrize("value", [True, False, np.True_, np.False_])
def test_flags(value: Any) -> None:
    """Catches a flag that is refused, or comes out as NumPy's."""
    assert parameters.read_flag("check", value) is bool(value)


@pytest.mark.parametrize("value", ["no", "", None, 0, 1, 0.0, np.int64(1), [], np.array([True, False]), np.array(True)])
def test_no_flags(value: Any) -> None:
    """Catches "no" taken for yes, and an array of which NumPy says that its truth is ambiguous."""
    with pytest.raises(TypeError, match=r"^check must be True or False, got"):
        parameters.read_flag("check", value)


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_as_many_rows_as_there_may_be(framework: str) -> None:
    """Catches 2^31 rows, which the contract excludes, on their way to kernels that count rows in 32 bits."""
    least = np.zeros((1, 1), F32)
    for rows, refused in (((1 << 31) - 1, False), (1 << 31, True)):
        logits: Any = np.broadcast_to(least, (rows, 1))
        if framework == "torch":
            torch = pytest.importorskip("torch", reason="torch is not installed")
            logits = torch.zeros(1, 1).expand(rows, 1)
        checks: list[Any] = [lambda of: parameters.read_logits(of, frameworks.of(of))]
        checks += [check_logits] * (framework == "numpy")
        for check in checks:
            if refused:
                with pytest.raises(ValueError, match=r"^logits.* 2\^31.*got .*2147483648"):
                    check(logits)
            else:
                check(logits)


def test_logits_of_no_bytes() -> None:
    """Catches a ZeroDivisionError for an element type without bytes."""
    with pytest.raises(TypeError, match="logits must be"):
        detsample.sample(np.zeros((2, 3), "V0"), 1)


@pytest.mark.parametrize("name", ["top_p", "min_p"])
def test_shares_above_one(name: str) -> None:
    """Catches a percentage that is taken, and silently is no filter at all; a vector's elements are as the contract."""
    for share in (95, 1.5, math.inf, Fraction(4, 3)):
        with pytest.raises(ValueError, match=rf"^{name} must be a share of 1, not .*got {share}"):
            detsample.sample(LOGITS, 1, **{name: share})
        with pytest.raises(ValueError, match=rf"^{name}: expected a share of 1, not above it, got "):
            reference.sample(LOGITS, 1, **{name: share})
    for share in (1, 1.0 + 2.0**-40, -0.5, F32([1.5])):  # the second is 1 in fp32
        assert detsample.sample(LOGITS, 1, **{name: share}).status.tolist() == [0]


SHARED = {
    "sample": lambda n, *seeds, **how: detsample.sample(np.zeros((n, 4), F32), *seeds, **how),
    "plan": lambda n, *seeds, **how: detsample.plan(np.zeros((n, 4), F32), *seeds, **how),
    "margin": lambda n, *seeds, **how: detsample.margin(np.zeros((n, 4), F32), *seeds, **how),
    "draw": lambda n, *seeds, **how: rollout.draw(np.zeros((n, 4), F32), *seeds, **how),
    "draft": lambda n, *seeds, **how: speculative.draft(np.zeros((n, 2, 4), F32), *seeds, **{"position": 0, **how}),
    "verify": lambda n, *seeds, **how: speculative.verify(
        np.zeros((n, 2, 4), F32), np.zeros((n, 1), np.int64), 1, *seeds, **{"position": 0, **how}
    ),
    "verify_tree": lambda n, *seeds, **how: speculative.verify_tree(
        np.zeros((n, 2, 4), F32), np.zeros((n, 2), int), np.repeat([[-1, 0]], n, 0), *seeds, **{"position": 0, **how}
    ),
}


@pytest.mark.parametrize("name", SHARED)
def test_noise_is_not_shared_unsaid(name: str) -> None:
    """Catches a call that lets several rows, or requests, draw with one seed at one position without being told to."""
    call = SHARED[name]
    one = np.array(7)  # no number, but one for all rows
    for seed, position in ((7, 5), (one, 5), (7, one), (np.broadcast_to(7, 2), 5)):
        with pytest.raises(ValueError, match=r"^topp_seed and position must .*one of each.*fold_in\(topp_seed"):
            call(2, seed, position=position)
    call(2, 7, position=5, shared_noise=True)
    call(2, 7, position=np.arange(2))
    call(2, np.arange(2), position=5)
    call(2, 7, position=5, temperature=0)
    call(1, 7, position=5)
    call(0, 7, position=5)
    with pytest.raises(TypeError, match=r"^shared_noise must be True or False"):
        call(1, 7, position=5, shared_noise="yes")


@pytest.mark.parametrize("kind", [np.uint64, np.uint32])
def test_unsigned_seeds(kind: Any) -> None:
    """Catches an unsigned seed that is refused, or read as another number than its value's 64 bits."""
    seeds = np.array([3, np.iinfo(kind).max], kind)
    logits = np.random.default_rng(1).standard_normal((2, 300), dtype=F32)
    found = detsample.sample(logits, seeds).token_ids
    assert found.tolist() == [detsample.sample(logits[i : i + 1], int(seeds[i])).token_ids[0] for i in range(2)]
    assert detsample.fold_in(seeds, 1).tolist() == [detsample.fold_in(int(seed), 1) for seed in seeds]
    pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")
    assert kernel_path.sample(logits, seeds).token_ids.tolist() == found.tolist()
    assert kernel_path.fold_in(seeds, 1).tolist() == detsample.fold_in(seeds, 1).tolist()


def test_orders_of_filters() -> None:
    """Catches a name that is misspelt and taken for the default, and an order that is lost on the way."""
    logits = np.log(F32([[0.4, 0.3, 0.2, 0.1]]))
    for call in (detsample.mask, lambda x, **how: detsample.sample(x, 1, **how)):
        with pytest.raises(ValueError, match=r"^filter_order must be one of 'top_k_first', .*got 'top_p_first'"):
            call(logits, filter_order="top_p_first")
        kept = [call(logits, top_k=2, top_p=0.5, filter_order=order).num_kept[0] for order in parameters.FILTER_ORDERS]
        assert kept == [1, 1, 2]
