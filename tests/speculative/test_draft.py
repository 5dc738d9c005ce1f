"""`speculative.draft` of no positions: what a drafter that is switched off has to draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detsample import speculative

F32 = np.float32


@pytest.mark.parametrize("name", ["numpy", "torch", "paddle"])
def test_no_positions(name: str) -> None:
    """Catches "K must be between 1 and 0, got 0": `verify` takes K = 0, so a loop over any K must not end at the draft.
    """
    framework = pytest.importorskip(name, reason=f"{name} is not installed")
    tensor = getattr(framework, {"numpy": "array", "torch": "tensor", "paddle": "to_tensor"}[name])
    seeds, logits = tensor(np.array([7, 8])), tensor(np.zeros((2, 1, 9), F32))
    out = speculative.draft(logits[:, :0], seeds, position=tensor(np.array([3, 4])), top_p=0.9, return_logprobs=True)
    for found, dtype in ((out.token_ids, "int64"), (out.status, "int32"), (out.logprobs, "float32")):
        assert type(found) is type(logits)
        assert tuple(found.shape) == (2, 0)
        assert str(found.dtype).rpartition(".")[2] == dtype
    assert speculative.draft(logits[:, :0], seeds, position=3).logprobs is None
    verified = speculative.verify(logits, out.token_ids, 0, seeds, position=3)
    assert tuple(verified.token_ids.shape) == (2, 1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"logits": np.zeros((2, 0, 9))}, TypeError, "logits must be float32, bfloat16 or float16, got float64"),
        ({"logits": np.zeros((2, 0, 0), F32)}, ValueError, "logits must have between 1 and 2^21 columns, got 0"),
        ({"topp_seed": np.arange(3)}, ValueError, r"topp_seed must be a number or have shape \[2\]"),
        ({"position": -1}, ValueError, "position must be between 0 and"),
        ({"temperature": -1.0}, ValueError, "temperature must be finite and at least 0"),
    ],
)
def test_no_positions_and_bad_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    """Catches an argument that goes unchecked where nothing is drawn, and fails with the first K above 0."""
    given: dict[str, Any] = {"logits": np.zeros((2, 0, 9), F32), "topp_seed": 7, "position": 0} | change
    with pytest.raises(error, match=message.replace("^", r"\^")):
        speculative.draft(**given)
