"""What `paddle.jit.to_static` makes of a call: the same call each time, or an error; never its result as a constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import detsample
from detsample import rollout

paddle = pytest.importorskip("paddle", reason="Paddle is not installed: its compiler is not tested here")
pytest.importorskip("paddle.jit.sot", reason="this Paddle has no translator of bytecode")

CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "sample": lambda x, s: detsample.sample(x, s, top_p=0.9).token_ids,
    "mask": lambda x, s: detsample.mask(x, top_p=0.9).mask,
    "plan": lambda x, s: detsample.plan(x, s, top_p=0.9)(x).token_ids,
    "gumbel_noise": lambda x, s: detsample.gumbel_noise(s, 3, paddle.arange(9)),
    "fold_in": lambda x, s: detsample.fold_in(s, 4),
    "margin": lambda x, s: detsample.margin(x, s).margin,
    "draw": lambda x, s: rollout.draw(x, s, top_p=0.9).token_ids,
}


def given(seed: int) -> tuple[Any, Any]:
    x = np.random.default_rng(seed).standard_normal((3, 70), dtype=np.float32)
    return paddle.to_tensor(x * 3, place="cpu"), paddle.to_tensor(np.array([5, -6, 1 << 40]) + seed, place="cpu")


@pytest.mark.full("more calls that are translated", every=4)
@pytest.mark.parametrize("name", CALLS)
def test_the_call_is_done_each_time(name: str) -> None:
    """Defect caught: the translator goes through the reference and dies there, or has the first call's tokens."""
    call = CALLS[name]

    def model(x: Any, seeds: Any) -> Any:
        return call(x * 2, seeds + 1)

    translated = paddle.jit.to_static(model, full_graph=False)
    for number in range(3):
        assert translated(*given(number)).numpy().tobytes() == model(*given(number)).numpy().tobytes()


@pytest.mark.parametrize("name", CALLS)
def test_one_graph_for_everything_is_refused(name: str) -> None:
    """Defect caught: an error from within, of which nobody knows what it means."""
    call = CALLS[name]

    def model(x: Any, seeds: Any) -> Any:  # a `def`: of a lambda's source, Paddle reads the statement around it
        return call(x, seeds)

    with pytest.raises(TypeError, match="a variable of a graph that Paddle builds: call detsample outside of it"):
        paddle.jit.to_static(model, full_graph=True)(*given(1))
