"""The parts of the reference against known answers, other kinds of arithmetic, and the contract's text.

Whole rows are compared with the slow oracle elsewhere; here a failure should point at one part.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import math
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
try:
    from detsample import reference
except ImportError:
    sys.path.insert(0, str(ROOT))
    import reference

KAT = Path(__file__).parent / "data" / "philox_kat.txt"
FLT_MAX = np.finfo(np.float32).max
SMALLEST = np.float32(1e-45)


def part(name: str) -> ModuleType:
    """A module of the reference by name (the package's attribute ``mask`` is a function)."""
    return importlib.import_module(f"{reference.__name__}.{name}")


def as_bits(values: Any) -> list[int]:
    """float32 values as the integers of their bits."""
    return np.asarray(values, np.float32).view(np.uint32).tolist()


def same(one: Any, other: Any) -> bool:
    """Whether two outputs agree to the bit in every field."""
    pairs = [(getattr(one, name), getattr(other, name)) for name in vars(one)]
    for a, b in pairs:
        if isinstance(a, reference.Csr):
            a, b = np.append(a.row_offsets, a.token_ids), np.append(b.row_offsets, b.token_ids)
        if (a is None) != (b is None) or (a is not None and (a.dtype, a.tobytes()) != (b.dtype, b.tobytes())):
            return False
    return True


def rows_of_all_sorts(rows: int, vocab: int, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits with ties, -0 and -inf, and parameters that differ from row to row, some not valid."""
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((rows, vocab)) * rng.choice([0.01, 1, 8], (rows, 1))).astype(np.float32)
    logits[::3] = np.round(logits[::3])
    logits[::5] = np.where(rng.random(logits[::5].shape) < 0.3, -np.inf, logits[::5])
    logits[rng.random(logits.shape) < 0.01] = -0.0
    logits[rng.random(rows) < 0.05, 0] = np.nan
    return logits, {
        "topp_seed": rng.integers(-(2**63), 2**63 - 1, rows),
        "position": rng.integers(0, 2**40, rows),
        "temperature": rng.choice(np.float32([0, 0.3, 1, 1.7, SMALLEST]), rows),
        "top_k": rng.choice([-1, 0, 1, 3, vocab // 16, vocab // 2, vocab - 1, vocab, 2**40], rows),
        "top_p": rng.choice(np.float32([-1, 0, 0.1, 0.9, 0.999, 1, 2, SMALLEST, np.nan]), rows),
        "min_p": rng.choice(np.float32([-1, 0, 0, 0, 0.01, 0.3, 1, 2, SMALLEST]), rows),
    }


# ---- the package ---------------------------------------------------------------------------------


def test_public_names() -> None:
    """Catches a public name that is missing, renamed, or announced and not there."""
    want = {"sample", "mask", "gumbel_noise", "fold_in", "CONTRACT_VERSION", "Status", "Csr"}
    assert want <= set(reference.__all__)
    assert all(hasattr(reference, name) for name in reference.__all__)
    assert reference.CONTRACT_VERSION == 1
    assert {s.name: int(s) for s in reference.Status} == {"NAN": 1, "INF": 2, "EMPTY": 4, "PARAMETER": 8}


def test_imports_only_numpy_and_the_standard_library() -> None:
    """Catches the specification borrowing code from what it specifies, or an absolute import of itself."""
    for path in Path(reference.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, path
                names = [] if node.level else [node.module or ""]
            for name in names:
                assert name.split(".")[0] in {*sys.stdlib_module_names, "numpy"}, (path, name)


@pytest.mark.parametrize("path", sorted(Path(reference.__file__).parent.glob("*.py")), ids=lambda p: p.stem)
def test_examples(path: Path) -> None:
    """Catches a docstring that shows something the code does not do."""
    name = reference.__name__ if path.stem == "__init__" else f"{reference.__name__}.{path.stem}"
    assert doctest.testmod(importlib.import_module(name)).failed == 0


# ---- Philox and what is made of it (section 7) ---------------------------------------------------


def scalar_philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 in Python's integers."""
    c, low = list(counter), 0xFFFFFFFF
    for i in range(10):
        k0, k1 = (key[0] + i * 0x9E3779B9) & low, (key[1] + i * 0xBB67AE85) & low
        p0, p2 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p2 >> 32 ^ c[1] ^ k0, p2 & low, p0 >> 32 ^ c[3] ^ k1, p0 & low]
    return c


def known_answers() -> np.ndarray:
    """The counter, key and output words of the file, uint64 [n, 10]."""
    lines = [line.split() for line in KAT.read_text().splitlines() if line and not line.startswith("#")]
    assert {tuple(line[:2]) for line in lines} == {("philox4x32", "10")}
    return np.array([[int(word, 16) for word in line[2:]] for line in lines], np.uint64)


def test_philox_known_answers() -> None:
    """Catches any slip in the generator: constants, rounds, word order, a key raised once too often."""
    words = known_answers()
    assert words.shape[0] >= 20
    columns = words.T
    out = part("philox").philox4x32(tuple(columns[:4]), tuple(columns[4:6]))
    np.testing.assert_array_equal(np.stack(out, axis=1), words[:, 6:])
    for row in words.tolist():
        assert scalar_philox(row[:4], row[4:6]) == row[6:]


@pytest.mark.parametrize("topp_seed", [0, 1, -1, 2**63 - 1, -(2**63), 2**64 - 1, 0x1234567890ABCDEF])
@pytest.mark.parametrize("i", [0, 1, 2**32, -1, 2**63])
def test_fold_in(topp_seed: int, i: int) -> None:
    """Catches halves of the seed or of i in the wrong words, another domain, and an unsigned result."""
    s, index = topp_seed % 2**64, i % 2**64
    out = scalar_philox([0, index % 2**32, index >> 32, 2], [s % 2**32, s >> 32])
    want = out[0] | out[1] << 32
    got = reference.fold_in(topp_seed, i)
    assert type(got) is int
    assert got == want - (want >> 63 << 64)


def test_fold_in_of_arrays() -> None:
    """Catches arrays that do not broadcast, or that give other seeds than single numbers do."""
    seeds, i = np.array([[5], [-6]]), np.arange(3, dtype=np.int32)
    out = reference.fold_in(seeds, i)
    assert (out.shape, out.dtype) == ((2, 3), np.int64)
    assert out.tolist() == [[reference.fold_in(s, k) for k in range(3)] for s in (5, -6)]
    assert reference.fold_in(np.array(5), 1) == reference.fold_in(5, 1)
    assert reference.fold_in(seeds.astype(np.uint64), i).tolist() == out.tolist()
    assert len(set(out.ravel().tolist())) == 6


@pytest.mark.parametrize("bad", [1.0, True, "1", None, [1], np.array([1.0]), np.array([True])])
def test_fold_in_refuses(bad: Any) -> None:
    """Catches a float or a bool taken for a seed."""
    with pytest.raises(TypeError, match="topp_seed: expected"):
        reference.fold_in(bad, 0)
    with pytest.raises(TypeError, match="i: expected"):
        reference.fold_in(0, bad)


def test_uniform_words() -> None:
    """Catches the wrong domain, lane or half: ids at every lane, and places and seeds beyond 32 bits."""
    gumbel = part("gumbel")
    for seed in (0, 42, 2**64 - 1):
        for position in (0, 7, 2**32, 2**63 - 1):
            ids = np.array([0, 1, 2, 3, 4, 1023, 2**21 - 1])
            want = []
            for token in ids.tolist():
                high, low = (
                    scalar_philox(
                        [token >> 2, position % 2**32, position >> 32, d], [seed % 2**32, seed >> 32]
                    )
                    for d in (0, 1)
                )
                want.append(high[token & 3] << 32 | low[token & 3])
            s = gumbel.uniform(np.full(7, seed, np.uint64), np.full(7, position), ids)
            assert s.tolist() == want
            whole = gumbel.uniform_rows(np.array([seed], np.uint64), np.array([position]), 1024)
            assert whole[0, ids[:6]].tolist() == want[:6]


@pytest.mark.parametrize("vocab", [1, 3, 4, 5, 33, 40_000])
def test_uniform_of_rows_is_that_of_tokens(vocab: int) -> None:
    """Catches the two ways to the same bits (four tokens a counter, one token a counter) parting."""
    gumbel, seeds, places = part("gumbel"), np.array([1, 2**63], np.uint64), np.array([5, 2**40])
    whole = gumbel.uniform_rows(seeds, places, vocab)
    assert whole.shape == (2, vocab)
    for row in range(2):
        one = gumbel.uniform(np.full(vocab, seeds[row]), np.full(vocab, places[row]), np.arange(vocab))
        np.testing.assert_array_equal(whole[row], one)


# ---- logarithm and noise (section 7) -------------------------------------------------------------


def awkward_integers() -> list[int]:
    """64-bit integers where shifts, roundings and branches change, and random ones of every length."""
    rng = np.random.default_rng(11)
    some = (
        rng.integers(0, 2**64, 1000, dtype=np.uint64) >> rng.integers(0, 64, 1000).astype(np.uint64)
    ).tolist()
    bits = [1 << i for i in range(64)]
    around = [b + d for b in bits for d in (-1, 1)]
    sqrt2 = [(3037000499 + d) << 32 for d in (0, 1)] + [(3037000500 << 32) - 1]
    return sorted({n for n in (*some, *bits, *around, *sqrt2, 2**64 - 1, 2**63 - 1, 2**63) if 0 <= n < 2**64})


def test_floor_log2() -> None:
    """Catches the conversion to float64 rounding 2^k - 1 up to 2^k."""
    n = [n for n in awkward_integers() if n]
    got = part("logarithm").floor_log2(np.array(n, np.uint64))
    assert got.tolist() == [k.bit_length() - 1 for k in n]


def test_logarithm_against_mpmath() -> None:
    """Catches a wrong coefficient, shift or branch of SPLIT: off by more than 6 units of 2^-32."""
    mp = pytest.importorskip("mpmath")
    n = [n for n in awkward_integers() if n]
    e, r = part("logarithm").split(np.array(n, np.uint64))
    got = part("logarithm").logq(e, r).tolist()
    with mp.workprec(120):
        assert max(abs(g - mp.log(k) * 2**32) for g, k in zip(got, n, strict=True)) < 6
    assert part("logarithm").ln_mass(np.int64([1 << 40])).tolist() == [0]


def test_split_at_its_branch() -> None:
    """Catches the mantissa's limit sqrt(2) being included, or another: the exponents on both sides of it."""
    logarithm, t = part("logarithm"), np.array([3037000499, 3037000500], np.uint64)
    for shift in (0, 1, 32):
        e, r = logarithm.split(t << np.uint64(shift))
        assert e.tolist() == [31 + shift, 32 + shift]
        assert r[0] > 0 > r[1]


def test_noise_against_mpmath() -> None:
    """Catches noise further than 2^-29 from the real Gumbel at the ends, at single bits, and in between."""
    mp = pytest.importorskip("mpmath")
    s = awkward_integers()
    s = sorted({0, 2**63 - 1, 2**63, 2**64 - 1, *s, *(2**64 - 1 - k for k in s)})
    got = part("gumbel").gumbel(np.array(s, np.uint64)).tolist()
    with mp.workprec(160):
        for g, k in zip(got, s, strict=True):
            real = -mp.log(-mp.log1p(-mp.mpf(2 * k + 1) / 2**65))
            assert abs(g - real * 2**32) <= 8, k


def test_noise_is_the_integer_scaled() -> None:
    """Catches ``gumbel_noise`` rounding: the float64 must be G * 2^-32 exactly."""
    gumbel = part("gumbel")
    ids = np.arange(1000)
    noise = reference.gumbel_noise(9, 3, ids)
    g = gumbel.gumbel(gumbel.uniform(np.full(1000, 9, np.uint64), np.full(1000, 3), ids))
    assert noise.dtype == np.float64
    assert [Fraction(v) * 2**32 for v in noise.tolist()] == g.tolist()


def test_noise_shapes() -> None:
    """Catches rows and columns mixed up when seeds, positions and ids are arrays."""
    noise, seeds, places = reference.gumbel_noise, np.array([4, -5, 6]), np.array([[0], [1], [2**33]])
    single = [
        [float(noise(int(s), int(p), t)) for t in range(5)] for s, p in zip(seeds, places[:, 0], strict=True)
    ]
    assert np.ndim(noise(4, 0, 2)) == 0
    assert noise(seeds, places, np.arange(5)).tolist() == single
    assert noise(seeds, places[:, 0], np.tile(np.arange(5), (3, 1))).tolist() == single
    assert noise(seeds, places, 2).tolist() == [row[2] for row in single]
    assert noise(4, 0, np.arange(5)).tolist() == single[0]
    assert noise(4, places, np.arange(5))[0].tolist() == single[0]
    assert noise(4, 0, np.zeros((2, 3, 4), np.int32)).shape == (2, 3, 4)
    assert noise(4, 0, np.zeros((0,), np.int32)).shape == (0,)
    assert noise(-5, 1, 3) == noise(2**64 - 5, 1, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ((1.5, 0, 0), TypeError, "topp_seed"),
        ((1, -1, 0), ValueError, "position"),
        ((1, 0, -1), ValueError, "token_ids"),
        ((1, 0, 2**21), ValueError, "token_ids"),
        ((1, 0, np.array([0.5])), TypeError, "token_ids"),
        ((np.arange(2), np.arange(3), 0), ValueError, "expected shapes"),
        ((np.arange(2), 0, np.zeros((3, 4), int)), ValueError, "expected shapes"),
    ],
)
def test_noise_refuses(arguments: tuple[Any, ...], error: type[Exception], name: str) -> None:
    """Catches noise of something that is not a token of the contract."""
    with pytest.raises(error, match=name):
        reference.gumbel_noise(*arguments)


