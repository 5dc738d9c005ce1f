"""FastDeploy: our functions under its names, on Paddle tensors, and routed in a stand-in of its sampler module.

FastDeploy itself does not install on a machine without its own index and a GPU. Its names, parameters and defaults are
data here (``data/fastdeploy_signatures.json``); the stand-in calls them in its samplers' order.
"""

from __future__ import annotations

import doctest
import gc
import inspect
import json
import os
import sys
import types
import weakref
from typing import Any

import detsample.reference as reference
import numpy as np
import pytest
from detsample.reference.probability import log_probabilities
from paths import DATA

import detsample

paddle = pytest.importorskip("paddle", reason="Paddle is not installed: the FastDeploy integration is NOT tested here")

from detsample.integrations import fastdeploy  # noqa: E402
from detsample.integrations.fastdeploy import masking, probabilities, routing, speculative, step  # noqa: E402

FACTS = json.loads((DATA / "fastdeploy_signatures.json").read_text())
PINNED = FACTS["functions"]
ON_GPU = bool(
    os.environ.get("DETSAMPLE_TEST_FRAMEWORK") == "paddle"
    and paddle.device.is_compiled_with_cuda()
    and paddle.device.cuda.device_count()
)
PLACE = paddle.CUDAPlace(0) if ON_GPU else paddle.CPUPlace()
INF = float("inf")


def tensor(values: Any, dtype: str = "float32") -> Any:
    return paddle.to_tensor(np.asarray(values), dtype=dtype, place=PLACE)


def bits(x: Any) -> list[Any]:
    """The bits of floats, NaNs alike."""
    array = np.asarray(x.numpy() if hasattr(x, "numpy") else x, np.float32)
    return np.where(np.isnan(array), np.int32(-1), array.view(np.int32)).tolist()


def some_probabilities(rows: int, vocab: int, seed: int) -> np.ndarray:
    """A softmax with ties and zeros in it."""
    rng = np.random.default_rng(seed)
    x = np.round(rng.standard_normal((rows, vocab)) * 6) / 2
    x[rng.random(x.shape) < 0.1] = -np.inf
    x[:, 0] = 0
    p = np.exp(x - x.max(axis=1, keepdims=True))
    return (p / p.sum(axis=1, keepdims=True)).astype(np.float32)


# ---- signatures


@pytest.mark.parametrize("name", PINNED)
def test_signatures_are_fastdeploys(name: str) -> None:
    """Defect caught: a name that FastDeploy's call sites could not call; a default that is another one."""
    ours = list(inspect.signature(getattr(fastdeploy, name)).parameters.values())
    positional = [p for p in ours if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [p.name for p in positional] == [pinned[0] for pinned in PINNED[name]["parameters"]]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in ours[len(positional) :])
    for p, pinned in zip(positional, PINNED[name]["parameters"], strict=True):
        if len(pinned) == 2:
            assert p.default == (float(pinned[1]) if p.name == "mask_value" else pinned[1]), p.name
    assert routing.expected(name) == [pinned[0] for pinned in PINNED[name]["parameters"]]


def test_known_revisions_have_the_names_that_the_routing_is_written_for() -> None:
    """Defect caught: a revision that is accepted although its sampler calls other functions, in another order."""
    revision_of = {sha[:8]: name for name, sha in FACTS["revisions"].items()}
    for known in fastdeploy.KNOWN:
        has = {name for name, facts in PINNED.items() if revision_of[known[:8]] in facts["in"]}
        assert has >= {*routing.REQUIRED, "apply_top_k_top_p_triton", "_random_sample", "build_sampling_params"}


# ---- from logits


@pytest.mark.paddles_own_kernels
def test_masking_in_place_with_rows_off_beside_rows_on() -> None:
    """Defect caught: top_k 0 or top_p 1 that breaks its row, or a neighbour's; ties that are all kept."""
    logits = np.float32([[3, 3, 3, 1, -INF], [0, 1, 2, 3, 4], [5, 5, 5, 5, 5], [1, 2, 3, 4, 5]])
    k, p = np.int32([2, 0, 3, -1]), np.float32([1.0, 0.7, 1.0, 2.0])
    given = tensor(logits)
    out, mask = fastdeploy.apply_top_k_top_p_triton(given, tensor(k, "int32"), tensor(p), return_mask=True)
    due = reference.mask(logits, top_k=k, top_p=p).mask
    assert out is given
    assert mask.dtype == paddle.bool
    assert mask.numpy().tolist() == due.tolist()
    assert bits(given) == bits(np.where(due, logits, -INF))
    assert due.sum(axis=1).tolist() == [2, 2, 3, 5]


