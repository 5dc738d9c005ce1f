"""What a row's results are not a function of: each test varies one such thing alone and compares bits.

The reference and the kernels are both tested, each against itself; `test_kernels.py` compares the one with the other.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import kernel_path
import numpy as np
import pytest
from kernel_path import GPU, OUTPUTS, assert_same, only_rows
from levels import amount

import detsample
from detsample import reference

F32 = np.float32
V = 700
Implementation = Callable[..., Any]
WANTED: dict[str, Any] = {"return_logprobs": True, "return_log_z": True, "return_mask": "bool"}

# One row for each way through the kernels: all tokens, candidates by count, min-p, by weight, greedy, wide.
LOGITS = np.random.default_rng(20).standard_normal((6, V), dtype=F32) * F32([[1], [3], [2], [4], [2], [0.01]])
PARAMETERS: dict[str, np.ndarray] = {
    "topp_seed": np.array([0, -1, 2**40, 7, 7, -(2**63)]),
    "position": np.array([0, 5, 2**32, 1, 2, 3]),
    "temperature": F32([1, 0.8, 1, 1.5, 0, 1]),
    "top_k": np.array([0, 20, 0, 0, 0, 600]),
    "top_p": F32([1, 0.9, 1, 0.8, 1, 0.95]),
    "min_p": F32([0, 0.01, 0.05, 0, 0, 0]),
}
EVERY = list(range(6))


@pytest.fixture(params=["reference", "kernels"])
def implementation(request: pytest.FixtureRequest) -> Implementation:
    """`sample` of the one or the other, with every output wanted."""
    if request.param == "kernels":
        pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")
    sample = kernel_path.sample if request.param == "kernels" else reference.sample
    return lambda logits, **parameters: sample(logits, **WANTED | parameters)


_alone: dict[str, list[Any]] = {}


@pytest.fixture
def alone(request: pytest.FixtureRequest, implementation: Implementation) -> list[Any]:
    """Each row's results in a batch of its own, which all else must equal."""
    name = request.node.callspec.params["implementation"]
    if name not in _alone:
        rows = ([row] for row in EVERY)
        _alone[name] = [implementation(LOGITS[row], **only_rows(PARAMETERS, row)) for row in rows]
    return _alone[name]


def row_of(out: Any, row: int, columns: int = V) -> SimpleNamespace:
    """One row's results, as a batch of one."""
    values = {name: getattr(out, name)[row : row + 1] for name in OUTPUTS}
    return SimpleNamespace(**values | {"mask": values["mask"][:, :columns]})


def assert_rows(out: Any, alone: list[Any], rows: list[int], context: object = "") -> None:
    """Row by row, `out` is what `rows` give alone."""
    assert len(out.token_ids) == len(rows)
    for at, row in enumerate(rows):
        assert_same(row_of(out, at), alone[row], (context, at, row))


# ---- the batch


def test_not_of_the_batch_size(implementation: Implementation, alone: list[Any]) -> None:
    """Catches work cut by the number of rows where the cut shows, or another algorithm for large batches."""
    for size in (2, 5)[amount(0, 1) :] if not GPU else (2, 5, 64, 65, 1000):
        rows = [(3 * row + 5) % 6 for row in range(size)]
        assert_rows(implementation(LOGITS[rows], **only_rows(PARAMETERS, rows)), alone, rows, size)


@pytest.mark.full("the kernels in the interpreter", every=2)
def test_not_of_the_slot(implementation: Implementation, alone: list[Any]) -> None:
    """Catches noise or scratch memory keyed by a row's place in the batch."""
    for rows in (EVERY[::-1], EVERY[2:] + EVERY[:2])[: amount(2, 1)]:
        assert_rows(implementation(LOGITS[rows], **only_rows(PARAMETERS, rows)), alone, rows)


