"""What torch writes down of a call: one node that does what the call does, never its result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import detsample
from detsample import rollout
from detsample.sampler.output import Csr

torch = pytest.importorskip("torch", reason="torch is not installed: its compilers are not tested here")


def make_fx(call: Any, **how: Any) -> Any:
    """torch's, which takes seconds to import: not where tests are collected."""
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(call, **how)


def logits(seed: int, rows: int = 3, vocab: int = 70) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, vocab), dtype=np.float32) * 3)


SEEDS = torch.tensor([5, -6, 1 << 40])


def draw(x: Any, seeds: Any, position: Any) -> tuple[Any, ...]:
    out = detsample.sample(x, seeds, position=position, temperature=0.8, top_k=20, top_p=0.9, return_log_z=True)
    bits = detsample.sample(x, seeds, position=position, min_p=0.1, return_mask="bits").mask
    return out.token_ids, out.logprobs, out.log_z, out.num_kept, out.status, bits, detsample.mask(x, top_k=3).mask


def equal(found: Any, due: Any) -> bool:
    """Bit for bit."""
    flat = [t for x in due for t in ((x.row_offsets, x.token_ids) if isinstance(x, Csr) else (x,))]
    pairs = list(zip(found, flat, strict=True))
    return all(a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes() for a, b in pairs)


def test_make_fx_writes_no_constants_down() -> None:
    """Defect caught: the tokens of the example are in the graph, and every later call returns them."""
    for mode in ("real", "fake", "symbolic"):
        graph = make_fx(draw, tracing_mode=mode)(logits(1), SEEDS, 4)
        for number in (1, 2):
            assert equal(graph(logits(number), SEEDS, 4), draw(logits(number), SEEDS, 4)), mode


def test_compile_in_one_graph_without_doing_it_again() -> None:
    """Defect caught: Dynamo goes through the reference, or a new position, seed or row compiles all anew."""
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    compiled = torch.compile(draw, fullgraph=True, backend=counter)
    for number in range(6):
        assert equal(compiled(logits(number), SEEDS + number, number), draw(logits(number), SEEDS + number, number))
    assert counter.frame_count <= 2  # the second for a position that is no constant


def test_export_of_a_model_that_draws() -> None:
    """Defect caught: an exported program cannot have a sampler in it, or has the example's tokens."""

    class Model(torch.nn.Module):
        def forward(self, x: Any, seeds: Any, position: Any) -> Any:
            return detsample.sample(x * 2, seeds, position=position, top_p=0.9).token_ids

    position = torch.tensor([1, 2, 3])
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(
        Model(), (logits(1), SEEDS, position), dynamic_shapes=({0: rows}, {0: rows}, {0: rows})
    )
    for count in (3, 5):
        x, seeds, at = logits(7, count), torch.arange(count), torch.arange(count) + 9
        due = detsample.sample(x * 2, seeds, position=at, top_p=0.9).token_ids
        assert torch.equal(program.module()(x, seeds, at), due)


def test_a_csr_mask_in_a_graph() -> None:
    """Defect caught: a result whose size hangs on the numbers has the example's size."""

    def csr(x: Any) -> Any:
        return detsample.mask(x, min_p=0.1, kind="csr").mask

    found = make_fx(lambda x: (csr(x).row_offsets, csr(x).token_ids), tracing_mode="symbolic")(logits(1))
    for number in (1, 2):
        assert equal(found(logits(number)), [csr(logits(number))])


def test_noise_and_seeds_in_a_graph() -> None:
    """Defect caught: the noise of the example is a constant; a shape that is not that of the call."""

    def both(seeds: Any, ids: Any) -> tuple[Any, ...]:
        return (
            detsample.gumbel_noise(seeds, 3, ids), detsample.gumbel_noise(7, 3, ids), detsample.fold_in(seeds, 4),
            detsample.fold_in(4, seeds), detsample.fold_in(seeds[:1], seeds), detsample.fold_in(seeds, seeds[0]),
        )  # fmt: skip

    ids = torch.arange(9)
    recorded = make_fx(both, tracing_mode="fake")(SEEDS, ids)
    compiled = torch.compile(both, fullgraph=True, backend="eager")
    for seeds in (SEEDS, SEEDS + 1):
        assert equal(recorded(seeds, ids), both(seeds, ids))
        assert equal(compiled(seeds, ids), both(seeds, ids))


def test_a_graph_raises_as_the_call_does() -> None:
    """Defect caught: a bad argument that only the eager call refuses."""
    compiled = torch.compile(lambda x, p: detsample.sample(x, SEEDS, top_p=p).token_ids, backend="eager")
    with pytest.raises(ValueError, match="top_p must be"):
        compiled(logits(1), 95.0)
    graph = make_fx(lambda x, s, t: detsample.sample(x, s, temperature=t, check=True).token_ids, tracing_mode="fake")
    program = graph(logits(1), SEEDS, torch.ones(3))
    with pytest.raises(ValueError, match="row 1"):
        program(logits(1), SEEDS, torch.tensor([1.0, -1.0, 1.0]))


BETWEEN_GRAPHS = {
    "plan": lambda x, s: detsample.plan(x, s, top_p=0.9)(x).token_ids,
    "margin": lambda x, s: detsample.margin(x, s).margin,
    "draw": lambda x, s: rollout.draw(x, s, top_p=0.9).entropy,
    "observe": lambda x, s: rollout.observe(x, s, torch.full((3, 3), -1, dtype=torch.int32)).raw_logprobs,
    "kept_logprobs": lambda x, s: rollout.kept_logprobs(x, torch.ones(3, 70, dtype=torch.bool), s.abs() % 70).logprobs,
}


@pytest.mark.full("Dynamo takes seconds for each function", every=4)
@pytest.mark.parametrize("name", BETWEEN_GRAPHS)
def test_what_is_no_operator_is_between_the_graphs_or_an_error(name: str) -> None:
    """Defect caught: Dynamo dies in the reference, or a result becomes a constant of the graph without a word."""
    call = BETWEEN_GRAPHS[name]
    compiled = torch.compile(lambda x, s: call(x * 2, s) + 1, backend="eager")
    for number in range(3):
        due = call(logits(number) * 2, SEEDS + number) + 1
        assert equal([compiled(logits(number), SEEDS + number)], [due])
    torch._dynamo.reset()
    with pytest.raises(Exception, match=r"between two graphs|compiler\.disable"):
        torch.compile(call, backend="eager", fullgraph=True)(logits(1), SEEDS)
    for mode in ("real", "fake"):
        with pytest.raises(TypeError, match=f"{name} cannot be in a graph"):
            make_fx(call, tracing_mode=mode)(logits(1), SEEDS)


def test_the_operators_keep_torchs_rules() -> None:
    """Defect caught: a fake result of another shape or type than the real one, an input that is returned."""
    from detsample.sampler import recorded

    seeds = (SEEDS, 0, None, 4)
    filters = (None, 0.8, None, 20, torch.full((3,), 0.9), 0.0, None, 0.0, "top_k_first")
    sets = torch.full((3, -(-logits(1).shape[1] // 32)), 5, dtype=torch.int32)
    for kind, allowed in (("", sets), ("bool", None), ("bits", sets)):
        asked = (True, True, kind, kind != "", False, False)
        torch.library.opcheck(recorded._sample, (logits(1), *seeds, *filters, allowed, *asked))
        if kind:
            torch.library.opcheck(recorded._mask, (logits(1), *filters, allowed, kind, True, False))
