"""What `gumbel_noise` and `fold_in` take and refuse: the same where the reference serves and where the kernels do."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import kernel_path
import numpy as np
import pytest

import detsample
from detsample import reference
from detsample.noise.arguments import read_noise

HERE = ["cpu", "kernels"]
INT64 = np.iinfo(np.int64)


@pytest.fixture(params=HERE)
def path(request: pytest.FixtureRequest) -> Any:
    """The two functions, served by the reference and by the kernels."""
    if request.param == "cpu":
        return detsample
    pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")
    return kernel_path


def on_cpu(framework: str) -> Callable[[Any], Any]:
    """What makes CPU tensors of a framework."""
    if framework == "numpy":
        return np.array
    pytest.importorskip(framework, reason=f"{framework} is not installed")
    module = importlib.import_module(framework)
    return module.tensor if framework == "torch" else lambda x: module.to_tensor(x, place=module.CPUPlace())


def values(tensor: Any) -> tuple[tuple[int, ...], Any]:
    """Shape and content of a tensor of any framework."""
    return tuple(tensor.shape), tensor.tolist()


# ---- tensors without an axis


@pytest.mark.parametrize("framework", ["numpy", "torch", "paddle"])
def test_tensors_without_an_axis(framework: str) -> None:
    """Catches a crash on CPU tensors of shape [] (AttributeError, TypeError), or a number where a tensor is due."""
    tensor = on_cpu(framework)
    kind, seven = type(tensor(7)), reference.fold_in(7, 0)
    for folded in (detsample.fold_in(tensor(7), 0), detsample.fold_in(7, tensor(0))):
        assert isinstance(folded, kind)
        assert values(folded) == ((), seven)
    assert values(detsample.fold_in(tensor(7), tensor([0, 1]))) == ((2,), [seven, reference.fold_in(7, 1)])
    noise = detsample.gumbel_noise(1, 0, tensor(3))
    assert isinstance(noise, kind)
    assert values(noise) == ((), float(reference.gumbel_noise(1, 0, 3)))
    column = detsample.gumbel_noise(tensor([1, 2]), tensor(0), tensor(3))
    assert values(column) == ((2,), reference.gumbel_noise(np.array([1, 2]), 0, 3).tolist())


def test_numbers_give_numbers() -> None:
    """Catches arrays without an axis, which cannot be rounded or hashed, where plain numbers come in."""
    assert isinstance(detsample.fold_in(7, np.int64(0)), int)
    noise = detsample.gumbel_noise(1, 0, 3)
    assert isinstance(noise, float)
    assert noise == reference.gumbel_noise(1, 0, 3)
    assert detsample.gumbel_noise(np.array([1, 2]), 0, 3).shape == (2,)


# ---- one set of shapes and ranges for both


@pytest.mark.parametrize(
    ("topp_seed", "i", "shape"),
    [
        (np.array(7), 0, ()), (7, np.array(0), ()), (np.array(7), np.array(0), ()), (np.array(7), np.arange(3), (3,)),
        (np.array([7]), 0, (1,)), (np.array([7]), np.array(2), (1,)), (np.array([7]), np.arange(3), (3,)),
        (np.arange(3), np.array(-1, np.int32), (3,)), (np.zeros(0, int), np.array([1]), (0,)),
    ],
)  # fmt: skip
def test_shapes_of_seeds(path: Any, topp_seed: Any, i: Any, shape: tuple[int, ...]) -> None:
    """Catches kernels that make [1] of [], or that differ from the reference in what goes with what."""
    folded = np.asarray(path.fold_in(topp_seed, i))
    assert (folded.shape, folded.dtype) == (shape, np.int64)
    assert folded.tolist() == np.asarray(reference.fold_in(topp_seed, i)).tolist()


@pytest.mark.parametrize(
    ("topp_seed", "position", "token_ids", "shape"),
    [
        (1, 0, np.array(3), ()), (np.array(1), np.array(0, np.int32), np.array(3), ()),
        (np.arange(3), 0, np.array(3), (3,)), (np.arange(3), np.arange(3)[:, None], np.arange(2), (3, 2)),
        (np.array([1]), 0, np.arange(2), (1, 2)), (np.array([1]), 0, np.zeros((1, 2), int), (1, 2)),
        (np.zeros(0, int), 0, np.arange(2), (0, 2)), (1, 0, np.zeros((0, 2), int), (0, 2)),
    ],
)  # fmt: skip
def test_shapes_of_noise(path: Any, topp_seed: Any, position: Any, token_ids: Any, shape: tuple[int, ...]) -> None:
    """Catches kernels that refuse a single token id, or give it an axis that the reference does not."""
    noise = np.asarray(path.gumbel_noise(topp_seed, position, token_ids))
    assert (noise.shape, noise.dtype) == (shape, np.float64)
    assert noise.tolist() == np.asarray(reference.gumbel_noise(topp_seed, position, token_ids)).tolist()


TWO = np.zeros((2, 2), int)
BAD_SHAPES = [
    (np.array([1]), 0, TWO, r"topp_seed must .*\[2\].*got \[1\]"),
    (1, np.array([0]), TWO, r"position must .*\[2\].*got \[1\]"),
    (np.arange(3), np.array([0]), np.arange(2), r"position must .*\[3\].*got \[1\]"),
    (np.array([1]), np.arange(3), np.arange(2), r"position must .*\[1\].*got \[3\]"),
    (np.zeros((1, 2), int), 0, TWO, r"topp_seed must .*got \[1, 2\]"),
    (1, np.zeros((2, 1, 1), int), TWO, r"position must .*got \[2, 1, 1\]"),
    (1, 0, np.zeros((2, 2, 2), int), r"token_ids must .*got \[2, 2, 2\]"),
    (np.zeros(1 << 4, int), 0, np.zeros((1 << 31, 0), int), r"topp_seed must .*\[16\]"),
    (1, 0, np.zeros((1 << 31, 0), int), r"token_ids must have fewer than 2\^31 rows"),
]


@pytest.mark.parametrize(("topp_seed", "position", "token_ids", "said"), BAD_SHAPES)
def test_bad_shapes_of_noise(path: Any, topp_seed: Any, position: Any, token_ids: Any, said: str) -> None:
    """Catches a vector of one that kernels stretch over the rows and the reference does not."""
    with pytest.raises(ValueError, match=said):
        path.gumbel_noise(topp_seed, position, token_ids)


@pytest.mark.parametrize(
    ("topp_seed", "i", "said"),
    [
        (np.arange(3)[:, None], 0, r"topp_seed must .*got \[3, 1\]"),
        (np.arange(2)[:, None], np.arange(3), r"topp_seed must .*got \[2, 1\]"),
        (np.arange(3), np.arange(3)[:, None], r"i must .*got \[3, 1\]"),
        (np.arange(3), np.arange(4), r"topp_seed and i must .*\[3, 4\]"),
        (np.zeros(0, int), np.arange(3), r"topp_seed and i must .*\[0, 3\]"),
    ],
)
def test_bad_shapes_of_seeds(path: Any, topp_seed: Any, i: Any, said: str) -> None:
    """Catches shapes that one path broadcasts, the other flattens or refuses."""
    with pytest.raises(ValueError, match=said):
        path.fold_in(topp_seed, i)


@pytest.mark.parametrize("position", [-1, 2**63, 2**64 - 1, np.int8(-1), np.uint64(2**64 - 1)])
def test_positions_out_of_range(path: Any, position: Any) -> None:
    """Catches kernels that return the noise of no position for a number that the host can see is none."""
    with pytest.raises(ValueError, match=f"position must be between 0 and {INT64.max}, got {int(position)}"):
        path.gumbel_noise(1, position, np.arange(2))


@pytest.mark.parametrize(
    ("position", "token_ids", "said"),
    [
        (np.array([0, -1]), np.arange(2), "position must .*got -1"),
        (np.array(-5), np.arange(2), "position must .*got -5"),
        (0, np.array([0, -1]), "token_ids must .*got -1"),
        (0, np.array(2**21), "token_ids must .*got 2097152"),
    ],
)
def test_values_out_of_range_on_the_host(path: Any, position: Any, token_ids: Any, said: str) -> None:
    """Catches a check of the host's data that only one of the two has. A GPU's data is not read."""
    if path is kernel_path and kernel_path.GPU:
        pytest.skip("the values are on the GPU")
    with pytest.raises(ValueError, match=said):
        path.gumbel_noise(1, position, token_ids)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, bool])
def test_types_of_elements(path: Any, kind: Any) -> None:
    """Catches element types that are taken on the CPU and refused, or read as other bits, on a GPU."""
    two = np.zeros(2, kind)
    for call, name in (
        (lambda: path.gumbel_noise(two, 0, np.arange(2)), "topp_seed"),
        (lambda: path.gumbel_noise(0, two, np.arange(2)), "position"),
        (lambda: path.gumbel_noise(0, 0, two), "token_ids"),
        (lambda: path.fold_in(two, np.arange(2)), "topp_seed"),
        (lambda: path.fold_in(np.arange(2), two), "i"),
    ):
        types = "int64 or int32" if name in ("position", "token_ids") else "int64 or int32 or uint64 or uint32"
        with pytest.raises(TypeError, match=f"{name} must be of type {types}, got {np.dtype(kind).name}"):
            call()


@pytest.mark.parametrize("number", [2**21, 2**63, 2**64 - 1, [2**64 - 1], -1])
def test_token_ids_as_numbers_out_of_range(number: Any) -> None:
    """Catches an unsigned number that is made signed before it is judged: the message then shows another."""
    got = number[-1] if isinstance(number, list) else number
    with pytest.raises(ValueError, match=f"token_ids must be between 0 and 2097151, got {got}"):
        detsample.gumbel_noise(1, 0, number)


# ---- many tokens


@pytest.fixture
def streams() -> Any:
    """The module that launches the kernels."""
    pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")
    kernel_path.prepare_interpreter()
    return importlib.import_module("detsample.noise.on_gpu")


@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (70_000, 257), (1, 65_535 * 256), (1, 65_535 * 256 + 1), (3, 1 << 25), (1, 1 << 31)]
)
def test_a_grid_that_cuda_can_launch(
    streams: Any, monkeypatch: pytest.MonkeyPatch, rows: int, columns: int
) -> None:
    """Catches blocks of columns on the one axis that holds 65,535: more than 16.7 million ids would not launch."""
    seen = []
    monkeypatch.setattr(streams, "launcher", lambda device: lambda kernel, grid, *rest, **more: seen.append(grid))
    seeds = np.broadcast_to(np.int64(1), (rows,))
    ids = np.broadcast_to(np.int32(1), (columns,))
    if columns >= 1 << 31:  # twenty gigabytes: only the grid
        seen.append(streams.grid(rows, columns))
    else:
        streams.gumbel_noise(read_noise(detsample.frameworks.of(ids), seeds, 0, ids))
    x, *rest = seen[0]
    assert x == rows
    assert all(1 <= axis <= 65_535 for axis in rest)
    assert (np.prod(rest, dtype=np.int64) - 1) * 256 >= columns - 256


def test_noise_on_several_layers(streams: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches columns that are left out, or written twice, where a row's blocks need a second axis."""
    monkeypatch.setattr(streams, "MOST_ON_AN_AXIS", 3)
    ids = np.arange(2000)  # eight blocks on three layers of three, the last with one too many
    assert streams.grid(2, ids.size) == (2, 3, 3)
    found = kernel_path.gumbel_noise(np.array([5, 6]), 7, ids)
    assert np.array_equal(found, reference.gumbel_noise(np.array([5, 6]), 7, ids))
