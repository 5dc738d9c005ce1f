"""`observe` and `draw`: the kernels against the reference as bits, the reference against exact arithmetic."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import cases
import kernel_path
import numpy as np
import pytest
from cases import rng_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_path import GPU, bits
from levels import amount, only
from same_bits import assert_same_bits

from detsample import reference, rollout

F32 = np.float32
FIELDS = ("logprobs", "raw_logprobs", "rank", "entropy", "top_token_ids", "top_logprobs")


def by_kernels(logits: np.ndarray, token_ids: np.ndarray, kept: np.ndarray, temperature: Any, top_n: int) -> Any:
    """`reference.observe` by the kernels, on a GPU or in the interpreter."""
    from detsample import frameworks
    from detsample.rollout import on_gpu
    from detsample.sampler.parameters import read_logits, read_parameters

    kernel_path.prepare_interpreter()
    tensor = kernel_path.on_device(logits)
    read = read_logits(tensor, frameworks.of(tensor))
    heat = read_parameters(read, 0, 0, kernel_path.on_device(temperature), 0, 1.0, 0.0).temperature
    out = on_gpu.observe(read, kernel_path.on_device(token_ids), kernel_path.on_device(kept), heat, top_n)
    return rollout.Observation(*(kernel_path.to_array(getattr(out, name)) for name in FIELDS))


def compare(logits: np.ndarray, tokens: np.ndarray, kept: np.ndarray, temperature: Any, top_n: int) -> Any:
    pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")
    expected = reference.observe(logits, tokens, kept, temperature=temperature, top_n=top_n)
    assert_same_bits(FIELDS, by_kernels(logits, tokens, kept, temperature, top_n), expected, (tokens, temperature))
    return expected


def drawn(logits: np.ndarray, params: dict[str, Any]) -> Any:
    return reference.sample(logits, **params, return_log_z=True, return_mask="bits")


# ---- the kernels equal the reference


@pytest.mark.full("more kinds of rows in the interpreter", every=9)
@pytest.mark.parametrize("kind", cases.CASES)
def test_kernels_observe_draws_of_every_kind(kind: str) -> None:
    """Catches any difference in weights, gaps, ranks, ties, entropy or first tokens, on rows made for each, and an
    invalid row that is not told of or that harms another."""
    for vocab, rows, top_n in ((3, 64, 5), (31, 64, 7), (1000, 64, 3)) if GPU else ((3, 2, 5), (31, 3, 7), (300, 2, 3)):
        rng = rng_of("observe", kind, vocab)
        logits, params = cases.CASES[kind](rng, rows, vocab), cases.parameters(rng, rows, vocab)
        out = drawn(logits, params)
        compare(logits, out.token_ids, out.mask, params["temperature"], top_n)


@pytest.mark.full("more vocabularies in the interpreter", every=3)
@pytest.mark.parametrize("vocab", [1, 2, 31, 32, 33, 2048, 2049, 4500])
def test_kernels_observe_any_set_and_any_token(vocab: int) -> None:
    """Catches an error at the end of a word, a part or the row, a set taken for a prefix of the order, and a token
    that is outside, excluded or none at all."""
    rng = rng_of("any set", vocab)
    rows = 6
    logits = cases.CASES["neg_inf_some"](rng, rows, vocab)
    kept = rng.integers(-(2**31), 2**31, (rows, -(-vocab // 32))).astype(np.int32)  # with bits behind the end
    kept[0] = 0
    tokens = rng.integers(-1, vocab + 1, rows)
    compare(logits, tokens, kept, rng.choice(F32([0, 0.5, 1, 3]), rows), 4)


@pytest.mark.parametrize("top_n", only(lambda n: n in (0, 20), [0, 1, 20, 128], "other numbers of first tokens"))
def test_first_tokens_in_order(top_n: int) -> None:
    """Catches a tie at a part's end told in the wrong order, a token named twice, and names behind the last token."""
    rng = rng_of("first", top_n)
    for vocab in (60, amount(5000, 1200)):
        logits = cases.CASES["few_levels"](rng, 2, vocab)
        logits[1, rng.permutation(vocab)[17:]] = -np.inf
        kept = np.full((2, -(-vocab // 32)), -1, np.int32)
        seen = compare(logits, np.array([3, 5]), kept, 1.0, top_n)
        order = np.lexsort((np.arange(vocab), -logits[0]))
        assert seen.top_token_ids[0, :vocab].tolist() == order[:top_n].tolist()
        assert (seen.top_token_ids[1, 17:] == -1).all()


def test_a_neighbour_does_not_show() -> None:
    """Catches a sum, a maximum or a first token that leaks from row to row."""
    rng = rng_of("neighbours")
    logits = cases.mixed(rng, 6, 70)
    params = cases.parameters(rng, 6, 70)
    out = drawn(logits, params)
    whole = compare(logits, out.token_ids, out.mask, params["temperature"], 3)
    for row in range(6):
        one = slice(row, row + 1)
        alone = reference.observe(
            logits[one], out.token_ids[one], out.mask[one], temperature=params["temperature"][one], top_n=3
        )
        assert_same_bits(FIELDS, alone, type(alone)(*(getattr(whole, name)[one] for name in FIELDS)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bit_logits(dtype: str) -> None:
    """Catches a 16-bit logit read wrongly."""
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed: NumPy has no bfloat16")
    element = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16
    logits = rng_of(dtype).standard_normal((3, 100), dtype=F32).astype(element)
    out = drawn(logits, {"topp_seed": 1, "top_k": 9})
    compare(logits, out.token_ids, out.mask, 1.0, 3)


VALUES = st.one_of(st.floats(width=32), st.integers(-3, 3).map(float), st.sampled_from([-np.inf, -0.0, 1e-45, 3e38]))


@settings(
    max_examples=300 if GPU else amount(20, 6), deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(
    st.lists(VALUES, min_size=1, max_size=40),
    st.integers(-2, 41),
    st.integers(-(2**31), 2**31 - 1),
    st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, width=32, allow_infinity=False)),
)
def test_any_row(row: list[float], token: int, word: int, temperature: float) -> None:
    """Catches combinations that no case kind makes."""
    kept = np.full((1, -(-len(row) // 32)), word, np.int32)
    compare(F32([row]), np.array([token]), kept, temperature, 3)


# ---- the reference is what the specification says


def exact(x: np.ndarray, token: int, kept: np.ndarray, r: np.float32) -> tuple[int, int, int]:
    """(units of the kept log probability, units of the entropy, rank) by Python's integers, from weights."""
    from detsample.reference.logarithm import ln_mass
    from detsample.reference.weight import weight

    members = [i for i in range(len(x)) if kept[i] and x[i] > -np.inf]
    largest = max(x[i] for i in members)
    a = {i: F32(F32(largest - x[i]) * r) for i in members}
    w = {i: int(weight(F32([a[i]]))[0]) for i in members}
    mass = sum(w.values())
    ln = int(ln_mass(np.int64([mass]))[0])
    gap = {i: Fraction(float(min(a[i], np.uint32(0x41FFFFFF).view(F32)))) for i in members}
    gaps = sum(w[i] * int(gap[i] * 2**23) >> 21 for i in members)
    rank = sum((x[i], -i) > (x[token], -token) for i in range(len(x)))
    return -(int(Fraction(float(a[token])) * 2**32) + ln), ln + gaps * 2**30 // mass, rank


def test_reference_against_python_integers() -> None:
    """Catches a quotient, a shift or a rounding of section 12 done otherwise than it says."""
    rng = rng_of("exact")
    for scale in (0.01, 1, 5, 30):
        x = rng.standard_normal((20, 40), dtype=F32) * F32(scale)
        temperature = F32(0.8)
        out = drawn(x, {"topp_seed": np.arange(20), "temperature": temperature, "top_p": 0.9})
        seen = reference.observe(x, out.token_ids, out.mask, temperature=temperature)
        kept = np.unpackbits(out.mask.view(np.uint8), axis=1, bitorder="little")[:, :40]
        for row in range(20):
            logprob, entropy, rank = exact(x[row], int(out.token_ids[row]), kept[row], F32(1) / temperature)
            assert seen.logprobs[row] == F32(F32(logprob) * F32(2.0**-32))
            assert seen.entropy[row] == F32(F32(entropy) * F32(2.0**-32))
            assert seen.rank[row] == rank


def test_they_are_those_of_sample() -> None:
    """Catches a log probability that differs from the one that `sample` gives of the same distribution."""
    rng = rng_of("sample")
    x = cases.mixed(rng, 200, 50)
    params = cases.parameters(rng, 200, 50)
    out = drawn(x, params)
    seen = reference.observe(x, out.token_ids, out.mask, temperature=params["temperature"], top_n=50)
    assert np.array_equal(bits(seen.logprobs), bits(out.logprobs))
    valid = out.status == 0
    assert (seen.rank[valid] < out.num_kept[valid]).all()
    assert (seen.rank[~valid] == -1).all()
    raw = reference.sample(x, params["topp_seed"], position=np.maximum(params["position"], 0))
    seen = reference.observe(x, raw.token_ids, np.full((200, 2), -1, np.int32), top_n=50)
    assert np.array_equal(bits(seen.raw_logprobs), bits(raw.logprobs))
    rows = np.flatnonzero(raw.status == 0)
    assert np.array_equal(seen.top_token_ids[rows, seen.rank[rows]], raw.token_ids[rows])
    assert np.array_equal(bits(seen.top_logprobs[rows, seen.rank[rows]]), bits(seen.raw_logprobs[rows]))


def test_entropy_against_float64() -> None:
    """Catches an entropy of another distribution; its stated error is 2e-6 over these rows."""
    rng = rng_of("entropy")
    for scale in (0.01, 1, 3, 10):
        x = rng.standard_normal((30, 3000), dtype=F32) * F32(scale)
        out = drawn(x, {"topp_seed": 1, "temperature": 0.7, "top_p": 0.95})
        seen = reference.observe(x, out.token_ids, out.mask, temperature=0.7)
        kept = np.unpackbits(out.mask.view(np.uint8), axis=1, bitorder="little")[:, :3000].astype(bool)
        z = np.where(kept, (x * (F32(1) / F32(0.7))).astype(np.float64), -np.inf)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        entropy = -np.where(kept, p * np.log(np.where(p > 0, p, 1)), 0).sum(axis=1)
        assert np.abs(entropy - seen.entropy).max() < 2e-6


# ---- the public calls


def test_draw_is_sample_and_observe() -> None:
    """Catches a field of `draw` that is another's, or parameters that are not kept."""
    rng = rng_of("draw")
    x, params = cases.mixed(rng, 20, 40), cases.parameters(rng, 20, 40)
    both = rollout.draw(x, **params, top_n=4)
    out = drawn(x, params)
    seen = reference.observe(x, out.token_ids, out.mask, temperature=params["temperature"], top_n=4)
    assert_same_bits(FIELDS, both, seen)
    for name in ("token_ids", "num_kept", "status", "logprobs", "log_z"):
        assert np.array_equal(bits(getattr(both, name)), bits(getattr(out, name))), name
    assert np.array_equal(both.kept, out.mask)
    assert both.vocab == 40
    assert both.parameters.keys() == params.keys() | {"filter_order", "allowed", "processing"}
    assert all(np.array_equal(both.parameters[name], params[name]) for name in params)


@pytest.mark.parametrize("name", ["torch", "paddle"])
def test_tensors_of_a_framework(name: str) -> None:
    """Catches an adapter that returns arrays, or other numbers."""
    pytest.importorskip(name, reason=f"{name} is not installed")
    from detsample import frameworks

    x = rng_of(name).standard_normal((3, 40), dtype=F32)
    if name == "torch":
        import torch

        tensor = torch.from_numpy(x)
    else:
        import paddle

        tensor = paddle.to_tensor(x, place=paddle.CPUPlace())
    found, expected = (rollout.draw(logits, 5, top_p=0.8, top_n=2, shared_noise=True) for logits in (tensor, x))
    for field in (*FIELDS, "token_ids", "kept", "log_z"):
        value = getattr(found, field)
        assert frameworks.of(value).name == name
        assert np.array_equal(bits(frameworks.of(value).fetch(value)), bits(getattr(expected, field))), field


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"token_ids": np.zeros(3, np.int64)}, ValueError, r"token_ids must have shape \[2\], got \[3\]"),
        ({"token_ids": np.zeros(2, F32)}, TypeError, "token_ids must be of type int64 or int32, got float32"),
        ({"token_ids": [1, 2]}, TypeError, "token_ids must be a numpy tensor like the logits"),
        ({"token_ids": np.zeros(4, np.int64)[::2]}, ValueError, "token_ids must be contiguous"),
        ({"kept": np.zeros((2, 1), np.int32)}, ValueError, r"kept must have shape \[2, 2\]"),
        ({"kept": np.zeros((2, 2), bool)}, TypeError, "kept must be of type int32, got bool"),
        ({"top_n": 129}, ValueError, "top_n must be between 0 and 128, got 129"),
        ({"top_n": 1.5}, TypeError, "top_n must be an integer"),
        ({"temperature": -1.0}, ValueError, "temperature must be finite"),
        ({"logits": np.zeros(5, F32)}, ValueError, r"logits must have shape \[B, V\]"),
    ],
)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    """Catches an argument that is misread, or an error that does not name it."""
    base: dict[str, Any] = {
        "logits": np.zeros((2, 40), F32),
        "token_ids": np.zeros(2, np.int64),
        "kept": np.full((2, 2), -1, np.int32),
    }
    with pytest.raises(error, match=message):
        rollout.observe(**base | change)


def test_no_rows() -> None:
    """Catches a launch or an output that a batch of no rows breaks."""
    seen = rollout.draw(np.zeros((0, 17), F32), np.zeros(0, np.int64), top_n=3)
    assert seen.top_token_ids.shape == (0, 3)
