"""Errors name the argument as the caller knows it, what was expected and what came."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import detsample
from detsample import reference, rollout

F32 = np.float32
LOGITS, DRAFTS = np.zeros((2, 3, 4), F32), np.zeros((2, 2), np.int64)
NODES, PARENTS = np.zeros((2, 3), np.int64), np.array([[-1, 0, 0], [-1, 0, 0]])
PROBS = np.full((2, 2, 4), 0.25, F32)


def chain(logits: Any = LOGITS, num_draft: Any = 2, **how: Any) -> Any:
    return reference.verify(logits, DRAFTS, num_draft, 5, position=0, **how)


def tree(logits: Any = LOGITS, **how: Any) -> Any:
    return reference.verify_tree(logits, NODES, PARENTS, 5, position=0, **how)


def says(error: type[Exception], message: str) -> Any:
    return pytest.raises(error, match="^" + re.escape(message))


COUNTS: list[tuple[Callable[..., Any], str]] = [(chain, "num_draft"), (tree, "num_nodes")]


@pytest.mark.parametrize(("verify", "name"), COUNTS, ids=["chain", "tree"])
def test_counts_are_named_as_they_were_given(verify: Callable[..., Any], name: str) -> None:
    """Catches `verify_tree` complaining of `num_draft`, which it does not have."""
    with says(ValueError, f"{name}: expected an integer or shape [2], got shape [3]"):
        verify(**{name: np.array([1, 2, 3])})
    with says(TypeError, f"{name}: expected an integer or a NumPy array of integers, got list"):
        verify(**{name: [1, 2]})
    with says(TypeError, f"{name}: expected int64 or int32, got float32"):
        verify(**{name: np.ones(2, F32)})


@pytest.mark.parametrize("verify", [chain, tree])
@pytest.mark.parametrize(
    ("logits", "offsets", "error", "message"),
    [
        (LOGITS.astype(np.float64), None, TypeError, "expected float32, float16 or bfloat16, got float64"),
        (LOGITS.tolist(), None, TypeError, "expected a NumPy array, got list"),
        (LOGITS[:, :2], None, ValueError, "expected shape [B, 3, V] without row_offsets, got [2, 2, 4]"),
        (LOGITS[0], None, ValueError, "expected shape [B, 3, V] without row_offsets, got [3, 4]"),
        (LOGITS, np.array([0, 3, 6]), ValueError, "expected shape [R, V] with row_offsets, got [2, 3, 4]"),
        (np.zeros((2, 3, 0), F32), None, ValueError, "expected 1 <= V <= 2097152, got V = 0"),
        (np.zeros((6, 0), F32), np.array([0, 3, 6]), ValueError, "expected 1 <= V <= 2097152, got V = 0"),
    ],
)
def test_the_targets_logits_are_named_target_logits(
    verify: Callable[..., Any], logits: Any, offsets: Any, error: type[Exception], message: str
) -> None:
    """Catches an error about `logits`, which may be the drafter's, about another argument, or an AttributeError."""
    with says(error, f"target_logits: {message}"):
        verify(logits, row_offsets=offsets)


@pytest.mark.parametrize("verify", [chain, tree])
def test_more_rows_than_any_call_may_have_are_refused(verify: Callable[..., Any]) -> None:
    """Catches a limit of `sample` on the number of rows that verification does not know, or names otherwise."""
    many = np.broadcast_to(np.zeros((1, 4), F32), (1 << 31, 4))
    with says(ValueError, f"target_logits: expected B < 2^31, got B = {1 << 31}"):
        verify(many, row_offsets=np.array([0, 3, 6]))


@pytest.mark.parametrize("dtype", [F32, np.float16, ">f4"])
def test_the_types_that_were_allowed_still_are(dtype: Any) -> None:
    """Catches a check that refuses half precision or another byte order."""
    assert chain(LOGITS.astype(dtype)).status.tolist() == [0, 0]
    how = {"method": "rejection", "draft_probs": PROBS.astype(dtype)}
    assert chain(LOGITS.astype(dtype), **how).status.tolist() == [0, 0]


def test_bfloat16_is_allowed() -> None:
    """Catches a check that does not know the type that NumPy has from elsewhere."""
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    how = {"method": "rejection", "draft_logits": PROBS.astype(bfloat16)}
    assert chain(LOGITS.astype(bfloat16), **how).status.tolist() == [0, 0]