def test_not_of_the_neighbours_parameters(implementation: Implementation, alone: list[Any]) -> None:
    """Catches a filter, a seed or an invalid parameter of one row that reaches another."""
    others = [
        {"top_k": 5}, {"temperature": np.nan, "top_p": np.nan}, {"temperature": 1e-40, "top_p": 0.0},
        {"position": -1}, {"min_p": 2.0, "topp_seed": 99}, {"temperature": 0.0},
    ]  # fmt: skip
    mine, neighbour = [0, 1, 2, 3, 4, 5], 3
    rows = [row for own in mine for row in (neighbour, own)]
    parameters = {name: value[rows] for name, value in PARAMETERS.items()}
    for at, other in enumerate(others):
        for name, value in other.items():
            parameters[name][2 * at] = value
    out = implementation(LOGITS[rows], **parameters)
    for at, row in enumerate(mine):
        assert_same(row_of(out, 2 * at + 1), alone[row], others[at])


@pytest.mark.full("the kernels in the interpreter", every=2)
def test_not_of_the_neighbours_logits(implementation: Implementation, alone: list[Any]) -> None:
    """Catches a maximum, a sum or a NaN that leaks into the next row."""
    for value in (np.nan, np.inf, -np.inf, 3e38) if GPU else (np.nan, 3e38):
        logits = LOGITS[[1, 1, 3, 3]]
        logits[::3] = value
        parameters = only_rows(PARAMETERS, [1, 1, 3, 3])
        out = implementation(logits, **parameters)
        for at, row in ((1, 1), (2, 3)):
            assert_same(row_of(out, at), alone[row], value)


def test_not_of_earlier_calls(implementation: Implementation, alone: list[Any]) -> None:
    """Catches state: a generator that advances, a workspace that is taken for zeroed."""
    implementation(np.full((3, 2 * V), 50, F32), topp_seed=1)
    rows = [1, 5]
    for _ in range(2):
        assert_rows(implementation(LOGITS[rows], **only_rows(PARAMETERS, rows)), alone, rows)


# ---- how the row lies in memory


@pytest.mark.full("more padding", every=5)
@pytest.mark.parametrize("columns", [1, 3, 400])
def test_not_of_padding_columns(implementation: Implementation, alone: list[Any], columns: int) -> None:
    """Catches noise, counts, a `top_k >= V` or a boundary that depends on the padded width."""
    padded = np.concatenate([LOGITS, np.full((6, columns), -np.inf, F32)], axis=1)
    out = implementation(padded, **PARAMETERS)
    assert not out.mask[:, V:].any()
    for row in EVERY:
        assert_same(row_of(out, row), alone[row], row)


@pytest.mark.full("more strides", every=5)
@pytest.mark.parametrize(("stride", "offset"), [(V + 1, 0), (V + 4, 4), (2 * V, 3)])
def test_not_of_strides_and_storage_offset(
    implementation: Implementation, alone: list[Any], stride: int, offset: int
) -> None:
    """Catches rows taken for contiguous, and full-width loads from rows that do not start on 16 bytes."""
    memory = np.full((6, stride + offset), np.nan, F32)
    view = memory[:, offset : offset + V]
    view[...] = LOGITS
    assert_rows(implementation(view[1::2], **only_rows(PARAMETERS, [1, 3, 5])), alone, [1, 3, 5])


@pytest.mark.full("the kernels in the interpreter", every=2)
def test_not_of_the_element_type(implementation: Implementation) -> None:
    """Catches arithmetic in the width of the input: values that all three types hold give equal bits."""
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed: NumPy has no bfloat16")
    logits = (np.round(LOGITS * 8).clip(-120, 120) / F32(8))[[1, 2, 5]]
    logits[1, ::7] = -np.inf
    parameters = only_rows(PARAMETERS, [1, 2, 5])
    expected = implementation(logits, **parameters)
    for element in (ml_dtypes.bfloat16, np.float16)[: amount(2, 1)]:
        converted = logits.astype(element)
        assert (converted.astype(F32) == logits).all()
        assert_same(implementation(converted, **parameters), expected, element)


# ---- how the work is cut (kernels only)


