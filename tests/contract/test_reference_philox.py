"""Philox and what is made of it (section 7): known answers, derived seeds, and the words of each token's uniform."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from paths import DATA
from reference_parts import part, reference

KAT = DATA / "philox_kat.txt"


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
