"""`kept_logprobs`: values and gradients against each framework's own on dense masks, and tokens outside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from detsample.reference.mask import bits_of

from detsample import rollout
from detsample.rollout import KeptSets, kept_logprobs

F32 = np.float32
# Learning is by the framework's own operations.
FRAMEWORKS = ("torch", pytest.param("paddle", marks=pytest.mark.paddles_own_kernels))


def tensor(name: str, array: np.ndarray, *, gradient: bool = False) -> Any:
    """An array as a CPU tensor."""
    framework = pytest.importorskip(name, reason=f"{name} is not installed")
    if name == "torch":
        return framework.from_numpy(array.copy()).requires_grad_(gradient)
    return framework.to_tensor(array, place=framework.CPUPlace(), stop_gradient=not gradient)


def gradient_of(logits: Any) -> np.ndarray:
    return logits.grad.numpy()


def dense(name: str, logits: Any, mask: np.ndarray, tokens: np.ndarray, temperature: float) -> Any:
    """The framework's own: log_softmax of the masked logits."""
    framework = pytest.importorskip(name)
    keep = tensor(name, mask)
    scaled = logits * float(F32(1) / F32(temperature))
    masked = framework.where(keep, scaled, framework.full_like(scaled, -np.inf))
    logprobs = framework.nn.functional.log_softmax(masked, -1)
    index = tensor(name, tokens[:, None])
    if name == "torch":
        return logprobs.gather(1, index)[:, 0]
    return framework.take_along_axis(logprobs, index, 1)[:, 0]


def case(seed: int, rows: int = 40, vocab: int = 90) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, sets of every size from 1 to all, and a token of each set."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((rows, vocab), dtype=F32) * F32(3)
    count = np.concatenate([[1, 2, 3, 4, 5, vocab, vocab - 1], rng.integers(1, vocab + 1, rows - 7)])
    place = rng.permuted(np.tile(np.arange(vocab), (rows, 1)), axis=1)
    mask = place < count[:, None]
    return logits, mask, place.argmin(axis=1)


def forms(mask: np.ndarray) -> dict[str, Any]:
    """The sets in every form in which they are taken."""
    sets = KeptSets.of_bits(bits_of(mask), mask.shape[1])
    return {"sets": sets, "csr": sets.csr(), "mask": mask, "bits": bits_of(mask)}


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_values_and_gradients_are_the_frameworks_own(name: str, temperature: float) -> None:
    """Catches a set read wrongly, rows put back in another order, padding that counts, and a gradient that misses the
    normaliser or reaches a dropped token."""
    logits, mask, tokens = case(1)
    weights = np.linspace(-1, 2, len(tokens), dtype=F32)
    theirs = tensor(name, logits, gradient=True)
    expected = dense(name, theirs, mask, tokens, temperature)
    (expected * tensor(name, weights)).sum().backward()
    for form, kept in forms(mask).items():
        mine = tensor(name, logits, gradient=True)
        found = kept_logprobs(mine, kept, tokens, temperature=temperature)
        assert not found.outside.numpy().any()
        assert np.abs(found.logprobs.detach().numpy() - expected.detach().numpy()).max() < 4e-6, form
        (found.logprobs * tensor(name, weights)).sum().backward()
        assert np.abs(gradient_of(mine) - gradient_of(theirs)).max() < 1e-6, form
        assert (gradient_of(mine)[~mask] == 0).all(), form


