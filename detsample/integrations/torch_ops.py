"""`sample`, `mask`, `gumbel_noise` and `fold_in` as operators of torch, for what writes calls down instead of doing
them: `torch.compile`, `torch.export`, `make_fx`.

Those four find by themselves that they are being recorded, and then call the operators here, which are one node of a
graph each. An operator does what the call does when the graph runs: it checks its arguments and raises as the call
does. A parameter that is a number is an argument of the operator, so another position compiles nothing anew.
"""

from __future__ import annotations

from typing import Any

import torch

from detsample.noise.streams import fold_in_now, gumbel_noise_now
from detsample.sampler.output import Csr, MaskOutput, SampleOutput
from detsample.sampler.parameters import class_name, read_flag, read_mask_kind, read_wanted
from detsample.sampler.sample import mask_now, sample_now

INTEGERS, REALS = ("topp_seed", "position", "top_k"), ("temperature", "top_p", "min_p")
_SEED, _POSITION, _TOP_K = (f"Tensor? {name}, SymInt {name}_number" for name in INTEGERS)
_FILTERS = (
    f"Tensor? temperature, float temperature_number, {_TOP_K}, Tensor? top_p, float top_p_number, "
    "Tensor? min_p, float min_p_number, str filter_order, Tensor? allowed"
)
_MODULUS = 1 << 64


def _given(name: str, value: Any) -> tuple[torch.Tensor | None, Any]:
    """A parameter as the operators take it: a tensor, or a number of 64 bits."""
    if isinstance(value, torch.Tensor):
        return value, 0
    if name in REALS:
        return None, float(value)
    if isinstance(value, (bool, float, str)):
        raise TypeError(f"{name} must be an integer or a tensor, got {value!r}")
    return None, value - _MODULUS if value >= _MODULUS >> 1 else value


def _either(tensor: torch.Tensor | None, number: Any) -> Any:
    return number if tensor is None else tensor


def sample(
    logits: torch.Tensor, topp_seed: Any, position: Any, temperature: Any, top_k: Any, top_p: Any, min_p: Any,
    filter_order: str, allowed: Any, return_logprobs: bool, return_log_z: bool, return_mask: str | None,
    shared_noise: bool, check: bool,
) -> SampleOutput[Any]:  # fmt: skip
    """`detsample.sample` by way of the operator."""
    wanted = read_wanted(return_logprobs, return_log_z, return_mask)
    found = _sample(
        logits, *_given("topp_seed", topp_seed), *_given("position", position), *_given("temperature", temperature),
        *_given("top_k", top_k), *_given("top_p", top_p), *_given("min_p", min_p), filter_order, allowed,
        wanted.logprobs, wanted.log_z, wanted.mask or "", read_flag("shared_noise", shared_noise),
        read_flag("check", check),
    )  # fmt: skip
    token_ids, num_kept, status, *rest = found
    logprobs = rest.pop(0) if wanted.logprobs else None
    log_z = rest.pop(0) if wanted.log_z else None
    return SampleOutput(token_ids, num_kept, status, logprobs, log_z, _mask_of(rest))


def mask(
    logits: torch.Tensor, temperature: Any, top_k: Any, top_p: Any, min_p: Any, filter_order: str, allowed: Any,
    kind: str, return_log_z: bool, check: bool,
) -> MaskOutput[Any, Any]:  # fmt: skip
    """`detsample.mask` by way of the operator."""
    log_z = read_flag("return_log_z", return_log_z)
    found = _mask(
        logits, *_given("temperature", temperature), *_given("top_k", top_k), *_given("top_p", top_p),
        *_given("min_p", min_p), filter_order, allowed, read_mask_kind("kind", kind) or "", log_z,
        read_flag("check", check),
    )  # fmt: skip
    num_kept, status, *rest = found
    return MaskOutput(log_z=rest.pop(0) if log_z else None, num_kept=num_kept, status=status, mask=_mask_of(rest))


def _mask_of(rest: list[torch.Tensor]) -> Any:
    return Csr(*rest) if len(rest) == 2 else rest[0] if rest else None


@torch.library.custom_op(
    "detsample::sample",
    mutates_args=(),
    schema=f"(Tensor logits, {_SEED}, {_POSITION}, {_FILTERS}, bool logprobs, bool log_z, str mask, bool shared_noise, "
    "bool check) -> Tensor[]",
)
def _sample(
    logits: Any, seed: Any, seed_n: Any, position: Any, position_n: Any, t: Any, t_n: Any, k: Any, k_n: Any, p: Any,
    p_n: Any, m: Any, m_n: Any, filter_order: str, allowed: Any, logprobs: bool, log_z: bool, mask: str,
    shared_noise: bool, check: bool,
) -> Any:  # fmt: skip
    out = sample_now(
        logits, _either(seed, seed_n), _either(position, position_n), _either(t, t_n), _either(k, k_n), _either(p, p_n),
        _either(m, m_n), filter_order, allowed, logprobs, log_z, mask or None, shared_noise, check,
    )  # fmt: skip
    return [out.token_ids, out.num_kept, out.status, *_optional(out)]