# ---- weights (section 5) -------------------------------------------------------------------------


def floats_of_bits(start: int, stop: int) -> np.ndarray:
    return np.arange(start, stop, dtype=np.uint32).view(np.float32)


def check_weights(a: np.ndarray, before: int = 2**40) -> int:
    """Check the weights of ascending a, the first of them against the one before; return the last."""
    w = part("weight").weight(a)
    assert w[0] <= before
    assert (w[1:] <= w[:-1]).all()
    real = np.exp(-a.astype(np.float64)) * 2.0**40
    assert (np.abs(w - real) <= real * 2.0**-22 + 0.5).all()
    return int(w[-1])


def test_power_of_every_fraction() -> None:
    """Catches a fraction whose value is out of range, above the one before, or off by more than 2^-22."""
    b = np.arange(1 << 23, dtype=np.uint32)
    p = part("weight").power(b)
    assert (p.max(), p.min()) == (1 << 24, p[-1])
    assert p[-1] >= 1 << 23  # so that the next n, which begins with 2^24 halved, is not above
    assert (np.diff(p) <= 0).all()
    real = np.exp2(24 - b / 2.0**23)
    assert (np.abs(p - real) <= real * 2.0**-22).all()


@pytest.mark.parametrize("exponent", [-10, -1, 0, 1, 3, 4])
def test_weights_of_a_binade(exponent: int) -> None:
    """Catches weights that ascend with a, or stray from 2^40 exp(-a): all 2^23 fractions of one size of a."""
    start = exponent + 127 << 23
    check_weights(floats_of_bits(start - 1, start + (1 << 23) + 1))