def test_gradients_against_differences() -> None:
    """Catches a gradient that both ways of computing it could have wrong: torch's gradcheck, in fp64."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    logits, mask, tokens = case(2, 9, 12)
    sets = forms(mask)["sets"]

    def logprobs(x: Any) -> Any:
        return kept_logprobs(x, sets, tokens, temperature=0.8).logprobs

    assert torch.autograd.gradcheck(logprobs, torch.from_numpy(logits.astype(np.float64)).requires_grad_())


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_tokens_outside(name: str) -> None:
    """Catches a token outside that gets a finite log probability, goes unreported, or spoils a gradient with NaN."""
    logits, mask, tokens = case(3)
    mask[8] = False  # an invalid row: nothing is kept
    outside = {0: int(np.flatnonzero(~mask[0])[0]), 8: -1, 9: 90, 10: -1}
    for row, token in outside.items():
        tokens[row] = token
    logits[11, tokens[11]] = -np.inf  # the trainer excludes it
    logits[12] = -np.inf  # and here everything
    expected = [*outside, 11, 12]
    for form, kept in forms(mask).items():
        mine = tensor(name, logits, gradient=True)
        found = kept_logprobs(mine, kept, tokens)
        assert np.flatnonzero(found.outside.numpy()).tolist() == expected, form
        values = found.logprobs.detach().numpy()
        assert (values[expected] == -np.inf).all()
        assert np.isfinite(np.delete(values, expected)).all()
        found.logprobs.exp().sum().backward()
        gradient = gradient_of(mine)
        assert np.isfinite(gradient).all(), form
        assert (gradient[expected] == 0).all(), form


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_nan_of_the_trainer_stays_a_nan(name: str) -> None:
    """Catches a trainer's NaN that is reported as a token outside, or that spreads: of its own row, if kept."""
    logits, mask, tokens = case(4)
    kept_one, dropped_one = int(np.flatnonzero(mask[20])[0]), int(np.flatnonzero(~mask[21])[0])
    logits[20, kept_one] = np.nan
    logits[21, dropped_one] = np.nan
    mine = tensor(name, logits, gradient=True)
    found = kept_logprobs(mine, forms(mask)["sets"], tokens)
    assert np.flatnonzero(np.isnan(found.logprobs.detach().numpy())).tolist() == [20]
    assert not found.outside.numpy().any()
    found.logprobs.sum().backward()
    assert np.isfinite(np.delete(gradient_of(mine), 20, axis=0)).all()


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_recorded_invalid_rows_have_no_gradient(name: str) -> None:
    """Catches a gradient of NaN in a row that has no token: of a recorded temperature that is NaN or infinite, and of
    NaN among the logits of a token outside.
    """
    rng = np.random.default_rng(8)
    logits = rng.standard_normal((7, 40), dtype=F32)
    heat = F32([0.7, np.nan, np.inf, -1, -np.inf, 0.7, 1e-40])
    drawn = rollout.draw(logits, np.arange(7), temperature=heat, top_p=0.9)
    record = rollout.Record.of(drawn, 0)
    invalid = [1, 2, 3, 4]
    assert np.flatnonzero(record.status).tolist() == invalid
    assert record.token_ids[invalid].tolist() == [-1] * 4
    token = int(np.flatnonzero(~record.kept.mask()[5])[0])  # type: ignore[union-attr]
    tokens = np.where(np.arange(7) == 5, token, record.token_ids)
    now = logits.copy()
    now[1, 3] = now[5, record.token_ids[5]] = np.nan
    for kept in (record.kept, record.kept.csr(), drawn.kept):  # type: ignore[union-attr]
        mine = tensor(name, now, gradient=True)
        found = kept_logprobs(mine, kept, tokens, temperature=record.temperature)
        assert np.flatnonzero(found.outside.numpy()).tolist() == [*invalid, 5]
        assert np.isneginf(found.logprobs.detach().numpy()[[*invalid, 5]]).all()
        found.logprobs.exp().sum().backward()
        assert (gradient_of(mine)[[*invalid, 5]] == 0).all()
        assert np.isfinite(gradient_of(mine)).all()