@pytest.mark.paddles_own_kernels
def test_masking_a_view_leaves_its_surroundings() -> None:
    """Defect caught: rows addressed by the width in place of the stride; a copy that is masked in place of the view."""
    padded = np.random.default_rng(0).standard_normal((3, 40)).astype(np.float32)
    whole = tensor(padded)
    fastdeploy.apply_top_k_top_p_triton(whole[:, :31], tensor([4, 1, 0], "int64"), tensor([0.9, 1.0, 0.5]))
    due = reference.mask(padded[:, :31], top_k=np.int64([4, 1, 0]), top_p=np.float32([0.9, 1, 0.5])).mask
    assert bits(whole[:, :31]) == bits(np.where(due, padded[:, :31], -INF))
    assert bits(whole[:, 31:]) == bits(padded[:, 31:])


@pytest.mark.paddles_own_kernels
def test_masking_values_and_invalid_rows() -> None:
    """Defect caught: excluded tokens that a mask value brings back; an invalid row that a softmax would then hide."""
    logits = np.float32([[1, -INF, 3], [np.nan, 1, 2], [-INF, -INF, -INF], [INF, 0, 0]])
    given = tensor(logits)
    _, mask = fastdeploy.apply_top_k_top_p_triton(given, tensor([1, 1, 1, 1], "int32"), None, -9.0, True)
    assert bits(given) == bits(np.float32([[-9, -INF, 3], *logits[1:].tolist()]))
    assert mask.numpy().sum(axis=1).tolist() == [1, 0, 0, 0]
    untouched = tensor(logits)
    assert fastdeploy.apply_top_k_top_p_triton(untouched, None, None) is untouched
    assert bits(untouched) == bits(logits)


def test_masking_refuses_what_does_not_fit() -> None:
    """Defect caught: an error from somewhere inside, or none."""
    with pytest.raises(TypeError, match="logits must be float32"):
        fastdeploy.apply_top_k_top_p_triton(tensor([[1.0]], "float64"), None, None)
    with pytest.raises(ValueError, match="k must have shape"):
        fastdeploy.apply_top_k_top_p_triton(tensor([[1.0], [2.0]]), tensor([1], "int32"), None)


# ---- from probabilities


def test_draws_are_those_of_the_logits_of_the_probabilities() -> None:
    """Defect caught: seeds of other rows; noise that depends on the batch; a token of probability 0."""
    p = some_probabilities(6, 1000, 1)
    seeds = np.arange(-3, 7, dtype=np.int64)[:, None]  # more than there are rows, as FastDeploy keeps them
    ids = fastdeploy._random_sample(tensor(p), tensor(seeds, "int64"))
    assert ids.dtype == paddle.int64
    assert list(ids.shape) == [6, 1]
    due = reference.sample(log_probabilities(p), seeds[:6, 0]).token_ids
    assert ids.numpy()[:, 0].tolist() == due.tolist()
    assert (p[np.arange(6), due] > 0).all()
    for b in range(6):
        alone = fastdeploy._random_sample(tensor(p[b : b + 1]), tensor(seeds[b : b + 1], "int64"))
        assert alone.item() == due[b]


def test_draws_with_positions() -> None:
    """Defect caught: the pair of seed and position taken for two seeds."""
    p = some_probabilities(5, 300, 2)
    pairs = np.stack([np.full(5, 7), np.arange(5) + 40], axis=1)
    ids = fastdeploy._random_sample(tensor(p), tensor(pairs, "int64")).numpy()[:, 0]
    assert ids.tolist() == reference.sample(log_probabilities(p), pairs[:, 0], position=pairs[:, 1]).token_ids.tolist()


@pytest.mark.paddles_own_kernels
def test_draws_without_seeds_come_from_paddles_generator() -> None:
    """Defect caught: unseeded rows that share noise, or that paddle.seed does not repeat."""
    p = tensor(np.full((64, 500), 1 / 500))
    paddle.seed(5)
    first = fastdeploy._random_sample(p).numpy()
    again = fastdeploy._random_sample(p).numpy()
    paddle.seed(5)
    assert (fastdeploy._random_sample(p).numpy() == first).all()
    assert len(set(first[:, 0].tolist())) > 30
    assert (first != again).any()


@pytest.mark.paddles_own_kernels
def test_bad_rows_give_minus_1_and_harm_no_other() -> None:
    """Defect caught: token 0 out of a row of NaN."""
    p = np.float32([[0.2, 0.8], [np.nan, 1], [0, 0], [-0.1, 1], [0, 1]])
    ids = fastdeploy._random_sample(tensor(p), tensor(np.zeros((5, 1)), "int64"))
    assert ids.numpy()[1:, 0].tolist() == [-1, -1, -1, 1]
    seeds = tensor([1] * 5, "int64")
    scores, ids = fastdeploy.top_k_top_p_sampling(tensor(p), tensor(np.ones((5, 1))), topp_seed=seeds)
    assert ids.numpy()[1:4, 0].tolist() == [-1, -1, -1]
    assert np.isnan(scores.numpy()[1:4]).all()


