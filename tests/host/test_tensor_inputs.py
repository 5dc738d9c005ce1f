"""Tensors whose memory nobody here can read: refused, by name."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import detsample
from detsample import frameworks

# ---- torch

TORCH_KINDS = {
    "meta": "on a CUDA device or the CPU, got .*meta", "sparse": "strided.*sparse_coo", "csr": "strided.*sparse_csr",
    "mkldnn": "strided.*mkldnn", "negative": "negative bit", "fake": "memory of its own.*FakeTensor",
    "nested": "strided.*nested", "jagged": "strided.*nested",
}  # fmt: skip


def odd(torch: Any, kind: str, shape: tuple[int, ...], dtype: Any) -> Any:
    """A torch tensor of ones that is not plain memory."""
    ones = torch.ones(shape, dtype=dtype)
    if kind == "fake":
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode():
            return torch.ones(shape, dtype=dtype)
    if kind in ("nested", "jagged"):
        layout = torch.jagged if kind == "jagged" else torch.strided
        return torch.nested.nested_tensor([torch.ones(3, dtype=dtype), torch.ones(2, dtype=dtype)], layout=layout)
    changes: dict[str, Callable[[], Any]] = {
        "meta": lambda: ones.to("meta"),
        "sparse": ones.to_sparse,
        "csr": ones.to_sparse_csr,
        "mkldnn": ones.to_mkldnn,
        "negative": lambda: torch._neg_view(ones),
    }
    return changes[kind]()


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed")


@pytest.mark.filterwarnings("ignore")  # sparse and nested tensors are in beta, says torch
@pytest.mark.parametrize("kind", TORCH_KINDS)
def test_odd_logits(torch: Any, kind: str) -> None:
    """Catches logits of a kind without strided memory whose error, torch's own or ours, does not name them."""
    logits = odd(torch, kind, (2, 3), torch.float32)
    for call in (lambda: detsample.sample(logits, 1), lambda: detsample.mask(logits)):
        with pytest.raises(TypeError, match=f"^logits must be .*{TORCH_KINDS[kind]}"):
            call()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["meta", "sparse", "negative", "fake", "nested"])
@pytest.mark.parametrize("name", ["topp_seed", "top_p"])
def test_odd_parameters(torch: Any, kind: str, name: str) -> None:
    """Catches the same of a parameter, or a negative bit that is overlooked: the memory has the other sign."""
    vector = odd(torch, kind, (2,), torch.int64 if name == "topp_seed" else torch.float32)
    with pytest.raises(TypeError, match=f"^{name} must be .*{TORCH_KINDS[kind]}"):
        detsample.sample(torch.ones(2, 3), **{"topp_seed": 1, name: vector})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["meta", "sparse", "negative", "fake", "nested"])
def test_odd_streams(torch: Any, kind: str) -> None:
    """Catches the same of the arguments of `gumbel_noise` and `fold_in`."""
    vector, two = odd(torch, kind, (2,), torch.int64), torch.arange(2)
    for call, name in (
        (lambda: detsample.gumbel_noise(vector, 0, two), "topp_seed"),
        (lambda: detsample.gumbel_noise(0, vector, two), "position"),
        (lambda: detsample.gumbel_noise(0, 0, vector), "token_ids"),
        (lambda: detsample.fold_in(vector, 0), "topp_seed"),
        (lambda: detsample.fold_in(two, vector), "i"),
        (lambda: detsample.fold_in(0, vector), "i"),
    ):
        with pytest.raises(TypeError, match=f"^{name} must be .*{TORCH_KINDS[kind]}"):
            call()


def test_inside_vmap(torch: Any) -> None:
    """Catches torch.vmap's stand-ins for rows, which torch refuses with words about storage."""
    with pytest.raises(TypeError, match=r"^logits must be a tensor with memory of its own"):
        torch.vmap(lambda x: detsample.sample(x, 1).token_ids)(torch.ones(2, 3, 4))


def test_plain_tensors_are_taken(torch: Any) -> None:
    """Catches a check that refuses what is right: no elements, a gradient, a view, a resolved negation."""
    ones = torch.ones(2, 3)
    for logits in (ones[:0], ones.clone().requires_grad_(), ones.t().contiguous().t(), ones.expand(2, 3), ones[:, 1:],
                   torch._neg_view(ones).resolve_neg()):  # fmt: skip
        out = detsample.sample(logits, torch.arange(len(logits)), top_p=torch.ones(len(logits)))
        assert out.status.tolist() == [0] * len(logits)


def test_a_gpu_tensor_with_the_negative_bit(torch: Any) -> None:
    """Catches a vector on a GPU whose negation is still to be done: the kernels would read the other sign."""
    framework = frameworks.named("torch")
    of = {
        "is_cuda": True, "layout": torch.strided, "is_nested": False, "dtype": torch.float32,
        "shape": torch.Size((4,)), "device": torch.device("cuda", 0), "data_ptr": lambda: 256,
        "stride": lambda: (1,), "get_device": lambda: 0, "is_neg": lambda: False,
    }  # fmt: skip
    shape, dtype, device, strides, pointer = framework.describe(SimpleNamespace(**of))
    assert (tuple(shape), dtype, device, strides, pointer) == ((4,), "float32", ("gpu", 0), (1,), 256)
    for changed in ({"is_neg": lambda: True}, {"data_ptr": lambda: 0}):
        with pytest.raises(frameworks.UnusableTensor, match=r"negative bit|memory of its own"):
            framework.describe(SimpleNamespace(**of | changed))


# ---- Paddle


@pytest.mark.paddles_own_kernels
@pytest.mark.parametrize("kind", ["coo", "csr"])
def test_sparse_tensors_of_paddle(kind: str) -> None:
    """Catches a sparse tensor, which has a shape and no strides: an IndexError from deep inside."""
    paddle = pytest.importorskip("paddle", reason="Paddle is not installed")
    if kind == "coo":
        sparse = paddle.sparse.sparse_coo_tensor([[0, 1], [1, 2]], [1.0, 2.0], [2, 3])
    else:
        sparse = paddle.sparse.sparse_csr_tensor([0, 1, 2], [0, 1], [1.0, 2.0], [2, 3])
    with pytest.raises(TypeError, match=r"^logits must be a dense tensor"):
        detsample.sample(sparse, 1)
    with pytest.raises(TypeError, match=r"^top_p must be a dense tensor"):
        detsample.sample(paddle.ones([2, 3]), 1, top_p=sparse)
    with pytest.raises(TypeError, match=r"^topp_seed must be a dense tensor"):
        detsample.fold_in(sparse, 0)


# ---- the command line's seeds


def test_a_file_of_seeds_that_is_another(tmp_path: Any, run: Callable[..., tuple[int, str, str]]) -> None:
    """Catches a .npz under the name of a .npy: a traceback and status 1 instead of a line and status 2."""
    logits, seeds = tmp_path / "logits.npy", tmp_path / "seeds.npy"
    np.save(logits, np.zeros((2, 3), np.float32))
    with seeds.open("wb") as file:
        np.savez(file, one=np.arange(2), two=np.arange(2))
    status, printed, said = run("sample", logits, "--seed-file", seeds)
    assert (status, printed) == (2, "")
    assert f"{seeds}: seeds must be one array in a .npy" in said
    assert said.count("\n") == 1