@pytest.mark.parametrize("heat", [1e-3, 1e-30, 1e-37, 1e-38, 1e-39, 1e-45])
@pytest.mark.parametrize("name", [*FRAMEWORKS, "numpy"])
def test_tiny_temperatures_are_the_contracts(name: str, heat: float) -> None:
    """Catches NaN, or a drawn token called outside, where logits times 1 / temperature are beyond fp32: they saturate,
    as do gaps; and gradients that overflow and cancel to NaN.
    """
    rng = np.random.default_rng(9)
    logits = rng.standard_normal((60, 9), dtype=F32) * F32(20)
    logits[:5] = [[5, 4, 3, -2, 0, 0, 0, 0, -np.inf]]
    logits[5:10] = -logits[:5]
    logits[5:10, 8] = -np.inf
    logits[10:20] = np.round(logits[10:20] / 20)  # ties
    drawn = rollout.draw(logits, np.arange(60), temperature=heat, top_k=rng.integers(0, 9, 60))
    record = rollout.Record.of(drawn, 0)
    assert (record.status == 0).all()
    mine = logits if name == "numpy" else tensor(name, logits, gradient=True)
    found = kept_logprobs(mine, record.kept, record.token_ids, temperature=record.temperature)
    assert not np.asarray(found.outside).any()
    values = found.logprobs if name == "numpy" else found.logprobs.detach().numpy()
    assert np.abs(np.exp(values.astype(np.float64) - record.logprobs) - 1).max() < 4e-6
    if name != "numpy":
        (found.logprobs * 1000).sum().backward()
        assert not np.isnan(gradient_of(mine)).any()  # beyond fp32 it may be


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_saturated_logits_have_no_gradient(name: str) -> None:
    """Catches a gradient through what is constant, and infinities or NaN of the trainer's that a clamp makes finite."""
    top = np.finfo(F32).max
    logits = F32([[2, 3, -2, 1e-39], [top, 1, 0, 0], [np.inf, 1, 0, 0], [np.nan, 1, 0, 0]])
    mine = tensor(name, logits, gradient=True)
    found = kept_logprobs(mine, np.ones((4, 4), bool), np.array([0, 0, 1, 1]), temperature=F32([1e-39, 0.5, 1, 1]))
    values = found.logprobs.detach().numpy()
    assert values[:2].tolist() == [-(2.0**30), 0]
    assert np.isnan(values[2:]).all()
    found.logprobs[:2].sum().backward()
    assert (gradient_of(mine)[:2] == 0).all()


@pytest.mark.parametrize("name", [*FRAMEWORKS, "numpy"])
def test_the_bits_of_a_draw_are_taken(name: str) -> None:
    """Catches the kept sets of a draw refused, or bits past the vocabulary taken for tokens: as CSR, gradients too."""
    logits = np.random.default_rng(10).standard_normal((30, 70), dtype=F32) * F32(3)
    heat = np.linspace(0, 2, 30, dtype=F32)
    given = logits if name == "numpy" else tensor(name, logits)
    heat = heat if name == "numpy" else tensor(name, heat)
    drawn = rollout.draw(given, 3, temperature=heat, top_p=0.95, shared_noise=True)
    record = rollout.Record.of(drawn, 0)
    results = []
    for kept in (record.kept.csr(), drawn.kept):  # type: ignore[union-attr]
        mine = logits if name == "numpy" else tensor(name, logits, gradient=True)
        found = kept_logprobs(mine, kept, drawn.token_ids, temperature=heat)
        assert not np.asarray(found.outside).any()
        values = np.asarray(found.logprobs if name == "numpy" else found.logprobs.detach())
        if name != "numpy":
            found.logprobs.sum().backward()
        results.append((values, None if name == "numpy" else gradient_of(mine)))
    for one, other in zip(*results, strict=True):
        assert one is None or np.abs(one - other).max() < 2e-6