@pytest.mark.paddles_own_kernels
@pytest.mark.parametrize("order", ["top_k_first", "joint"])
def test_top_k_top_p_sampling(order: str) -> None:
    """Defect caught: top-p measured on the wrong set; ties; a score of another token."""
    p = some_probabilities(40, 97, 3)
    rng = np.random.default_rng(3)
    k, top_p = rng.choice([0, 1, 3, 10, 200], 40), rng.choice([1.0, 0.9, 0.5, 0.0], 40).astype(np.float32)
    seeds = rng.integers(-(1 << 62), 1 << 62, 40)
    scores, ids = fastdeploy.top_k_top_p_sampling(
        tensor(p), tensor(top_p[:, None]), tensor(k[:, None], "int64"), k.tolist(),
        topp_seed=tensor(seeds[:, None], "int64"), order=order,
    )  # fmt: skip
    logits = log_probabilities(p)
    if order == "joint":
        nucleus = reference.mask(logits, top_p=top_p).num_kept
        k = np.where(k > 0, np.minimum(k, nucleus), nucleus)
        top_p = np.ones(40, np.float32)
    due = reference.sample(logits, seeds, top_k=k, top_p=top_p).token_ids
    assert ids.numpy()[:, 0].tolist() == due.tolist()
    assert bits(scores[:, 0]) == bits(p[np.arange(40), due])


@pytest.mark.paddles_own_kernels
def test_joint_measures_top_p_on_all_tokens() -> None:
    """Defect caught: an order that is not looked at."""
    p = tensor([[0.1, 0.2, 0.3, 0.4]] * 64)
    how = {"top_p": tensor(np.full(64, 0.5)), "top_k": tensor([2] * 64, "int64"), "seed": 9}
    drawn = {o: fastdeploy.top_k_top_p_sampling(p, order=o, **how)[1] for o in ("top_k_first", "joint")}
    assert {o: set(ids.numpy()[:, 0].tolist()) for o, ids in drawn.items()} == {"top_k_first": {3}, "joint": {2, 3}}


