"""`gumbel_noise` and `fold_in` on a GPU: one launch each."""

from __future__ import annotations

from typing import Any

from detsample.frameworks import Device, Framework
from detsample.kernels.rows import POSITION_GIVEN, SEED_GIVEN
from detsample.kernels.streams import BLOCK, folded_seeds, noise
from detsample.launching.arguments import words
from detsample.launching.launch import launcher
from detsample.launching.pointer import Argument, integer
from detsample.launching.workspace import allocate, layout
from detsample.parameters import INTEGER_TYPES, as_integer, is_scalar

UNUSED = layout({"unused": ("int64", 1)})


def gumbel_noise(framework: Framework, topp_seed: Any, position: Any, token_ids: Any) -> Any:
    """See `detsample.gumbel_noise`."""
    device = framework.device(token_ids)
    _check_integers(framework, device, "token_ids", token_ids)
    shape = framework.shape(token_ids)
    if len(shape) not in (1, 2):
        raise ValueError(f"token_ids must have shape [N] or [B, N], got {list(shape)}")
    rows = shape[0] if len(shape) == 2 else _rows_of(framework, topp_seed, position)
    columns = shape[-1]
    result_shape = (columns,) if rows is None else (rows, columns)
    strides = framework.strides(token_ids)
    row_stride = strides[0] if len(shape) == 2 else 0
    result = framework.empty(result_shape, "float64", device)
    areas = allocate(framework, device, UNUSED)
    unused = areas["unused"]
    seed = _argument(framework, device, "topp_seed", topp_seed, rows or 1, unused)
    index = _argument(framework, device, "position", position, rows or 1, unused)
    given = SEED_GIVEN.value * seed[0] + POSITION_GIVEN.value * index[0]
    blocks = -(-columns // int(BLOCK.value))
    if rows != 0 and columns:
        with framework.launching(device):
            launch = launcher(device)
            launch(noise, (rows or 1, blocks),
                columns, framework.argument(token_ids), integer(row_stride), integer(strides[-1]), given,
                *seed[1:], *index[1:], framework.argument(result), num_warps=4, enable_fp_fusion=False,
            )  # fmt: skip
    return result


def fold_in(framework: Framework, device: Device, topp_seed: Any, i: Any) -> Any:
    """See `detsample.fold_in`."""
    lengths = {framework.shape(x)[0] for x in (topp_seed, i) if framework.is_tensor(x) and framework.shape(x)}
    if len(lengths - {1}) > 1:
        raise ValueError(f"topp_seed and i must have the same length, got {sorted(lengths)}")
    count = max(lengths, default=1) if 0 not in lengths else 0
    result = framework.empty((count,), "int64", device)
    areas = allocate(framework, device, UNUSED)
    unused = areas["unused"]
    seed = _argument(framework, device, "topp_seed", topp_seed, count, unused)
    index = _argument(framework, device, "i", i, count, unused)
    given = SEED_GIVEN.value * seed[0] + POSITION_GIVEN.value * index[0]
    if count:
        with framework.launching(device):
            launch = launcher(device)
            launch(folded_seeds, (-(-count // int(BLOCK.value)),),
                count, given, *seed[1:], *index[1:], framework.argument(result), num_warps=4, enable_fp_fusion=False
            )
    return result


def _rows_of(framework: Framework, *parameters: Any) -> int | None:
    """The number of rows that vectors among the parameters say; None if all are numbers."""
    for parameter in parameters:
        if framework.is_tensor(parameter) and framework.shape(parameter):
            return framework.shape(parameter)[0]
    return None


def _check_integers(framework: Framework, device: Device, name: str, tensor: Any) -> None:
    if not framework.is_tensor(tensor):
        kind = f"{type(tensor).__module__}.{type(tensor).__qualname__}"
        raise TypeError(f"{name} must be a number or a {framework.name} tensor, got {kind}")
    if framework.dtype_name(tensor) not in INTEGER_TYPES:
        raise TypeError(f"{name} must be of type {' or '.join(INTEGER_TYPES)}, got {framework.dtype_name(tensor)}")
    if framework.device(tensor) != device:
        raise ValueError(f"{name} must be on device {device}, got {framework.device(tensor)}")


def _argument(
    framework: Framework, device: Device, name: str, value: Any, rows: int, unused: Argument
) -> tuple[bool, Argument, int, int, int]:
    """(given, pointer, stride, low word, high word) of a seed, a position or an index."""
    if is_scalar(value):
        return (False, unused, 0, *words(as_integer(name, value, -(1 << 63), (1 << 64) - 1)))
    _check_integers(framework, device, name, value)
    shape = framework.shape(value)
    if shape not in ((), (1,), (rows,), (rows, 1)):
        raise ValueError(f"{name} must be a number or have shape [{rows}], got {list(shape)}")
    stride = framework.strides(value)[0] if shape and shape[0] > 1 else 0
    return True, framework.argument(value), integer(stride), 0, 0