@pytest.mark.slow
def test_weights_of_every_float() -> None:
    """Catches the same for every fp32 a that has a weight, subnormal ones included."""
    last = 2**40
    for start in range(0, 0x42000000, 1 << 22):
        last = check_weights(floats_of_bits(start, start + (1 << 22)), last)
    assert last == 0


def test_weights_at_the_ends() -> None:
    """Catches W(0) that is not 2^40, and overflow where a is beyond the last weight, infinite or tiny."""
    a = np.float32([0, SMALLEST, 1e-10, 28, 29, 31.999998, 32, 33, 1e4, FLT_MAX, np.inf])
    assert part("weight").weight(a).tolist() == [2**40] * 3 + [1] + [0] * 7


def test_weights_against_mpmath() -> None:
    """Catches the float64 exp of the other tests being the one that is wrong."""
    mp = pytest.importorskip("mpmath")
    a = np.random.default_rng(2).uniform(0, 30, 300).astype(np.float32)
    with mp.workprec(100):
        for value, w in zip(a.tolist(), part("weight").weight(a).tolist(), strict=True):
            real = mp.exp(-mp.mpf(value)) * 2**40
            assert abs(w - real) <= real * mp.mpf(2) ** -22 + 0.5


# ---- order, temperature, filters (sections 4 and 6) ----------------------------------------------