@pytest.mark.parametrize("name", ["draft_probs", "draft_logits"])
@pytest.mark.parametrize("dtype", ["int64", "float64", "<U1"])
def test_the_drafters_numbers_are_named(name: str, dtype: str) -> None:
    """Catches integers taken for probabilities, as the kernels do not, and "could not convert string to float"."""
    with says(TypeError, f"{name}: expected float32, float16 or bfloat16, got {dtype}"):
        chain(method="rejection", **{name: np.zeros((2, 2, 4), dtype)})


def drawn() -> rollout.Draw:
    return rollout.draw(np.zeros((3, 4), F32), np.arange(3))


@pytest.mark.parametrize(("sequence", "kind"), [("x", "builtins.str"), (None, "builtins.NoneType")])
def test_a_records_sequence_is_named(sequence: Any, kind: str) -> None:
    """Catches "tensor must be...", where the caller gave no argument of that name."""
    with says(TypeError, f"sequence must be a Paddle tensor, a torch tensor or a NumPy array, got {kind}"):
        rollout.Record.of(drawn(), sequence)


def test_what_is_no_draw_or_no_record_is_named() -> None:
    """Catches "object has no attribute 'token_ids'" where a record is given for a draw, or the other way round."""
    record = rollout.Record.of(drawn(), 0)
    with says(TypeError, "draw must be a Draw, got Record"):
        rollout.Record.of(record, 0)  # type: ignore[arg-type]
    with says(TypeError, "record must be a Record, got Draw"):
        rollout.replay(drawn(), np.zeros((3, 4), F32))  # type: ignore[arg-type]


@pytest.mark.parametrize("tokens", ["a", 2.5, None, True])
def test_the_size_of_a_batch_is_named(tokens: Any, tmp_path: Path) -> None:
    """Catches a bare "'<' not supported", and sizes that are no integers and pass."""
    pytest.importorskip("pyarrow", reason="no pyarrow for this NumPy: no record is written", exc_type=ImportError)
    with says(TypeError, f"batch_tokens must be an integer, got {tokens!r}"):
        rollout.Writer(tmp_path / "new", batch_tokens=tokens)
    assert not (tmp_path / "new").exists()


def test_a_writer_takes_integers_of_numpy(tmp_path: Path) -> None:
    """Catches a size that was computed with NumPy and is refused."""
    pytest.importorskip("pyarrow", reason="no pyarrow for this NumPy: no record is written", exc_type=ImportError)
    with rollout.Writer(tmp_path, batch_tokens=np.int64(3)) as writer:  # type: ignore[arg-type]
        writer.append(drawn(), sequence=0)
        assert writer.durable == 3


def test_a_warmup_names_the_framework() -> None:
    """Catches "numpy must find GPU 0": NumPy never will, and the argument is called `framework`."""
    with says(ValueError, "framework must be 'torch' or 'paddle', got 'numpy'"):
        detsample.warmup("numpy")


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"index": "a"}, TypeError, "index must be an integer, got 'a'"),
        ({"index": 2}, ValueError, "index must be between 0 and 1, got 2"),
        ({"index": -1}, ValueError, "index must be between 0 and 1, got -1"),
        ({"processes": "x"}, TypeError, "processes must be an integer, got 'x'"),
        ({"processes": -1}, ValueError, "processes must be between 0 and 65536, got -1"),
        ({"dtypes": "bfloat16"}, TypeError, "dtypes must be a sequence of names, got 'bfloat16'"),
        ({"masks": "bits"}, TypeError, "masks must be a sequence of names, got 'bits'"),
        ({"allowed": "no"}, TypeError, "allowed must be True or False, got 'no'"),
    ],
)
def test_a_warmup_names_its_other_arguments(
    how: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a bare "'<=' not supported", and a name that is read letter by letter."""
    stand_in_for_gpus(monkeypatch, 2)
    with says(error, message):
        detsample.warmup("torch", **how)


def test_a_warmup_without_a_gpu_names_the_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an error about the GPU's number where there is no GPU at all."""
    stand_in_for_gpus(monkeypatch, 0)
    with says(ValueError, "framework must find a GPU, torch finds none"):
        detsample.warmup("torch")


def stand_in_for_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """A framework that finds so many GPUs, and nothing else: no test here goes on to launch something."""
    adapter = type("Adapter", (), {"gpu_count": staticmethod(lambda: count)})
    monkeypatch.setattr("detsample.frameworks.named", lambda name: adapter)