@pytest.mark.paddles_own_kernels
def test_other_arguments_of_top_k_top_p_sampling() -> None:
    """Defect caught: a threshold that empties a row, a mode that still truncates, rows of one seed that share noise."""
    p = np.float32([[0.1, 0.2, 0.3, 0.4]] * 64)
    half = tensor(np.full((64, 1), 0.5))
    one = tensor(np.ones((64, 1)))
    _, high = fastdeploy.top_k_top_p_sampling(tensor(p), one, threshold=tensor(np.full(64, 0.25)), seed=3)
    assert set(high.numpy()[:, 0].tolist()) == {2, 3}
    _, none = fastdeploy.top_k_top_p_sampling(tensor(p), one, threshold=tensor(np.full(64, 0.9)), seed=3)
    assert set(none.numpy()[:, 0].tolist()) == {3}
    _, all_of_them = fastdeploy.top_k_top_p_sampling(tensor(p), half, mode="non-truncated", seed=3)
    assert set(all_of_them.numpy()[:, 0].tolist()) == {0, 1, 2, 3}
    seeds = np.int64([detsample.fold_in(3, b) for b in range(64)])
    assert all_of_them.numpy()[:, 0].tolist() == reference.sample(log_probabilities(p), seeds).token_ids.tolist()
    for wrong in ({"k": 5}, {"mode": "some"}, {"order": "none"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            fastdeploy.top_k_top_p_sampling(tensor(p), half, **wrong)


def test_half_precision_probabilities() -> None:
    """Defect caught: bfloat16 or fp16 probabilities rounded again on the way."""
    p = some_probabilities(4, 64, 9).astype(np.float16)
    seeds = tensor([1, 2, 3, 4], "int64")
    scores, ids = fastdeploy.top_k_top_p_sampling(tensor(p, "float16"), tensor(np.full(4, 0.9)), topp_seed=seeds)
    due = reference.sample(log_probabilities(p.astype(np.float32)), np.arange(1, 5), top_p=0.9).token_ids
    assert ids.numpy()[:, 0].tolist() == due.tolist()
    assert scores.dtype == paddle.float16


@pytest.mark.paddles_own_kernels
def test_min_p_sampling() -> None:
    """Defect caught: a row of min_p 0 that loses tokens beside one that has it; probabilities that are renormalised."""
    p = some_probabilities(8, 97, 4)
    min_p = np.float32([0, 0.1, 0, 0.5, 1.0, 2.0, -1, 0.05])
    given = tensor(p)
    out = fastdeploy.min_p_sampling(given, tensor(min_p[:, None]), min_p.tolist())
    due = reference.mask(log_probabilities(p), min_p=min_p).mask
    assert bits(out) == bits(np.where(due, p, 0))
    assert bits(given) == bits(p)
    assert fastdeploy.min_p_sampling(given, None, None) is given
    assert fastdeploy.min_p_sampling(given, tensor(np.zeros(8)), [0.0] * 8) is given


@pytest.mark.paddles_own_kernels
def test_sampling_mask_is_the_samplers_own_kept_set() -> None:
    """Defect caught: a mask that ignores min-p, keeps all ties, or breaks the row of top_k 0; a lost log_z; a draw with
    another order of filters than the mask.
    """
    p = some_probabilities(12, 97, 5)
    rng = np.random.default_rng(5)
    k, top_p = rng.choice([0, 2, 5], 12), rng.choice([1.0, 0.8], 12).astype(np.float32)
    min_p = rng.choice([0.0, 0.1], 12).astype(np.float32)
    given = tensor(p), tensor(top_p[:, None]), tensor(k[:, None], "int64"), k.tolist()
    filters = {"top_k": k, "top_p": top_p, "min_p": min_p, "filter_order": "min_p_first"}
    due = reference.mask(log_probabilities(p), **filters, return_log_z=True)
    other = reference.mask(log_probabilities(p), **filters | {"filter_order": "top_k_first"})
    assert (due.num_kept != other.num_kept).any()
    left, seeds = fastdeploy.min_p_sampling(given[0], tensor(min_p)), rng.integers(-(1 << 62), 1 << 62, 12)
    _, drawn = fastdeploy.top_k_top_p_sampling(left, *given[1:], topp_seed=tensor(seeds, "int64"))
    assert drawn[:, 0].tolist() == reference.sample(log_probabilities(p), seeds, **filters).token_ids.tolist()
    for bound in (None, 97, 1000):
        ids, mask, log_z, rows = fastdeploy._compute_sampling_mask(*given, min_p=tensor(min_p), max_kept=bound)
        assert (ids.dtype, mask.dtype, log_z.dtype, rows) == (paddle.int64, paddle.bool, paddle.float32, 12)
        assert ids.shape[1] == mask.shape[1] == (97 if bound else due.num_kept.max())
        for b in range(12):
            assert ids.numpy()[b][mask.numpy()[b]].tolist() == np.flatnonzero(due.mask[b]).tolist()
        assert bits(log_z) == bits(due.log_z)
    ids, mask, _, _ = fastdeploy._compute_sampling_mask(*given, min_p=tensor(min_p), max_kept=3)
    assert ids.shape[1] == 3
    fits = due.num_kept <= 3
    assert mask.numpy().sum(axis=1).tolist() == np.where(fits, due.num_kept, 0).tolist()
    assert 0 < fits.sum() < 12


# ---- speculative rows


@pytest.mark.paddles_own_kernels
def test_speculative_rows_have_the_requests_seed_and_their_own_position() -> None:
    """Defect caught: seeds of s + 4 i, which are those of a request with the seed s + 4; seeds changed in place."""
    infer_seed = tensor([[100], [104], [7], [9]], "int64")
    before = infer_seed.numpy().copy()
    top_p, top_k, streams = fastdeploy.build_sampling_params(
        tensor([[0.9], [0.8], [0.7], [0.6]]), tensor([[50], [40], [30], [20]], "int64"), infer_seed,
        tensor([[3], [0], [6], [1]], "int32"), tensor([0, 3, 3, 4, 5], "int32"), 5, 16,
        seq_lens_decoder=tensor([[20], [0], [0], [11]], "int32"),
    )  # fmt: skip
    # Request 0 decodes with two drafts, 1 is idle, 2 has its prompt of 6 read, 3 decodes one token.
    assert streams.numpy().tolist() == [[100, 21], [100, 22], [100, 23], [7, 6], [9, 12]]
    assert bits(top_p[:, 0]) == bits(np.float32([0.9, 0.9, 0.9, 0.7, 0.6]))
    assert top_k.numpy()[:, 0].tolist() == [50, 50, 50, 30, 20]
    assert (infer_seed.numpy() == before).all()
    with pytest.raises(ValueError, match="seq_lens_decoder"):
        fastdeploy.build_sampling_params(top_p, top_k, infer_seed, infer_seed, infer_seed, 1, 4)


# ---- routed


SOURCE = '''
import os
import paddle
import paddle.nn.functional as F

FD_SAMPLING_CLASS = os.environ.get("FD_SAMPLING_CLASS", "base")


def theirs(*arguments, **keywords):
    raise RuntimeError("FastDeploy's own")


def apply_top_k_top_p_triton(logits, k, p, mask_value=float("-inf"), return_mask=False): theirs()
def _random_sample(probs, topp_seed=None): theirs()
def min_p_sampling(probs, min_p_arr, min_p_arr_cpu): theirs()
def _compute_sampling_mask(probs, top_p, top_k=None, top_k_list=None): theirs()
build_sampling_params = theirs


def top_k_top_p_sampling(
    x, top_p, top_k=None, top_k_list=None, threshold=None, topp_seed=None, seed=-1, k=0, mode="truncated",
    order="top_k_first",
): theirs()


class Sampler:
    def __init__(self):
        self.forward = self.forward_cuda

    def forward_cuda(self, logits, sampling_metadata, p_done_idxs=[]):
        m, rows, masks = sampling_metadata, logits.shape[0], None
        triton = FD_SAMPLING_CLASS.lower() == "triton"
        if triton:
            top_k = m.top_k[:rows].squeeze(axis=-1) if any(x > 0 for x in m.top_k_list) else None
            logits = apply_top_k_top_p_triton(logits.astype("float32"), k=top_k, p=m.top_p[:rows].squeeze(axis=-1))
        probs = min_p_sampling(F.softmax(logits), m.min_p, m.min_p_list)
        if m.keep_sampling_mask:
            masks = _compute_sampling_mask(probs, m.top_p, top_k=m.top_k, top_k_list=m.top_k_list)
        if triton:
            return _random_sample(probs, topp_seed=m.seed), masks
        return top_k_top_p_sampling(probs, m.top_p, m.top_k, m.top_k_list, topp_seed=m.seed)[1], masks


class SpeculativeSampler:
    def __init__(self, naive=False):
        self.naive = naive

    def forward_cuda(
        self, logits, sampling_metadata, max_model_len, share_inputs, token_num_output_cpu, increment_value,
        accept_all_drafts=False, reject_all_drafts=False, real_bsz=0,
    ):
        m = sampling_metadata
        top_p, top_k, _ = build_sampling_params(
            m.top_p, m.top_k, m.seed, share_inputs["seq_lens_this_time"], share_inputs["cu_seqlens_q_output"],
            token_num_output_cpu, increment_value,
        )
        logits = apply_top_k_top_p_triton(logits, k=top_k.squeeze(-1), p=top_p.squeeze(-1))
        probs = F.softmax(logits)
        if self.naive:
            probs = min_p_sampling(probs, m.min_p, m.min_p_list)
        return _random_sample(probs, topp_seed=m.seed)
'''

# What revision 0097a00a has; it takes a softmax, applies min-p, and only then top-k and top-p.
BEFORE_TRITON = '''
def theirs(*arguments, **keywords):
    raise RuntimeError("FastDeploy's own")


def padding_sampling_params(top_p, top_k, infer_seed, seq_lens_this_time, seq_lens_encoder): theirs()
def min_p_sampling(probs, min_p_arr, min_p_arr_cpu): theirs()
def _compute_sampling_mask(probs, top_p, top_k=None, top_k_list=None) -> "tuple[List[np.ndarray], np.ndarray]": theirs()


def top_k_top_p_sampling(
    x, top_p, top_k=None, top_k_list=None, threshold=None, topp_seed=None, seed=-1, k=0, mode="truncated",
    order="top_k_first",
): theirs()


class Sampler:
    def forward_cuda(self, logits, sampling_metadata, p_done_idxs=[]): theirs()
'''


class InputBatch:
    """FastDeploy's container of a step's inputs: it has `in` and `[]`, and is no mapping."""

    def __init__(self, **inputs: Any) -> None:
        for name, value in inputs.items():
            setattr(self, name, value)

    def __getitem__(self, name: str) -> Any:
        if hasattr(self, name):
            return getattr(self, name)
        raise KeyError(name)

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    def __contains__(self, name: str) -> bool:
        return hasattr(self, name)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module in the place of FastDeploy's sampler, imported while FD_SAMPLING_CLASS was something else."""
    monkeypatch.setenv("FD_SAMPLING_CLASS", "base")
    parts = routing.SAMPLER.split(".")
    for i in range(1, len(parts) + 1):
        name = ".".join(parts[:i])
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    module = sys.modules[routing.SAMPLER]
    exec(SOURCE, module.__dict__)
    return module


def metadata(rows: int, seed: int, **extra: Any) -> tuple[Any, dict[str, Any]]:
    """What FastDeploy hands its sampler, for more slots than rows, and the same as detsample takes it."""
    rng = np.random.default_rng(seed)
    slots = rows + 2
    top_k, top_p = rng.choice([0, 3, 20], slots), rng.choice([1.0, 0.8], slots).astype(np.float32)
    min_p, seeds = rng.choice([0.0, 0.1], slots).astype(np.float32), rng.integers(0, 1 << 60, slots)
    given = types.SimpleNamespace(
        top_k=tensor(top_k[:, None], "int64"),
        top_k_list=top_k.tolist(),
        top_p=tensor(top_p[:, None]),
        min_p=tensor(min_p[:, None]),
        min_p_list=min_p.tolist(),
        seed=tensor(seeds[:, None], "int64"),
        keep_sampling_mask=False,
        share_inputs=None,
        **extra,
    )
    own = {"top_k": top_k[:rows], "top_p": top_p[:rows], "min_p": min_p[:rows], "topp_seed": seeds[:rows]}
    return given, own


def lengths(rows: int) -> tuple[InputBatch, np.ndarray]:
    """Lengths of a step in which every other row reads a prompt; and the positions of the tokens drawn."""
    this_time = np.where(np.arange(rows) % 2, 9, 1)
    decoder = np.where(np.arange(rows) % 2, 0, 30 + np.arange(rows))
    given = {"seq_lens_this_time": this_time, "seq_lens_decoder": decoder}
    return InputBatch(**{name: tensor(x[:, None], "int32") for name, x in given.items()}), decoder + this_time


@pytest.mark.paddles_own_kernels
def test_routed_draws_are_detsamples_from_the_logits(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect caught: a draw from rounded probabilities, from position 0, or after top-p measured behind min-p."""
    names = fastdeploy.install()
    assert {"_random_sample", "Sampler.forward_cuda", "FD_SAMPLING_CLASS"} <= set(names)
    assert fastdeploy.install() == names
    monkeypatch.setenv("FD_SAMPLING_CLASS", "triton")  # after the import: read when called
    assert stand_in.FD_SAMPLING_CLASS.lower() == "triton"
    logits = np.random.default_rng(0).standard_normal((6, 300)).astype(np.float32) * 4
    given, own = metadata(6, 1)
    given.share_inputs, position = lengths(6)
    given.share_inputs["cu_seqlens_q_output"] = None
    ids, _ = stand_in.Sampler().forward(tensor(logits), given)
    assert ids.numpy()[:, 0].tolist() == reference.sample(logits, position=position, **own).token_ids.tolist()


@pytest.mark.paddles_own_kernels
def test_routed_draws_do_not_look_at_probabilities(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect caught: a draw from the softmax in between, whose rounding hardly ever shows in a token."""
    fastdeploy.install()
    monkeypatch.setenv("FD_SAMPLING_CLASS", "triton")
    monkeypatch.setattr(probabilities, "log_probabilities", None)
    given, _ = metadata(4, 5)
    given.min_p_list = [0.0] * 6
    ids, _ = stand_in.Sampler().forward(tensor(np.zeros((4, 9))), given)
    assert (ids.numpy() >= 0).all()


@pytest.mark.paddles_own_kernels
def test_routed_masks_have_min_p_and_log_z(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect caught: the mask of top-k and top-p alone; a log_z of what was left after masking."""
    fastdeploy.install()
    monkeypatch.setenv("FD_SAMPLING_CLASS", "triton")
    logits = np.random.default_rng(1).standard_normal((6, 300)).astype(np.float32) * 3
    given, own = metadata(6, 2)
    given.keep_sampling_mask = True
    ids, (indices, mask, log_z, rows) = stand_in.Sampler().forward(tensor(logits), given)
    seeds = own.pop("topp_seed")
    due = reference.sample(logits, seeds, **own, return_log_z=True, return_mask="bool")
    assert ids.numpy()[:, 0].tolist() == due.token_ids.tolist()
    for b in range(rows):
        assert indices.numpy()[b][mask.numpy()[b]].tolist() == np.flatnonzero(due.mask[b]).tolist()
    assert np.abs(log_z.numpy() - due.log_z).max() <= 2.0**-22 * 4  # the sum of two logarithms, each rounded


@pytest.mark.paddles_own_kernels
def test_routed_speculative_rows(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect caught: rows of a request that share noise, or that take the seeds of other slots."""
    fastdeploy.install()
    monkeypatch.setenv("FD_SAMPLING_CLASS", "triton")
    logits = np.random.default_rng(2).standard_normal((5, 200)).astype(np.float32) * 3
    given, own = metadata(3, 3)
    shared = InputBatch(
        seq_lens_this_time=tensor([[3], [1], [8]], "int32"),
        seq_lens_decoder=tensor([[20], [5], [0]], "int32"),
        cu_seqlens_q_output=tensor([0, 3, 4, 5], "int32"),
    )
    ids = stand_in.SpeculativeSampler().forward_cuda(tensor(logits), given, 100, shared, 5, 12)
    owner, position = [0, 0, 0, 1, 2], np.int64([21, 22, 23, 6, 8])
    own.pop("min_p")  # this sampler has none
    due = reference.sample(logits, position=position, **{name: values[owner] for name, values in own.items()})
    assert ids.numpy()[:, 0].tolist() == due.token_ids.tolist()


@pytest.mark.paddles_own_kernels
@pytest.mark.parametrize("container", [InputBatch, dict])
def test_inputs_are_read_as_fastdeploys_container_allows(
    stand_in: Any, monkeypatch: pytest.MonkeyPatch, container: Any
) -> None:
    """Defect caught: ordinary requests that end in an AttributeError: FastDeploy's InputBatch has no `items`."""
    fastdeploy.install()
    logits = np.random.default_rng(6).standard_normal((4, 100)).astype(np.float32) * 4
    given, own = metadata(4, 7)
    shared, position = lengths(4)
    given.share_inputs = container(**vars(shared), input_ids=None, cu_seqlens_q_output=tensor([0, 9], "int32"))
    with pytest.raises(RuntimeError, match="FastDeploy's own"):
        stand_in.Sampler().forward(tensor(logits), given)
    monkeypatch.setenv("FD_SAMPLING_CLASS", "triton")
    ids, _ = stand_in.Sampler().forward(tensor(logits), given)
    assert ids.numpy()[:, 0].tolist() == reference.sample(logits, position=position, **own).token_ids.tolist()
    given.share_inputs = container(seq_lens_this_time=shared["seq_lens_this_time"])
    ids, _ = stand_in.Sampler().forward(tensor(logits), given)
    assert ids.numpy()[:, 0].tolist() == reference.sample(logits, **own).token_ids.tolist()


@pytest.mark.paddles_own_kernels
@pytest.mark.parametrize("idle", [0, 1, 2])
def test_min_p_follows_a_rows_owner(stand_in: Any, monkeypatch: pytest.MonkeyPatch, idle: int) -> None:
    """Defect caught: a row filtered by the min-p of another request, where a slot is idle in naive speculation."""
    fastdeploy.install()
    monkeypatch.setenv("FD_SAMPLING_CLASS", "triton")
    owner = [slot for slot in range(3) if slot != idle]
    min_p, seeds = np.float32([0.0, 0.9, 0.3]), np.int64([11, 77, 5])
    busy = np.int32([slot != idle for slot in range(3)])
    shared = InputBatch(
        seq_lens_this_time=tensor(busy[:, None], "int32"),
        seq_lens_decoder=tensor([[5], [9], [2]], "int32"),
        cu_seqlens_q_output=tensor(np.concatenate([[0], busy.cumsum()]), "int32"),
    )
    given, _ = metadata(1, 0)
    given.min_p, given.min_p_list, given.seed = tensor(min_p[:, None]), min_p.tolist(), tensor(seeds[:, None], "int64")
    given.top_p, given.top_k = tensor(np.ones((3, 1))), tensor(np.zeros((3, 1)), "int64")
    for case in range(20):
        logits = np.random.default_rng(case).standard_normal((2, 100)).astype(np.float32) * 2
        ids = stand_in.SpeculativeSampler(naive=True).forward_cuda(tensor(logits), given, 100, shared, 2, 4)
        position = np.int64([6, 10, 3])[owner]
        due = reference.sample(logits, seeds[owner], position=position, min_p=min_p[owner]).token_ids
        assert ids.numpy()[:, 0].tolist() == due.tolist()


@pytest.mark.paddles_own_kernels
def test_masks_of_speculative_rows_have_their_owners_min_p() -> None:
    """Defect caught: a mask and log_z with another request's min-p."""
    logits = np.random.default_rng(8).standard_normal((3, 60)).astype(np.float32) * 2
    owner, min_p = [1, 1, 3], np.float32([0.9, 0.05, 0.8, 0.4])
    this_time, decoder = tensor([0, 2, 0, 1], "int32"), tensor([0, 7, 0, 4], "int32")
    now = step.Step(step.Lengths(this_time, decoder, tensor([0, 0, 2, 2, 3], "int32")), wants_masks=True)
    masked = now.apply_top_k_top_p_triton(tensor(logits), tensor([9, 9, 9], "int32"), None)
    probs = now.min_p_sampling(paddle.nn.functional.softmax(masked), tensor(min_p[:, None]), min_p.tolist())
    ids, mask, log_z, _ = now._compute_sampling_mask(probs, tensor(np.ones((3, 1))))
    due = reference.mask(logits, top_k=9, min_p=min_p[owner], return_log_z=True)
    for b in range(3):
        assert ids.numpy()[b][mask.numpy()[b]].tolist() == np.flatnonzero(due.mask[b]).tolist()
    assert np.abs(log_z.numpy() - due.log_z).max() <= 2.0**-20


class Memory:
    """Stands for working memory, which only a GPU has."""


def test_working_memory_is_kept_until_the_next_step_is_over(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect caught: memory that kernels on another stream still write to, handed out again when a function returns."""
    made: list[Any] = []

    def noting(entry: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            memory = Memory()
            made.append(weakref.ref(memory))
            out = entry(*arguments, **keywords)
            return type(out)(**{**vars(out), "_kept_alive": memory})

        return call

    there = types.SimpleNamespace(sample=noting(detsample.sample), mask=noting(detsample.mask))
    for module in (masking, probabilities, step):
        monkeypatch.setattr(module, "detsample", there)
    fastdeploy.install()
    monkeypatch.setenv("FD_SAMPLING_CLASS", "triton")
    logits, (given, _) = tensor(np.zeros((4, 9))), metadata(4, 2)
    given.keep_sampling_mask = True
    given.min_p_list = [0.5] * 6

    def alive() -> list[bool]:
        gc.collect()
        return [memory() is not None for memory in made]

    stand_in.Sampler().forward(logits, given)
    first = len(made)
    assert first >= 5
    assert all(alive())
    stand_in.Sampler().forward(logits, given)
    assert alive() == [False] * first + [True] * first
    fastdeploy._random_sample(paddle.nn.functional.softmax(logits), tensor([1, 2, 3, 4], "int64"))
    assert alive()[2 * first :] == [False], "outside of a step nothing may pile up"


def test_other_sampling_classes_are_fastdeploys_own(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect caught: an install that cannot be switched off, by the variable or by uninstall."""
    fastdeploy.install()
    given, _ = metadata(2, 4)
    with pytest.raises(RuntimeError, match="FastDeploy's own"):
        stand_in.Sampler().forward(tensor(np.zeros((2, 9))), given)
    monkeypatch.setenv("FD_SAMPLING_CLASS", "triton")
    stand_in.Sampler().forward(tensor(np.zeros((2, 9))), given)
    fastdeploy.uninstall()
    assert stand_in.FD_SAMPLING_CLASS.lower() == "base"
    with pytest.raises(RuntimeError, match="FastDeploy's own"):
        stand_in.Sampler().forward(tensor(np.zeros((2, 9))), given)
    fastdeploy.uninstall()


def test_unknown_kinds_of_fastdeploy_are_refused(stand_in: Any) -> None:
    """Defect caught: functions routed to callers that call them otherwise; half an install."""
    stand_in.min_p_sampling = lambda probs, min_p: probs
    before = dict(vars(stand_in))
    with pytest.raises(ImportError, match="min_p_sampling takes probs, min_p, expected probs, min_p_arr"):
        fastdeploy.install()
    assert dict(vars(stand_in)) == before
    del stand_in.min_p_sampling
    with pytest.raises(ImportError, match="has no min_p_sampling"):
        fastdeploy.install()


def test_the_sampler_before_triton_is_refused(stand_in: Any) -> None:
    """Defect caught: 0097a00a routed all the same: two results taken for four, seeds of neighbours, top-p too late."""
    for name in [name for name in vars(stand_in) if not name.startswith("__")]:
        delattr(stand_in, name)
    exec(BEFORE_TRITON, stand_in.__dict__)
    before = dict(vars(stand_in))
    with pytest.raises(ImportError, match=r"has no apply_top_k_top_p_triton\. Known: be1bb13b"):
        fastdeploy.install()
    assert dict(vars(stand_in)) == before


def test_masks_of_the_first_form_are_refused(stand_in: Any) -> None:
    """Defect caught: four tensors handed to a caller that expects a list of arrays and an array."""
    first = {**vars(stand_in)}
    exec(BEFORE_TRITON, first)
    stand_in._compute_sampling_mask = first["_compute_sampling_mask"]
    with pytest.raises(ImportError, match=r"_compute_sampling_mask returns .*ndarray.*, expected tensors"):
        fastdeploy.install()


def test_install_without_fastdeploy_says_so() -> None:
    """Defect caught: a ModuleNotFoundError that does not say what to do."""
    if "fastdeploy" not in sys.modules:
        with pytest.raises(ImportError, match=r"install\(\) needs FastDeploy"):
            fastdeploy.install()


@pytest.mark.paddles_own_kernels
def test_seeds_can_be_held() -> None:
    """Defect caught: a request whose seed is advanced by 4 a step, on top of its position."""
    runner = types.SimpleNamespace(infer_seed_increment=tensor(np.full((3, 1), 4), "int64"), increment_value=4)
    fastdeploy.hold_seeds(runner)
    assert runner.infer_seed_increment.numpy().tolist() == [[0], [0], [0]]
    assert runner.increment_value == 0


@pytest.mark.paddles_own_kernels
@pytest.mark.parametrize("module", [masking, probabilities, speculative], ids=lambda module: module.__name__)
def test_examples_in_docstrings(module: Any) -> None:
    """Defect caught: an example that fails, or prints something else."""
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