@pytest.mark.parametrize(("vocab", "count"), [(40, 2), (5000, 1), (5000, 300), (70_001, 50)])
@pytest.mark.parametrize("kind", ["random", "ties", "equal", "mostly excluded", "subnormal"])
def test_first_tokens(vocab: int, count: int, kind: str) -> None:
    """Catches the search for the first tokens losing one, or ties in another order than by id."""
    order, rng = part("order"), np.random.default_rng(vocab + count)
    x = rng.standard_normal((3, vocab)).astype(np.float32)
    if kind == "ties":
        x = np.round(x * 2)
    elif kind == "equal":
        x[:] = -3
    elif kind == "mostly excluded":
        x[:, count // 2 + 1 :] = -np.inf
        x[2, :-1] = -np.inf
        x[2, -1] = -FLT_MAX
    elif kind == "subnormal":
        x = (rng.integers(-3, 4, x.shape) * SMALLEST).astype(np.float32)
    x += np.float32(0)
    keys, sorted_keys = order.first_in_order(x, count), order.all_in_order(x)
    for row in range(3):
        want = np.lexsort((np.arange(vocab), -x[row].astype(np.float64)))
        assert order.key_ids(sorted_keys[row]).tolist() == want.tolist()
        assert as_bits(order.key_values(sorted_keys[row])) == as_bits(x[row, want])
        first = want[: min(count, int((x[row] > -np.inf).sum()))]
        assert order.key_ids(keys[row, : len(first)]).tolist() == first.tolist()


def test_scaled() -> None:
    """Catches a quotient in place of the product with the rounded inverse, and infinities."""
    t = np.float32([1, 0.3, SMALLEST, 1e-38, FLT_MAX])
    x = np.float32([0, 1, -1, 7.1, FLT_MAX, -FLT_MAX, SMALLEST])
    got = part("temperature").scaled(np.tile(x, (5, 1)), t)

    def rounded(value: Fraction) -> np.float32:
        """Fraction to fp32; float64 first is harmless: products of two fp32 are exact in it."""
        return np.float32(max(min(float(value), float(FLT_MAX)), -float(FLT_MAX)))

    for row, temperature in enumerate(t):
        inverse = np.float32(min(1 / float(temperature), float(FLT_MAX)))
        want = [rounded(Fraction(float(v)) * Fraction(float(inverse))) for v in x]
        assert as_bits(got[row]) == as_bits(want)
    assert np.isfinite(got).all()


def test_top_p_mass_is_exact() -> None:
    """Catches a product of top_p and S that is rounded anywhere: up to 85 bits, and shifts up to 149."""
    rng = np.random.default_rng(3)
    p = np.abs(rng.integers(1, 0x3F800000, 20_000, dtype=np.uint32).view(np.float32))
    p[:4000] = rng.random(4000, dtype=np.float32) * np.float32(0.999) + SMALLEST
    p[:8] = [SMALLEST, 1e-38, 1.1754944e-38, 0.5, 0.25, 2**-32, 2**-33, 1 - 2**-24]
    mass = rng.integers(1, 2**61, len(p)) >> rng.integers(0, 61, len(p))
    mass = np.maximum(mass, 1)
    mass[::7] = 2**61
    mass[1::7] = 2**40
    want = [math.ceil(Fraction(float(a)) * int(b)) for a, b in zip(p, mass, strict=True)]
    assert part("filters").top_p_mass(p, mass).tolist() == want


def test_min_p_weight_is_exact() -> None:
    """Catches min_p * 2^40 rounded, not rounded up, or without its cap."""
    p = np.random.default_rng(4).integers(1, 0x3FA00000, 5000, dtype=np.uint32).view(np.float32)
    p = np.append(p, np.float32([SMALLEST, 1, 1 + 2**-23, 5, FLT_MAX, np.inf]))
    want = [min(math.ceil(Fraction(float(v)) * 2**40), 2**40) if v < 1 else 2**40 for v in p]
    assert part("filters").min_p_weight(p).tolist() == want
    assert part("filters").min_p_weight(np.float32([0, -0.0, -1, -np.inf])).tolist() == [0] * 4


@pytest.mark.parametrize("vocab", [7, 64, 3000])
def test_top_k_keeps_exactly_k(vocab: int) -> None:
    """Catches ties at the boundary kept or dropped together, and k = 0, V or beyond that is not off."""
    x = np.zeros((6, vocab), np.float32)
    x[:, -1] = 1
    out = reference.mask(x, top_k=np.array([-1, 0, 1, 2, vocab, 2**62]))
    assert out.num_kept.tolist() == [vocab, vocab, 1, 2, vocab, vocab]
    assert np.flatnonzero(out.mask[3]).tolist() == [0, vocab - 1]


def test_top_p_edges() -> None:
    """Catches top_p >= 1 dropping tokens of weight 0, top_p <= 0 keeping ties, and a boundary off by one."""
    x = np.float32([[0, 0, -200, 0, -np.inf, 0]])
    kept = {
        p: np.flatnonzero(reference.mask(x, top_p=p).mask[0]).tolist() for p in (1, 2.5, 0, -1, 1e-45, 0.25)
    }
    assert kept == {1: [0, 1, 2, 3, 5], 2.5: [0, 1, 2, 3, 5], 0: [0], -1: [0], 1e-45: [0], 0.25: [0]}
    assert reference.mask(x, top_p=np.nextafter(np.float32(0.25), np.float32(1))).num_kept == [2]
    assert reference.mask(x, top_p=np.float32(1 - 2**-24)).num_kept == [4]


def test_min_p_edges() -> None:
    """Catches min_p > 1 dropping the largest or losing its ties, and min_p <= 0 that is not off."""
    x = np.float32([[0, -1, 0, -200]])
    got = [int(reference.mask(x, min_p=p).num_kept[0]) for p in (2, 1, np.inf, 0.3, 1e-45, 0, -1)]
    assert got == [2, 2, 2, 3, 3, 4, 4]


def test_filters_meet_in_the_shortest_prefix() -> None:
    """Catches top-p renormalised over the wrong tokens, or a filter that undoes another."""
    x = np.log(np.float32([[0.4, 0.3, 0.2, 0.1]]))
    # Of the two survivors of top-k the first has 4/7 of the mass.
    assert reference.mask(x, top_k=2, top_p=0.55).num_kept == [1]
    assert reference.mask(x, top_k=2, top_p=0.6).num_kept == [2]
    assert reference.mask(x, top_p=0.55).num_kept == [2]
    assert reference.mask(x, top_p=0.95, min_p=0.4).num_kept == [3]
    assert reference.mask(x, top_k=2, top_p=0.99, min_p=0.1).num_kept == [2]


def test_subnormal_logits_count() -> None:
    """Catches a flush to zero: the smallest subnormal is above 0 and, at a tiny temperature, certain."""
    x = np.zeros((2, 5), np.float32)
    x[:, 3] = SMALLEST
    out = reference.sample(x, 1, temperature=np.float32([0, SMALLEST]), top_k=1)
    assert out.token_ids.tolist() == [3, 3]
    assert part("temperature").scaled(x[:1], np.float32([FLT_MAX]))[0, 3] == 0
    assert as_bits(part("temperature").scaled(np.float32([[1]]), np.float32([FLT_MAX]))[0]) == [0x00200000]


def test_negative_zero_is_zero() -> None:
    """Catches -0 sorted below +0, in the order or in the logits as given."""
    x = np.float32([[-0.0, 0.0, -0.0]])
    for parameters in ({"temperature": 0}, {"top_k": 1}, {"top_p": 0.1}):
        assert reference.sample(x, 5, **parameters).token_ids.tolist() == [0]
    assert same(reference.sample(x, 5), reference.sample(np.abs(x), 5))
    assert same(reference.sample(x, 5, temperature=-0.0), reference.sample(x, 5, temperature=0))


# ---- rows that are not valid (section 3) ---------------------------------------------------------


def test_status_of_logits() -> None:
    """Catches a bit that hides another: every combination of NaN, +inf and nothing finite."""
    nan, inf = np.nan, np.inf
    x = np.float32(
        [[0, 1], [nan, 0], [inf, 0], [nan, inf], [-inf, -inf], [nan, nan], [inf, inf], [nan, -inf]]
    )
    out = reference.sample(x, 1)
    assert out.status.tolist() == [0, 1, 2, 7, 4, 5, 6, 5]
    assert reference.mask(x).status.tolist() == out.status.tolist()
    x = np.float32([[nan, inf, 0], [-inf, 3, nan]])
    assert reference.sample(x, 1).status.tolist() == [3, 1]


def test_status_of_parameters() -> None:
    """Catches a bad parameter of one row that raises, passes, or spreads to its neighbours."""
    x = np.zeros((9, 4), np.float32)
    vectors = {
        "temperature": np.array([1, -1, np.inf, np.nan, 1, 1, 1, 0, -0.0]),
        "top_p": np.array([1, 1, 1, 1, np.nan, 1, 1, np.nan, 1]),
        "min_p": np.array([0, 0, 0, 0, 0, np.nan, 0, 0, 0]),
        "position": np.array([0, 0, 0, 0, 0, 0, -1, 0, 0]),
    }
    out = reference.sample(x, 1, **vectors, return_log_z=True, return_mask="bool")
    assert out.status.tolist() == [0, 8, 8, 8, 8, 8, 8, 8, 0]
    bad = out.status != 0
    assert out.token_ids[bad].tolist() == [-1] * 7
    assert not out.num_kept[bad].any()
    assert not out.mask[bad].any()
    assert set(as_bits(out.logprobs[bad]) + as_bits(out.log_z[bad])) == {0x7FC00000}
    x[1, 0] = np.nan
    assert reference.sample(x, 1, **vectors).status[1] == 9
    with np.errstate(over="ignore"):
        assert reference.sample(x[:1], 1, temperature=np.array([1e39])).status.tolist() == [8]


def test_check_names_the_rows() -> None:
    """Catches ``check`` that raises for nothing, or does not say which rows and why."""
    x = np.zeros((20, 3), np.float32)
    reference.sample(x, 1, check=True)
    x[4, 1], x[7] = np.nan, -np.inf
    for call in (lambda: reference.sample(x, 1, check=True), lambda: reference.mask(x, check=True)):
        with pytest.raises(
            ValueError, match=r"2 of 20 rows.*row 4 \(a logit is NaN\); row 7 \(no logit is fin"
        ):
            call()
    with pytest.raises(ValueError, match=r"20 of 20 rows.*and 12 more"):
        reference.sample(x, 1, temperature=np.full(20, -1.0), check=True)


def test_a_bad_row_changes_no_other() -> None:
    """Catches a NaN, an infinity or a bad parameter that reaches another row."""
    logits, p = rows_of_all_sorts(200, 50, 8)
    logits = np.nan_to_num(logits, nan=0.0, neginf=-np.inf)
    p["top_p"] = np.nan_to_num(p["top_p"], nan=0.5)
    clean = reference.sample(logits, **p, return_log_z=True, return_mask="bool")
    logits[::2, 7] = np.tile([np.nan, np.inf], 50)
    dirty = reference.sample(logits, **p, return_log_z=True, return_mask="bool")
    assert dirty.status[::2].all()
    for name in vars(clean):
        assert getattr(clean, name)[1::2].tobytes() == getattr(dirty, name)[1::2].tobytes()


# ---- inputs (section 2) --------------------------------------------------------------------------

ZEROS = np.zeros((3, 4), np.float32)


@pytest.mark.parametrize(
    ("logits", "error", "match"),
    [
        (ZEROS.astype(np.float64), TypeError, "logits: expected float32, float16 or bfloat16, got float64"),
        (ZEROS.astype(np.int32), TypeError, "logits: .*int32"),
        (ZEROS.tolist(), TypeError, "logits: expected a NumPy array, got list"),
        (ZEROS[0], ValueError, r"logits: expected shape \[B, V\], got 1 dim"),
        (ZEROS[None], ValueError, r"logits: .*3 dim"),
        (ZEROS[:, :0], ValueError, "logits: .*V = 0"),
        (np.broadcast_to(np.float32(0), (1, 2**21 + 1)), ValueError, "logits: .*V = 2097153"),
    ],
)
def test_bad_logits(logits: Any, error: type[Exception], match: str) -> None:
    """Catches logits of another kind or shape that are taken, or refused without saying why."""
    with pytest.raises(error, match=match):
        reference.sample(logits, 0)
    with pytest.raises(error, match=match):
        reference.mask(logits)


BAD_PARAMETERS = [
    ("temperature", -1.0, ValueError),
    ("temperature", math.inf, ValueError),
    ("temperature", math.nan, ValueError),
    ("temperature", 1e39, ValueError),
    pytest.param("temperature", 10**400, ValueError, id="temperature-huge"),
    ("temperature", np.array(-1.0), ValueError),
    ("temperature", np.ones(2), ValueError),
    ("temperature", np.ones((1, 3)), ValueError),
    ("temperature", np.ones((3, 2)), ValueError),
    ("temperature", True, TypeError),
    ("temperature", "1", TypeError),
    ("temperature", None, TypeError),
    ("temperature", 1j, TypeError),
    ("temperature", [1.0, 1.0, 1.0], TypeError),
    ("temperature", np.ones(3, bool), TypeError),
    ("temperature", np.ones(3, complex), TypeError),
    ("top_p", math.nan, ValueError),
    ("top_p", np.bool_(True), TypeError),
    ("top_p", np.ones(4, np.float32), ValueError),
    ("min_p", math.nan, ValueError),
    ("min_p", np.array(["1"] * 3), TypeError),
    ("top_k", 1.0, TypeError),
    ("top_k", True, TypeError),
    ("top_k", np.ones(3), TypeError),
    ("top_k", np.ones(2, int), ValueError),
    ("top_k", 2**64, ValueError),
    ("topp_seed", 1.0, TypeError),
    ("topp_seed", False, TypeError),
    ("topp_seed", 2**64, ValueError),
    ("topp_seed", -(2**63) - 1, ValueError),
    ("topp_seed", np.ones(5, int), ValueError),
    ("position", -1, ValueError),
    ("position", np.int32(-1), ValueError),
    ("position", np.array(-1), ValueError),
    ("position", 2**63, ValueError),
    ("position", 0.0, TypeError),
    ("position", np.full(3, 2**63, np.uint64), ValueError),
]


@pytest.mark.parametrize(("name", "value", "error"), BAD_PARAMETERS)
def test_bad_parameter(name: str, value: Any, error: type[Exception]) -> None:
    """Catches what can be seen at once and is not refused, or refused without the name of the argument."""
    with pytest.raises(error, match=f"^{name}: expected"):
        reference.sample(ZEROS, **{"topp_seed": 0, name: value})
    with pytest.raises(error, match=f"^{name}: expected"):
        reference.sample(ZEROS[:0], **{"topp_seed": 0, name: value})


@pytest.mark.parametrize("kind", ["dense", "", True, 3, np.array([1, 2])])
def test_bad_mask_kind(kind: Any) -> None:
    """Catches an unknown mask format that is taken for another."""
    with pytest.raises(ValueError, match="return_mask: expected None, 'bool', 'bits' or 'csr'"):
        reference.sample(ZEROS, 0, return_mask=kind)
    with pytest.raises(ValueError, match="kind: expected"):
        reference.mask(ZEROS, kind=kind)


def test_scalars_beyond_do_not_raise() -> None:
    """Catches a refusal of what the contract defines: filters beyond their range are off or at their end."""
    for p in ({"top_p": 1.5}, {"top_p": -3}, {"min_p": 2}, {"min_p": -1}, {"top_k": -1}, {"top_k": 99}):
        assert reference.sample(ZEROS, 0, **p).status.tolist() == [0, 0, 0]
    assert reference.sample(ZEROS, 0, top_p=math.inf, min_p=math.inf).num_kept.tolist() == [4, 4, 4]


def test_scalars_vectors_and_columns_agree() -> None:
    """Catches a parameter that means something else as a NumPy scalar, 0-d array, vector or column."""
    x = np.random.default_rng(0).standard_normal((3, 40)).astype(np.float32)
    want = reference.sample(x, 7, position=3, temperature=0.5, top_k=9, top_p=0.75, min_p=0.125)
    forms = (np.array, lambda v: np.full(3, v), lambda v: np.full((3, 1), v), lambda v: np.array([v])[0])
    for f in forms:
        p = {"position": f(3), "temperature": f(0.5), "top_k": f(9), "top_p": f(0.75), "min_p": f(0.125)}
        assert same(want, reference.sample(x, f(7), **p))
    small = {
        "position": np.full(3, 3, np.uint8),
        "temperature": np.full(3, 0.5, np.float16),
        "top_k": np.int8(9),
    }
    assert same(want, reference.sample(x, np.uint64(7), **small, top_p=0.75, min_p=0.125))
    assert same(reference.sample(x, 7, temperature=1), reference.sample(x, 7, temperature=np.full(3, 1)))


def test_wide_parameters_are_rounded_first() -> None:
    """Catches filters computed in float64: 0.1 must be the fp32 nearest to it."""
    logits, p = rows_of_all_sorts(300, 30, 5)
    wide = {
        **p,
        "temperature": p["temperature"] * 1.0000000001,
        "top_p": p["top_p"].astype(np.float64) + 1e-12,
    }
    wide["top_p"][p["top_p"] <= 1e-6] = p["top_p"][p["top_p"] <= 1e-6]
    for name in ("temperature", "top_p"):
        p[name] = wide[name].astype(np.float32)
    assert same(reference.sample(logits, **wide), reference.sample(logits, **p))


def test_signed_and_unsigned_seeds() -> None:
    """Catches seeds above 2^63 that are refused, truncated to 32 bits, or another stream when negative."""
    x = np.zeros((4, 1000), np.float32)
    unsigned = np.array([2**64 - 1, 2**63, 5, 2**32 + 5], np.uint64)
    out = reference.sample(x, unsigned)
    assert same(out, reference.sample(x, unsigned.view(np.int64)))
    one = [int(reference.sample(x[:1], int(s)).token_ids[0]) for s in unsigned]
    assert out.token_ids.tolist() == one
    assert len(set(one)) == 4
    assert same(reference.sample(x, -1), reference.sample(x, 2**64 - 1))


def test_layouts_of_the_logits() -> None:
    """Catches strides that change a result, and writing to the caller's logits."""
    logits, p = rows_of_all_sorts(30, 70, 6)
    want = reference.sample(logits, **p, return_log_z=True, return_mask="bits")
    wide = np.zeros((60, 140), np.float32)
    wide[::2, ::2] = logits
    for layout in (np.asfortranarray(logits), wide[::2, ::2], logits[::-1, ::-1].copy()[::-1, ::-1]):
        layout.flags.writeable = False
        assert same(want, reference.sample(layout, **p, return_log_z=True, return_mask="bits"))
    one = np.broadcast_to(logits[1], (5, 70))
    assert len(set(reference.mask(one, top_k=9, kind="bits").mask[:, 0].tolist())) == 1


def test_dtypes_of_the_logits() -> None:
    """Catches a conversion to fp32 that is not exact: every finite half, subnormal ones included."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    every = np.arange(1 << 16, dtype=np.uint16).reshape(16, -1)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        half = every.view(dtype)
        with np.errstate(invalid="ignore"):
            full = half.astype(np.float32)
        keep = np.isfinite(full).all(axis=1)
        assert keep.sum() >= 10
        for some in (keep, np.ones(16, bool)):
            a, b = (reference.sample(x[some], 3, top_p=0.9, return_log_z=True) for x in (half, full))
            assert same(a, b)
        assert same(reference.sample(half.T, 3), reference.sample(full.T, 3))


@pytest.mark.parametrize("kind", [None, "bool", "bits", "csr"])
def test_no_rows(kind: str | None) -> None:
    """Catches an empty batch that fails, or outputs of the wrong shape or type."""
    out = reference.sample(
        np.zeros((0, 33), np.float32), np.zeros(0, int), return_log_z=True, return_mask=kind
    )
    dtypes = {"token_ids": np.int64, "num_kept": np.int32, "status": np.int32, "logprobs": np.float32}
    for name, dtype in {**dtypes, "log_z": np.float32}.items():
        assert (getattr(out, name).shape, getattr(out, name).dtype) == ((0,), dtype)
    if kind == "csr":
        assert out.mask.row_offsets.tolist() == [0]
        assert (out.mask.token_ids.shape, out.mask.token_ids.dtype) == ((0,), np.int32)
    elif kind:
        assert out.mask.shape == ((0, 33) if kind == "bool" else (0, 2))


def test_a_vocabulary_of_one() -> None:
    """Catches filters that fail when there is nothing to choose from."""
    logits, p = rows_of_all_sorts(200, 16, 9)
    out = reference.sample(logits[:, :1], **p, return_log_z=True, return_mask="bits")
    good = out.status == 0
    assert good.any()
    assert not good.all()
    assert set(out.token_ids[good].tolist()) == {0}
    assert set(out.mask[good, 0].tolist()) == {1}
    assert set(as_bits(out.logprobs[good]) + as_bits(out.log_z[good])) == {0}


def test_optional_outputs() -> None:
    """Catches an output that is there unasked, is missing when asked for, or changes another."""
    logits, p = rows_of_all_sorts(100, 40, 1)
    full = reference.sample(logits, **p, return_log_z=True, return_mask="bool")
    bare = reference.sample(logits, **p, return_logprobs=False)
    assert (bare.logprobs, bare.log_z, bare.mask) == (None, None, None)
    usual = reference.sample(logits, **p)
    log_z_only = reference.sample(logits, **p, return_logprobs=False, return_log_z=True)
    for name in ("token_ids", "num_kept", "status"):
        for out in (bare, usual, log_z_only):
            assert getattr(out, name).tobytes() == getattr(full, name).tobytes()
    assert usual.logprobs.tobytes() == full.logprobs.tobytes()
    assert log_z_only.log_z.tobytes() == full.log_z.tobytes()


# ---- whole rows ----------------------------------------------------------------------------------


def test_greedy() -> None:
    """Catches greedy drawing with noise, minding filters, or taking a later one of equal tokens."""
    logits, p = rows_of_all_sorts(300, 40, 2)
    p["temperature"] = np.zeros(300, np.float32)
    out = reference.sample(logits, **p, return_log_z=True, return_mask="bool")
    good = out.status == 0
    assert good.any()
    np.testing.assert_array_equal(out.token_ids[good], (logits[good] + np.float32(0)).argmax(axis=1))
    assert set(out.num_kept[good].tolist()) == {1}
    assert set(as_bits(out.logprobs[good]) + as_bits(out.log_z[good])) == {0}
    assert (out.mask.sum(axis=1) == good).all()
    assert out.mask[good, out.token_ids[good]].all()


@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 200])
def test_masks_agree(vocab: int) -> None:
    """Catches formats that disagree, bits out of order or past V, and counts that are not the mask's."""
    logits, p = rows_of_all_sorts(150, max(vocab, 16), vocab)
    logits = logits[:, :vocab]
    outs = {
        k: reference.sample(logits, **p, return_mask=k, return_log_z=True) for k in ("bool", "bits", "csr")
    }
    dense, words, csr = (outs[k].mask for k in outs)
    assert (dense.shape, dense.dtype) == ((150, vocab), np.bool_)
    assert (words.shape, words.dtype) == ((150, -(-vocab // 32)), np.int32)
    assert (csr.row_offsets.dtype, csr.token_ids.dtype) == (np.int64, np.int32)
    for row in range(150):
        ids = np.flatnonzero(dense[row]).tolist()
        number = sum((int(word) % 2**32) << 32 * i for i, word in enumerate(words[row]))
        assert [i for i in range(32 * words.shape[1]) if number >> i & 1] == ids
        assert csr.token_ids[csr.row_offsets[row] : csr.row_offsets[row + 1]].tolist() == ids
    assert csr.row_offsets[-1] == len(csr.token_ids)
    np.testing.assert_array_equal(dense.sum(axis=1), outs["bool"].num_kept)
    good = outs["bool"].status == 0
    assert dense[good, outs["bool"].token_ids[good]].all()
    filters = {k: v for k, v in p.items() if k not in ("topp_seed", "position")}
    alone = reference.mask(logits, **filters, return_log_z=True)
    assert alone.mask.tobytes() == dense.tobytes()
    assert alone.num_kept.tobytes() == outs["bool"].num_kept.tobytes()
    assert alone.log_z.tobytes() == outs["bool"].log_z.tobytes()
    assert reference.mask(logits, **filters, kind=None).mask is None


@pytest.mark.parametrize(("rows", "vocab"), [(300, 48), (12, 5000), (4, 40_000)])
def test_a_row_alone_is_the_row_in_a_batch(rows: int, vocab: int) -> None:
    """Catches anything of the batch in a result: neighbours, order, blocks, or excluded columns behind."""
    logits, p = rows_of_all_sorts(rows, vocab, 3)
    want = reference.sample(logits, **p, return_log_z=True)

    def check(rows_of: np.ndarray, x: np.ndarray) -> None:
        out = reference.sample(x, **{k: v[rows_of] for k, v in p.items()}, return_log_z=True)
        for name in ("token_ids", "num_kept", "status", "logprobs", "log_z"):
            assert getattr(out, name).tobytes() == getattr(want, name)[rows_of].tobytes(), name

    mixed = np.random.default_rng(1).permutation(rows)
    check(mixed, logits[mixed])
    for row in range(min(rows, 40)):
        check(np.array([row]), logits[row : row + 1])
    p["top_k"] = np.where(p["top_k"] >= vocab, 0, p["top_k"])  # off, whatever V
    check(np.arange(rows), np.pad(logits, ((0, 0), (0, 37)), constant_values=-np.inf))


def test_the_ways_through_a_row_agree() -> None:
    """Catches a kept set that depends on how its tokens were found: searched, sorted, or one by one."""
    kept, rng = part("kept"), np.random.default_rng(12)
    x = np.round(rng.standard_normal((20, 600)) * 3, 1).astype(np.float32) + np.float32(0)

    def tokens(way: int, **filters: Any) -> list[list[int]]:
        defaults: dict[str, Any] = {"temperature": 0.8, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
        p = part("parameters").parameters(20, **{**defaults, **filters})
        out = kept.kept_set(way, x, p, True, True)
        sets = [sorted(out.token[out.row == row].tolist()) for row in range(20)]
        return [*sets, out.mass.tolist(), out.total.tolist(), out.num_kept.tolist()]

    for filters in ({"top_k": 20}, {"top_k": 37, "top_p": 0.9}, {"top_k": 5, "min_p": 0.5}):
        assert tokens(kept.FEW, **filters) == tokens(kept.ORDERED, **filters)
    for filters in ({}, {"min_p": 0.01}):
        assert tokens(kept.UNORDERED, **filters) == tokens(kept.ORDERED, **filters)


def test_the_token_has_the_largest_score() -> None:
    """Catches noise of another token, seed or position, scores added in floats, and ties to a higher id."""
    logits, p = rows_of_all_sorts(200, 60, 4)
    p["temperature"] = np.ones(200, np.float32)  # z = x
    out = reference.sample(logits, **p, return_mask="bool")
    noise = reference.gumbel_noise(p["topp_seed"], p["position"], np.arange(60))
    for row in np.flatnonzero(out.status == 0):
        score = {
            int(i): math.trunc(Fraction(float(logits[row, i])) * 2**32)
            + int(Fraction(float(noise[row, i])) * 2**32)
            for i in np.flatnonzero(out.mask[row])
        }
        assert out.token_ids[row] == max(score, key=lambda i: (score[i], -i))


def test_saturated_scores() -> None:
    """Catches overflow of the score: beyond 2^30 tokens are told apart by noise alone."""
    x = np.float32([[3e38, 2e9, 2.0**30, -3e38]])
    seeds = np.arange(200)
    out = reference.sample(np.repeat(x, 200, axis=0), seeds)
    best = reference.gumbel_noise(seeds, 0, np.arange(3)).argmax(axis=1)
    assert out.token_ids.tolist() == best.tolist()
    assert np.isfinite(out.logprobs).all()


def test_fixed_point() -> None:
    """Catches rounding to the nearest or downwards in place of towards zero, and a missing saturation."""
    z = np.append(
        np.random.default_rng(0).integers(0, 2**32, 5000, dtype=np.uint32).view(np.float32), SMALLEST
    )
    z = np.append(z[np.isfinite(z)], np.float32([2**30, -(2**30), FLT_MAX, -FLT_MAX, np.inf, -np.inf]))
    want = [
        math.trunc(Fraction(max(min(v, 2.0**30), -(2.0**30))) * 2**32) for v in z.astype(np.float64).tolist()
    ]
    assert part("draw").fixed_point(z).tolist() == want


def test_log_probabilities() -> None:
    """Catches log probabilities further from the real ones than the weights' error and the fp32 roundings."""
    logits, p = rows_of_all_sorts(400, 80, 7)
    p["temperature"] = np.ones(400, np.float32)
    out = reference.sample(logits, **p, return_log_z=True, return_mask="bool")
    for row in np.flatnonzero(out.status == 0):
        x = logits[row].astype(np.float64)
        w = np.exp(x - x.max())
        kept, token = w[out.mask[row]].sum(), int(out.token_ids[row])
        # The gap to the largest is rounded to fp32, and so is the result.
        real = x[token] - x.max() - np.log(kept)
        assert abs(out.logprobs[row] - real) <= 2**-21 + abs(x[token] - x.max()) * 2**-24 + abs(real) * 2**-24
        real = np.log(kept / w.sum())
        assert abs(out.log_z[row] - real) <= 2**-21 + abs(real) * 2**-24
        assert out.log_z[row] <= 0
    whole = reference.sample(logits, 5, return_log_z=True)
    assert set(as_bits(whole.log_z[whole.status == 0])) == {0}


def test_excluded_tokens_weigh_nothing() -> None:
    """Catches tokens of -inf that share the mass where every other z saturates at -FLT_MAX."""
    x = np.float32([[-3e38, -np.inf, -3.1e38, -np.inf]])
    for filters in ({}, {"min_p": 0.5}, {"top_p": 0.99}, {"top_k": 3}):
        out = reference.sample(x, 1, temperature=0.5, **filters, return_log_z=True, return_mask="csr")
        assert out.mask.token_ids.tolist() == [0, 2]
        assert out.logprobs.tolist() == [np.float32(-np.log(2))]
        assert out.log_z.tolist() == [0]


def test_distribution() -> None:
    """Catches a bias that a wrong noise, key or lane would make: 200,000 draws against the softmax."""
    x = np.linspace(0, 3, 9).astype(np.float32)
    n = 200_000
    out = reference.sample(np.broadcast_to(x, (n, 9)), 123, position=np.arange(n), return_logprobs=False)
    expected = np.exp(x.astype(np.float64))
    expected *= n / expected.sum()
    chi2 = ((np.bincount(out.token_ids, minlength=9) - expected) ** 2 / expected).sum()
    assert chi2 < 35  # 8 degrees of freedom: p = 3e-5, and the seed is fixed
