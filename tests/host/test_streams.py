"""`gumbel_noise` and `fold_in`: the kernels against the reference, as bits, and against known answers."""

from __future__ import annotations

from typing import Any

import kernel_path
import numpy as np
import pytest
from kernel_path import bits
from levels import amount

import detsample
from detsample import reference

SEEDS = np.array([0, 1, -1, 2**63 - 1, -(2**63), 2**32, -(2**32) + 5, 1234567890123])
POSITIONS = np.array([0, 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 7, 2**40 + 3])
TOKENS = np.array([0, 1, 2, 3, 4, 5, 1023, 151935, 2**21 - 1])


@pytest.fixture(autouse=True)
def _triton() -> None:
    pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")


def assert_equal_bits(found: Any, expected: Any) -> None:
    """Two arrays of one type, shape and content."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert np.array_equal(bits(found), bits(expected))


def test_noise_of_every_corner() -> None:
    """Catches a dropped high word of seed or position, a wrong word of the four, a token id cut to fewer bits."""
    found = kernel_path.gumbel_noise(SEEDS, POSITIONS, TOKENS)
    assert_equal_bits(found, reference.gumbel_noise(SEEDS, POSITIONS, TOKENS))
    assert len(np.unique(found)) == found.size


def test_noise_of_many_tokens() -> None:
    """Catches an error in the logarithms where noise is common, and at the edge of a block of 256."""
    for columns in (1, 255, 256, 257, amount(20_000, 600)):
        tokens = np.arange(columns) * 3 + 1
        assert_equal_bits(kernel_path.gumbel_noise(5, 6, tokens), reference.gumbel_noise(5, 6, tokens))


@pytest.mark.full("more forms of parameters in the interpreter", every=9)
@pytest.mark.parametrize("seed", [3, SEEDS[:4], SEEDS[:4, None], SEEDS[:4].astype(np.int32), np.array(3)], ids=repr)
@pytest.mark.parametrize("position", [0, 2**40, POSITIONS[:4], POSITIONS[:4, None]], ids=repr)
@pytest.mark.parametrize("rows", [False, True])
def test_noise_in_every_form(seed: Any, position: Any, rows: bool) -> None:
    """Catches a form of a parameter read as another, or a result of another shape than the reference's."""
    tokens = np.arange(12).reshape(4, 3) if rows else np.arange(5)
    for ids in (tokens, tokens.astype(np.int32), tokens[..., ::-1]):
        expected = reference.gumbel_noise(seed, position, ids)
        assert_equal_bits(kernel_path.gumbel_noise(seed, position, np.asarray(ids)), expected)


def test_noise_of_no_tokens() -> None:
    """Catches a launch, or a shape, that an empty request breaks."""
    for shape in ((0,), (0, 3), (3, 0)):
        ids = np.zeros(shape, np.int64)
        assert_equal_bits(kernel_path.gumbel_noise(1, 2, ids), reference.gumbel_noise(1, 2, ids))


def test_noise_is_what_sample_adds() -> None:
    """Catches noise that is exact, but other than the draw's: of equal logits the largest noise wins."""
    noise = kernel_path.gumbel_noise(SEEDS, POSITIONS, np.arange(300))
    logits = np.zeros((len(SEEDS), 300), np.float32)
    found = kernel_path.sample(logits, SEEDS, position=POSITIONS)
    assert found.token_ids.tolist() == noise.argmax(axis=1).tolist()


@pytest.mark.parametrize("i", [0, 2**64 - 1, -1, SEEDS, SEEDS[:1], SEEDS.astype(np.int32)], ids=repr)
def test_fold_in_in_every_form(i: Any) -> None:
    """Catches a sign lost on the way, and lengths of one taken for another length."""
    for seed in (SEEDS, SEEDS[::-1]):
        assert_equal_bits(kernel_path.fold_in(seed, i), reference.fold_in(seed, i))
    if isinstance(i, np.ndarray):
        assert_equal_bits(kernel_path.fold_in(9, i), reference.fold_in(9, i))


def test_fold_in_of_none() -> None:
    """Catches an empty vector of seeds that is launched."""
    none = np.zeros(0, np.int64)
    assert_equal_bits(kernel_path.fold_in(none, 3), reference.fold_in(none, 3))


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 from its paper, in Python's integers: no code is shared with anything under test."""
    for _ in range(10):
        first, second = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [
            (second >> 32) ^ counter[1] ^ key[0], second & 0xFFFFFFFF,
            (first >> 32) ^ counter[3] ^ key[1], first & 0xFFFFFFFF,
        ]  # fmt: skip
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return counter


def test_known_answers() -> None:
    """Catches kernels and reference that are wrong alike: Random123's known answer, and by it `fold_in` and noise."""
    assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    seed, index = 0x299F31D0A4093822, 0x13198A2E85A308D3
    halves = [seed & 0xFFFFFFFF, seed >> 32]
    words = philox([0, index & 0xFFFFFFFF, index >> 32, 2], halves)
    folded = (words[1] << 32 | words[0]) - (words[1] >> 31 << 64)
    assert kernel_path.fold_in(np.array([seed]), index).tolist() == [folded]
    assert detsample.fold_in(seed, index) == folded

    high = philox([5, 77, 0, 0], halves)[2]  # token 22 is word 2 of counter 5
    low = philox([5, 77, 0, 1], halves)[2]
    uniform = ((high << 32 | low) * 2 + 1) / 2**65
    noise = kernel_path.gumbel_noise(seed, 77, np.array([22]))
    assert noise[0] == pytest.approx(-np.log(-np.log1p(-uniform)), abs=3e-9)