@pytest.mark.parametrize("name", [*FRAMEWORKS, "numpy"])
def test_at_the_actors_logits_the_ratio_is_1(name: str) -> None:
    """Catches a temperature or a set that is not the actor's: the contract's log probabilities, to fp32 rounding."""
    rng = np.random.default_rng(5)
    logits = rng.standard_normal((60, 500), dtype=F32) * F32(4)
    heat = rng.choice(F32([0, 0.5, 0.8, 1, 1.3]), 60)
    top_p = rng.choice(F32([0.5, 0.9, 1]), 60)
    drawn = rollout.draw(logits, np.arange(60), temperature=heat, top_p=top_p)
    record = rollout.Record.of(drawn, 0)
    mine = logits if name == "numpy" else tensor(name, logits)
    found = kept_logprobs(mine, record.kept, record.token_ids, temperature=record.temperature)
    ratio = np.exp(np.asarray(found.logprobs) - record.logprobs)
    assert np.abs(ratio - 1).max() < 4e-6


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bit_logits_are_weighed_in_fp32(dtype: str) -> None:
    """Catches sums in 16 bits, and a gradient that does not come back in them."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    logits, mask, tokens = case(6)
    half = torch.from_numpy(logits).to(getattr(torch, dtype)).requires_grad_()
    found = kept_logprobs(half, mask, tokens).logprobs
    assert found.dtype == torch.float32
    wide = kept_logprobs(half.detach().float(), mask, tokens).logprobs
    assert torch.equal(found.detach(), wide)
    found.sum().backward()
    assert half.grad.dtype == half.dtype


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_same_bits_twice(name: str) -> None:
    """Catches a value or a gradient that depends on the order in which a device happens to add."""
    logits, mask, tokens = case(7)
    sets = forms(mask)["sets"]

    def run() -> tuple[bytes, bytes]:
        mine = tensor(name, logits, gradient=True)
        found = kept_logprobs(mine, sets, tokens)
        found.logprobs.sum().backward()
        return found.logprobs.detach().numpy().tobytes(), gradient_of(mine).tobytes()

    assert len({run() for _ in range(3)}) == 1


def test_tensors_for_sets_and_tokens() -> None:
    """Catches a mask, a CSR or tokens that are read only where they are arrays."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from detsample import Csr, sample

    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    expected = None
    for kind in ("bool", "csr"):
        out = sample(logits, torch.arange(6), top_p=0.8, return_mask=kind)
        assert kind == "bool" or isinstance(out.mask, Csr)
        found = kept_logprobs(logits, out.mask, out.token_ids).logprobs
        expected = found if expected is None else expected
        assert torch.equal(found, expected)
        assert (found - out.logprobs).abs().max() < 1e-5


def test_no_rows() -> None:
    """Catches a shape that an empty batch breaks."""
    for name in ("numpy", "torch"):
        logits = np.zeros((0, 5), F32) if name == "numpy" else tensor(name, np.zeros((0, 5), F32))
        found = kept_logprobs(logits, np.zeros((0, 5), bool), np.zeros(0, np.int64))
        assert tuple(found.logprobs.shape) == tuple(found.outside.shape) == (0,)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"logits": np.zeros(5, F32)}, ValueError, r"logits must have shape \[N, V\], got \[5\]"),
        ({"logits": np.zeros((2, 5), np.int32)}, TypeError, "logits must be of type"),
        ({"token_ids": np.zeros(3, np.int64)}, ValueError, r"token_ids must have shape \[2\], got \[3\]"),
        ({"token_ids": np.zeros(2)}, TypeError, "token_ids must be of type int64 or int32, got float64"),
        ({"kept": np.ones((2, 4), bool)}, ValueError, r"kept must be KeptSets, Csr, bool \[2, 5\] or int32 \[2, 1\]"),
        ({"kept": np.ones((2, 5), np.int32)}, ValueError, r"or int32 \[2, 1\], got int32 \[2, 5\]"),
        ({"kept": np.ones((2, 1), np.int64)}, ValueError, r"or int32 \[2, 1\], got int64 \[2, 1\]"),
        ({"kept": KeptSets.of_bits(np.zeros((1, 1), np.int32), 5)}, ValueError, "kept must be of 2 rows and 5 tokens"),
        ({"temperature": np.ones(3)}, ValueError, r"temperature must be a number or have shape \[2\], got \[3\]"),
        ({"temperature": -1.0}, ValueError, "temperature must be finite and at least 0, got -1.0"),
    ],
)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    """Catches an argument that is misread, or an error that does not name it."""
    base: dict[str, Any] = {
        "logits": np.zeros((2, 5), F32),
        "kept": np.ones((2, 5), bool),
        "token_ids": np.zeros(2, np.int64),
    }
    with pytest.raises(error, match=message):
        kept_logprobs(**base | change)