@torch.library.custom_op(
    "detsample::mask",
    mutates_args=(),
    schema=f"(Tensor logits, {_FILTERS}, str kind, bool log_z, bool check) -> Tensor[]",
)
def _mask(
    logits: Any, t: Any, t_n: Any, k: Any, k_n: Any, p: Any, p_n: Any, m: Any, m_n: Any, filter_order: str,
    allowed: Any, kind: str, log_z: bool, check: bool,
) -> Any:  # fmt: skip
    out = mask_now(
        logits, _either(t, t_n), _either(k, k_n), _either(p, p_n), _either(m, m_n), filter_order, allowed, kind,
        log_z, check,
    )
    return [out.num_kept, out.status, *_optional(out)]


def _optional(out: Any) -> list[torch.Tensor]:
    """The results that only some calls ask for, in order."""
    mask = [out.mask.row_offsets, out.mask.token_ids] if isinstance(out.mask, Csr) else [out.mask]
    return [x for x in (getattr(out, "logprobs", None), out.log_z, *mask) if x is not None]


@_sample.register_fake
def _(logits: Any, *given: Any) -> Any:
    logprobs, log_z, mask = given[-5:-2]
    rows = logits.shape[0]
    found = [logits.new_empty(rows, dtype=kind) for kind in (torch.int64, torch.int32, torch.int32)]
    return found + _fake_optional(logits, int(logprobs) + int(log_z), mask)


@_mask.register_fake
def _(logits: Any, *given: Any) -> Any:
    kind, log_z, _ = given[-3:]
    found = [logits.new_empty(logits.shape[0], dtype=torch.int32) for _ in range(2)]
    return found + _fake_optional(logits, int(log_z), kind)


def _fake_optional(logits: Any, floats: int, mask: str) -> list[Any]:
    rows, vocab = logits.shape
    found = [logits.new_empty(rows, dtype=torch.float32) for _ in range(floats)]
    if mask == "bool":
        found.append(logits.new_empty(rows, vocab, dtype=torch.bool))
    elif mask == "bits":
        found.append(logits.new_empty(rows, (vocab + 31) // 32, dtype=torch.int32))
    elif mask:
        capacity = torch.library.get_ctx().new_dynamic_size()
        found += [logits.new_empty(rows + 1, dtype=torch.int64), logits.new_empty(capacity, dtype=torch.int32)]
    return found


def gumbel_noise(topp_seed: Any, position: Any, token_ids: Any) -> Any:
    """`detsample.gumbel_noise` by way of the operator."""
    if not isinstance(token_ids, torch.Tensor):
        raise TypeError(f"token_ids must be a tensor where torch records the call, got {class_name(token_ids)}")
    return _gumbel_noise(*_given("topp_seed", topp_seed), *_given("position", position), token_ids)


@torch.library.custom_op(
    "detsample::gumbel_noise", mutates_args=(), schema=f"({_SEED}, {_POSITION}, Tensor token_ids) -> Tensor"
)
def _gumbel_noise(seed: Any, seed_n: Any, position: Any, position_n: Any, token_ids: Any) -> Any:
    return gumbel_noise_now(_either(seed, seed_n), _either(position, position_n), token_ids)


@_gumbel_noise.register_fake
def _(seed: Any, seed_n: Any, position: Any, position_n: Any, token_ids: Any) -> Any:
    with_rows = (seed, position, token_ids if token_ids.ndim == 2 else None)
    rows = [x.shape[:1] for x in with_rows if x is not None and x.ndim]
    shape = token_ids.shape[-1:] if token_ids.ndim else ()
    return token_ids.new_empty((*(rows[0] if rows else ()), *shape), dtype=torch.float64)


def fold_in(topp_seed: Any, i: Any) -> Any:
    """`detsample.fold_in` by way of the operator; of two numbers, as it is."""
    if not (isinstance(topp_seed, torch.Tensor) or isinstance(i, torch.Tensor)):
        return fold_in_now(topp_seed, i)
    return _fold_in(*_given("topp_seed", topp_seed), *_given("i", i))


@torch.library.custom_op(
    "detsample::fold_in", mutates_args=(), schema=f"({_SEED}, Tensor? i, SymInt i_number) -> Tensor"
)
def _fold_in(seed: Any, seed_n: Any, i: Any, i_n: Any) -> Any:
    return fold_in_now(_either(seed, seed_n), _either(i, i_n))


@_fold_in.register_fake
def _(seed: Any, seed_n: Any, i: Any, i_n: Any) -> Any:
    tensors = [x for x in (seed, i) if x is not None]
    longest = max(tensors, key=lambda x: x.ndim)
    if all(x.ndim == 1 for x in tensors) and len(tensors) == 2 and seed.shape[0] == 1:
        longest = i
    return longest.new_empty(longest.shape, dtype=torch.int64)
