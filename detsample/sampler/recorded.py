"""`sample` and `mask` as operators of torch, for what records calls instead of doing them: `torch.compile`,
`torch.export`, `make_fx`.

The two find by themselves that they are being recorded, and then call the operators here, which are one node of a
graph each. An operator does what the call does when the graph runs: it checks its arguments and raises as the call
does. A parameter that is a number is an argument of the operator, so another position compiles nothing anew.
`noise.recorded` does the same for `gumbel_noise` and `fold_in`.
"""

from __future__ import annotations

from typing import Any

import torch

from detsample.sampler.now import mask_now, sample_now
from detsample.sampler.output import Csr, MaskOutput, SampleOutput
from detsample.sampler.parameters import read_flag, read_mask_kind, read_wanted

INTEGERS, REALS = ("topp_seed", "position", "top_k"), ("temperature", "top_p", "min_p")
SEED, POSITION, _TOP_K = (f"Tensor? {name}, SymInt {name}_number" for name in INTEGERS)
_FILTERS = (
    f"Tensor? temperature, float temperature_number, {_TOP_K}, Tensor? top_p, float top_p_number, "
    "Tensor? min_p, float min_p_number, str filter_order, Tensor? allowed"
)
_MODULUS = 1 << 64


def given(name: str, value: Any) -> tuple[torch.Tensor | None, Any]:
    """A parameter as the operators take it: a tensor, or a number of 64 bits."""
    if isinstance(value, torch.Tensor):
        return value, 0
    if name in REALS:
        return None, float(value)
    if isinstance(value, (bool, float, str)):
        raise TypeError(f"{name} must be an integer or a tensor, got {value!r}")
    return None, value - _MODULUS if value >= _MODULUS >> 1 else value


def either(tensor: torch.Tensor | None, number: Any) -> Any:
    """A parameter from what `given` made of it."""
    return number if tensor is None else tensor


def sample(
    logits: torch.Tensor, topp_seed: Any, position: Any, temperature: Any, top_k: Any, top_p: Any, min_p: Any,
    filter_order: str, allowed: Any, return_logprobs: bool, return_log_z: bool, return_mask: str | None,
    return_num_kept: bool, shared_noise: bool, check: bool,
) -> SampleOutput[Any]:  # fmt: skip
    """`detsample.sample` by way of the operator."""
    wanted = read_wanted(return_logprobs, return_log_z, return_mask, return_num_kept)
    found: list[Any] = _sample(
        logits, *given("topp_seed", topp_seed), *given("position", position), *given("temperature", temperature),
        *given("top_k", top_k), *given("top_p", top_p), *given("min_p", min_p), filter_order, allowed,
        wanted.logprobs, wanted.log_z, wanted.mask or "", wanted.num_kept, read_flag("shared_noise", shared_noise),
        read_flag("check", check),
    )  # fmt: skip
    token_ids, status, rest = *found[:2], list(found[2:])  # torch.compile makes a tuple of `*rest` up to 2.11
    num_kept = rest.pop(0) if wanted.num_kept else None
    logprobs = rest.pop(0) if wanted.logprobs else None
    log_z = rest.pop(0) if wanted.log_z else None
    return SampleOutput(token_ids, num_kept, status, logprobs, log_z, _mask_of(rest))


def mask(
    logits: torch.Tensor, temperature: Any, top_k: Any, top_p: Any, min_p: Any, filter_order: str, allowed: Any,
    kind: str, return_log_z: bool, check: bool,
) -> MaskOutput[Any, Any]:  # fmt: skip
    """`detsample.mask` by way of the operator."""
    log_z = read_flag("return_log_z", return_log_z)
    found: list[Any] = _mask(
        logits, *given("temperature", temperature), *given("top_k", top_k), *given("top_p", top_p),
        *given("min_p", min_p), filter_order, allowed, read_mask_kind("kind", kind) or "", log_z,
        read_flag("check", check),
    )  # fmt: skip
    num_kept, status, rest = *found[:2], list(found[2:])
    return MaskOutput(log_z=rest.pop(0) if log_z else None, num_kept=num_kept, status=status, mask=_mask_of(rest))


def _mask_of(rest: list[torch.Tensor]) -> Any:
    return Csr(*rest) if len(rest) == 2 else rest[0] if rest else None


@torch.library.custom_op(
    "detsample::sample",
    mutates_args=(),
    schema=f"(Tensor logits, {SEED}, {POSITION}, {_FILTERS}, bool logprobs, bool log_z, str mask, bool num_kept, "
    "bool shared_noise, bool check) -> Tensor[]",
)
def _sample(
    logits: Any, seed: Any, seed_n: Any, position: Any, position_n: Any, t: Any, t_n: Any, k: Any, k_n: Any, p: Any,
    p_n: Any, m: Any, m_n: Any, filter_order: str, allowed: Any, logprobs: bool, log_z: bool, mask: str,
    num_kept: bool, shared_noise: bool, check: bool,
) -> Any:  # fmt: skip
    out = sample_now(
        logits, either(seed, seed_n), either(position, position_n), either(t, t_n), either(k, k_n), either(p, p_n),
        either(m, m_n), filter_order, allowed, logprobs, log_z, mask or None, num_kept, shared_noise,
        check,
    )  # fmt: skip
    return [out.token_ids, out.status, *([out.num_kept] if num_kept else []), *_optional(out)]


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
        logits, either(t, t_n), either(k, k_n), either(p, p_n), either(m, m_n), filter_order, allowed, kind,
        log_z, check,
    )
    return [out.num_kept, out.status, *_optional(out)]


def _optional(out: Any) -> list[torch.Tensor]:
    """The results that only some calls ask for, in order."""
    mask = [out.mask.row_offsets, out.mask.token_ids] if isinstance(out.mask, Csr) else [out.mask]
    return [x for x in (getattr(out, "logprobs", None), out.log_z, *mask) if x is not None]


@_sample.register_fake
def _(logits: Any, *others: Any) -> Any:
    logprobs, log_z, mask, num_kept = others[-6:-2]
    rows = logits.shape[0]
    found = [logits.new_empty(rows, dtype=kind) for kind in (torch.int64, torch.int32, *[torch.int32] * num_kept)]
    return found + _fake_optional(logits, int(logprobs) + int(log_z), mask)


@_mask.register_fake
def _(logits: Any, *others: Any) -> Any:
    kind, log_z, _ = others[-3:]
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