def cuts() -> list[dict[str, Any]]:
    """Ways to cut a row of three tiles: into programs, segments and, on a GPU, warps."""
    found: list[dict[str, Any]] = [{"parts": parts, "segment_tiles": 1} for parts in (1, 2, 3)]
    found += [{"parts": 2, "segment_tiles": 2}, {"parts": 1, "segment_tiles": 3}]
    return found


@pytest.mark.full("more ways to cut a row", every=5)
@pytest.mark.parametrize("cut", cuts(), ids=str)
def test_not_of_how_the_row_is_cut(cut: dict[str, Any]) -> None:
    """Catches sums, maxima or noise that depend on segments, groups or shares of the vocabulary."""
    engine = pytest.importorskip("detsample.sampler.on_gpu", reason="Triton is not installed: no kernel runs")
    wide = np.concatenate([LOGITS] * 4, axis=1)[[0, 1, 5]]
    parameters = only_rows(PARAMETERS, [0, 1, 5])
    expected = reference.sample(wide, **parameters, **WANTED)
    assert_same(kernel_path.sample(wide, **parameters, **WANTED, tuning=engine.Tuning(**cut)), expected)


# ---- who asks, and how


@pytest.mark.parametrize("name", ["numpy", "torch", "paddle"])
def test_not_of_the_framework(name: str) -> None:
    """Catches an adapter that rounds, copies or reorders: the public call, on CPU tensors of each framework."""
    module = pytest.importorskip(name, reason=f"{name} is not installed: its tensors are not compared here")

    def tensor(array: np.ndarray) -> Any:
        if name == "paddle":
            return module.to_tensor(array, place=module.CPUPlace())
        return module.tensor(array) if name == "torch" else array

    parameters = {key: tensor(value) for key, value in PARAMETERS.items()}
    out = detsample.sample(tensor(LOGITS), **parameters, **WANTED)
    found = SimpleNamespace(**{key: np.asarray(getattr(out, key)) for key in OUTPUTS})
    assert_same(found, reference.sample(LOGITS, **PARAMETERS, **WANTED))


def test_not_of_scalar_or_vector(implementation: Implementation, alone: list[Any]) -> None:
    """Catches a scalar that goes through another conversion than a vector's element."""
    for row in (1, 3):
        numbers = {name: value[row].item() for name, value in PARAMETERS.items()}
        assert_same(implementation(LOGITS[row : row + 1], **numbers), alone[row])
        shaped = {name: value[[row, row], None] for name, value in PARAMETERS.items()}
        assert_rows(implementation(LOGITS[[row, row]], **shaped), alone, [row, row])


@pytest.mark.full("the kernels in the interpreter", every=2)
def test_not_of_the_outputs_wanted(implementation: Implementation, alone: list[Any]) -> None:
    """Catches a token, count or logarithm that depends on what else is computed."""
    bare = {"return_logprobs": False, "return_log_z": False, "return_mask": None}
    out = implementation(LOGITS, **PARAMETERS, **bare)
    assert out.logprobs is out.log_z is out.mask is None
    for row in EVERY:
        assert out.token_ids[row] == alone[row].token_ids[0]
        assert out.num_kept[row] == alone[row].num_kept[0]


def test_a_batch_of_4096(implementation: Implementation, request: pytest.FixtureRequest) -> None:
    """Catches indices that overflow, or blocks of rows whose edges show: each row equals itself in a small batch."""
    if "kernels" in request.node.name and not GPU:
        pytest.skip("4096 rows take Triton's interpreter ten minutes")
    rng = np.random.default_rng(4)
    logits = rng.standard_normal((4096, 50), dtype=F32)
    parameters = {"topp_seed": rng.integers(-(2**63), 2**63 - 1, 4096), "top_k": rng.integers(0, 60, 4096)}
    parameters["top_p"] = rng.random(4096, dtype=F32)
    out = implementation(logits, **parameters)
    for rows in (range(3), range(4093, 4096), rng.integers(0, 4096, 60)):
        few = implementation(logits[list(rows)], **only_rows(parameters, list(rows)))
        for at, row in enumerate(rows):
            assert_same(row_of(out, int(row), 50), row_of(few, at, 50), row)
