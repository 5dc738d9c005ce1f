"""Checks the arguments of a call as far as the host can see them, and brings them into the form that kernels take.

What only the device can see, such as a bad value inside a vector, is left to the kernels, which set that row's status.
"""

from __future__ import annotations

import math
import numbers
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from detsample import frameworks
from detsample.frameworks import Description, Device, Framework, UnusableTensor
from detsample.frameworks.pointer import Pointer, integer
from detsample.reference.float_mode import usual_mode
from detsample.sampler.output import Wanted

LARGEST_VOCABULARY = 1 << 21
MOST_ROWS = (1 << 31) - 1
LOGIT_TYPES = ("float32", "bfloat16", "float16")
INTEGER_TYPES = ("int64", "int32")
SEED_TYPES = (*INTEGER_TYPES, "uint64", "uint32")
REAL_TYPES = ("float32", "float64", "float16", "bfloat16")
MASK_KINDS = ("bool", "bits", "csr")
FILTER_ORDERS = ("top_k_first", "min_p_first", "joint")
_FP32 = struct.Struct("<f")
_EXACT = 1 << 53  # integers up to it are fp64 numbers
# By their classes NumPy's time spans and Python's bools are integers, but neither is meant as a number.
_NO_NUMBERS = (bool, np.bool_, np.timedelta64)


class Scalar(NamedTuple):
    """A parameter that is one number for the whole batch: a Python int, or a float that fp32 can hold."""

    value: int | float


class Vector(NamedTuple):
    """A parameter with one number for each row: a tensor, and the step from row to row in elements, which is 0 if all
    rows have the same number.
    """

    tensor: Any
    stride: int
    pointer: Pointer | None = None
    """The tensor as a kernel's argument, if it is on a GPU and has been looked up; else None."""


Parameter = Scalar | Vector


def is_number(parameter: Parameter, value: float) -> bool:
    """Whether a parameter is this number for the whole batch, as far as the host can tell."""
    return isinstance(parameter, Scalar) and parameter.value == value


class Parameters(NamedTuple):
    """Everything a row's token depends on besides its logits."""

    topp_seed: Parameter
    position: Parameter
    temperature: Parameter
    top_k: Parameter
    top_p: Parameter
    min_p: Parameter
    filter_order: str = "top_k_first"
    """One of `FILTER_ORDERS`, for all rows: which tokens top-p takes its share of."""


class Logits(NamedTuple):
    """The logits of a call and what the host knows of them."""

    tensor: Any
    framework: Framework
    device: Device
    rows: int
    vocab: int
    row_stride: int
    dtype: str
    pointer: Pointer | None = None
    """See `Vector`."""
    allowed: Vector | None = None
    """The tokens that each row allows, as bits; the stride is in elements. None: all."""


def read_draw(
    logits: Any,
    topp_seed: Any,
    position: Any,
    temperature: Any,
    top_k: Any,
    top_p: Any,
    min_p: Any,
    filter_order: Any,
    allowed: Any,
    shared_noise: Any,
) -> tuple[Logits, Parameters]:
    """Check the logits and the parameters of a call that draws from each row.

    Raises
    ------
    TypeError, ValueError
        As `read_logits`, `read_allowed`, `read_parameters` and `refuse_shared_noise`.
    """
    logits = as_rows(logits)
    of = read_allowed(read_logits(logits, frameworks.of(logits, "logits")), allowed)
    given = read_parameters(of, topp_seed, position, temperature, top_k, top_p, min_p, filter_order)
    refuse_shared_noise(given, of.rows, "row", shared_noise)
    return of, given


def as_rows(logits: Any) -> Any:
    """Logits in the forms that are taken for [B, V] fp32: a row [V], lists of numbers, fp64 that holds fp32 numbers.

    Numbers in lists are rounded to fp32, as other numbers are. What is none of these comes back as it is.

    Raises
    ------
    TypeError, ValueError
        If a list holds anything but rows of real numbers of one length, or fp64 numbers that are no fp32 numbers:
        rounding them would change tokens without a word.
    """
    if isinstance(logits, (list, tuple)):
        logits = _from_lists(logits)
    framework = frameworks.of(logits, "logits")
    if framework.dtype_name(logits) == "float64" and not framework.on_gpu(logits):
        exact = framework.as_array(logits)
        with np.errstate(over="ignore"):
            rounded = exact.astype(np.float32)
        lost = np.argwhere((rounded != exact) & ~np.isnan(exact))
        if lost.size:
            raise ValueError(
                "logits must be fp32 numbers where they are float64, got "
                f"{exact[tuple(lost[0])]} at {lost[0].tolist()}: cast them to float32"
            )
        logits = framework.from_array(rounded, framework.device(logits))
    try:
        is_row = len(framework.shape(logits)) == 1
    except RuntimeError:  # some nested tensors have no shape; `read_logits` refuses them by name
        is_row = False
    return logits[None] if is_row else logits


def _from_lists(rows: Sequence[Any]) -> np.ndarray:
    """A row, or rows, of numbers."""
    rows = rows if rows and all(isinstance(row, (list, tuple)) for row in rows) else [rows]
    if len({len(row) for row in rows}) != 1:
        raise ValueError(f"logits must be rows of one length, got lengths {sorted({len(row) for row in rows})}")
    numbers = [_real_number("logits", x, "real numbers", lambda _: True) for row in rows for x in row]
    return np.array(numbers, np.float32).reshape(len(rows), -1) if numbers else np.empty((len(rows), 0), np.float32)


def read_logits(tensor: Any, framework: Framework) -> Logits:
    """Check the logits.

    Raises
    ------
    TypeError
        If the element type is none of fp32, bf16 and fp16, or the tensor is not plain memory on a GPU or the CPU.
    ValueError
        If the shape is not [B, V] with B below 2^31 and V between 1 and 2^21, or tokens of a row are not neighbours
        in memory (GPU only).
    """
    shape, dtype, device, strides, pointer = described("logits", tensor, framework)
    if dtype not in LOGIT_TYPES:
        raise TypeError(f"logits must be float32, bfloat16 or float16, got {dtype}")
    if len(shape) != 2:
        raise ValueError(f"logits must have shape [B, V], got {list(shape)}")
    if not 1 <= shape[1] <= LARGEST_VOCABULARY:
        raise ValueError(f"logits must have between 1 and 2^21 columns, got {shape[1]}")
    rows, vocab = shape
    if rows > MOST_ROWS:
        raise ValueError(f"logits must have fewer than 2^31 rows, got {rows}")
    if device[0] == "gpu" and rows and vocab > 1 and strides[1] != 1:
        raise ValueError(
            f"logits on a GPU must have neighbouring tokens side by side (column stride 1), got strides {list(strides)}"
        )
    row_stride = integer(strides[0]) if rows > 1 else vocab
    return Logits(tensor, framework, device, rows, vocab, row_stride, dtype, pointer)


def read_allowed(of: Logits, allowed: Any) -> Logits:
    """Check the sets of allowed tokens, and return the logits with them.

    Raises
    ------
    TypeError
        If the sets are no tensor like the logits, or their element type is none of int32, uint32 and uint8.
    ValueError
        If they have not a bit for each token of each row, in the form that section 10 of the contract gives sets, or
        are on another device.
    """
    if allowed is None:
        return of
    _check_class(of, "allowed", allowed)
    shape, dtype, device, strides, pointer = described("allowed", allowed, of.framework)
    words = -(-of.vocab // 32)
    widths = {"int32": (words,), "uint32": (words,), "uint8": (-(-of.vocab // 8), 4 * words)}
    if dtype not in widths:
        raise TypeError(f"allowed must be of type int32, uint32 or uint8, got {dtype}")
    if shape not in [(of.rows, width) for width in widths[dtype]]:
        raise ValueError(
            f"allowed must have a bit for each of {of.vocab} tokens, as {dtype} [{of.rows}, {widths[dtype][0]}], got "
            f"{list(shape)}"
        )
    if device != of.device:
        raise ValueError(f"allowed must be on the logits' device {of.device}, got {device}")
    if device[0] == "gpu" and of.rows and shape[1] > 1 and strides[1] != 1:
        raise ValueError(f"allowed on a GPU must have neighbouring bits side by side, got strides {list(strides)}")
    return of._replace(allowed=Vector(allowed, strides[0] if of.rows > 1 else 0, pointer))


def read_parameters(
    logits: Logits,
    topp_seed: Any,
    position: Any,
    temperature: Any,
    top_k: Any,
    top_p: Any,
    min_p: Any,
    filter_order: Any = "top_k_first",
) -> Parameters:
    """Check the parameters of a call.

    Raises
    ------
    TypeError
        If one is neither a number nor a tensor of the logits' framework, or has the wrong element type.
    ValueError
        If a number is out of range, or a tensor is not [B], [B, 1] or a scalar, or is on another device.
    """
    return Parameters(
        topp_seed=read_integer("topp_seed", topp_seed, logits, -(1 << 63), (1 << 64) - 1, SEED_TYPES),
        position=read_integer("position", position, logits, 0, (1 << 63) - 1),
        temperature=read_real("temperature", temperature, logits, "finite and at least 0", _is_temperature),
        top_k=read_integer("top_k", top_k, logits, -(1 << 63), (1 << 63) - 1),
        top_p=read_real("top_p", top_p, logits, "a share of 1, not above it (1 is off) and not NaN", _is_share),
        min_p=read_real("min_p", min_p, logits, "a share of 1, not above it (0 is off) and not NaN", _is_share),
        filter_order=read_filter_order(filter_order),
    )


def refuse_shared_noise(parameters: Parameters, count: int, one: str, shared_noise: Any) -> None:
    """Refuse a single seed together with a single position for several rows or requests, unless it is said to be meant.

    All rows would draw with the same noise, and equal rows would draw the same token. This is the most common mistake
    of all. Noise that depends on the row's number would be no solution, because a token would then depend on its place
    in the batch. At a temperature of 0 nothing is drawn at random, so nothing is refused.

    Parameters
    ----------
    parameters : Parameters
        Checked.
    count : int
        How many rows or requests there are.
    one : str
        "row" or "request".
    shared_noise : bool
        Whether it is meant.

    Raises
    ------
    TypeError, ValueError
        If `shared_noise` is no flag; if noise is shared, and it is not said.
    """
    allowed = read_flag("shared_noise", shared_noise)
    seed, position, temperature = parameters.topp_seed, parameters.position, parameters.temperature
    if allowed or count < 2 or not (_is_single(seed) and _is_single(position)):
        return
    if isinstance(temperature, Scalar) and temperature.value == 0:
        return
    raise ValueError(
        f"topp_seed and position must differ between {one}s, got one of each for {count} {one}s, which would share "
        f"their noise: pass topp_seed=detsample.fold_in(topp_seed, i), where i holds a number for each {one}, or say "
        "shared_noise=True"
    )


def _is_single(parameter: Parameter) -> bool:
    return isinstance(parameter, Scalar) or parameter.stride == 0


def read_wanted(return_logprobs: Any, return_log_z: Any, return_mask: Any, return_num_kept: Any = True) -> Wanted:
    """Check which results a call that draws asks for."""
    return Wanted(
        True,
        read_flag("return_logprobs", return_logprobs),
        read_flag("return_log_z", return_log_z),
        read_mask_kind("return_mask", return_mask),
        read_flag("return_num_kept", return_num_kept),
    )


def read_wanted_of_mask(kind: Any, return_log_z: Any) -> Wanted:
    """Check which results a call that makes a mask asks for."""
    if read_mask_kind("kind", kind) is None:
        raise ValueError("kind must be 'bool', 'bits' or 'csr', got None")
    return Wanted(False, False, read_flag("return_log_z", return_log_z), kind)


def read_filter_order(filter_order: Any) -> str:
    """Check the name of an order of filters."""
    if not (isinstance(filter_order, str) and filter_order in FILTER_ORDERS):
        raise ValueError(f"filter_order must be one of {', '.join(map(repr, FILTER_ORDERS))}, got {filter_order!r}")
    return filter_order


def read_mask_kind(name: str, kind: str | None) -> str | None:
    """Check the kind of mask asked for."""
    if kind is not None and not (isinstance(kind, str) and kind in MASK_KINDS):
        raise ValueError(f"{name} must be None, 'bool', 'bits' or 'csr', got {kind!r}")
    return kind


def read_flag(name: str, value: Any) -> bool:
    """Check an argument that must be True or False. Other values that Python takes for true, such as "no" or an array,
    are refused.
    """
    if type(value) is bool:
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    got = repr(value) if is_scalar(value) or value is None or isinstance(value, str) else f"a {class_name(value)}"
    raise TypeError(f"{name} must be True or False, got {got}")


def described(name: str, tensor: Any, framework: Framework) -> Description:
    """Return what the framework's adapter says of a tensor. If the adapter cannot use the tensor, raise an error that
    names the argument.
    """
    try:
        return framework.describe(tensor)
    except UnusableTensor as error:
        raise TypeError(f"{name} {error}") from None


def check_like(framework: Framework, device: Any, name: str, tensor: Any, types: tuple[str, ...]) -> None:
    """Raise an error that names the argument, unless it is a tensor like the logits and of one of these types."""
    if not framework.is_tensor(tensor):
        raise TypeError(f"{name} must be a {framework.name} tensor like the logits, got {class_name(tensor)}")
    if framework.dtype_name(tensor) not in types:
        raise TypeError(f"{name} must be of type {' or '.join(types)}, got {framework.dtype_name(tensor)}")
    if framework.device(tensor) != device:
        raise ValueError(f"{name} must be on the logits' device {device}, got {framework.device(tensor)}")


def as_integer(name: str, value: Any, least: int, most: int) -> int:
    """Return an integer of any class but bool as a Python int, if it is in range."""
    # In the usual case the class is enough, and checking it is quicker than asking for what NumPy registers as numbers.
    if type(value) is not int and (isinstance(value, _NO_NUMBERS) or not isinstance(value, numbers.Integral)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if not least <= int(value) <= most:
        raise ValueError(f"{name} must be between {least} and {most}, got {value}")
    return int(value)


def is_scalar(value: object) -> bool:
    """Whether an argument is a single number, of Python's classes or NumPy's."""
    return type(value) in (int, float) or isinstance(value, (numbers.Number, np.generic))


def _is_temperature(value: float) -> bool:
    return 0.0 <= value < math.inf


def _is_share(value: float) -> bool:
    return value <= 1.0


def read_integer(
    name: str, value: Any, logits: Logits, least: int, most: int, types: tuple[str, ...] = INTEGER_TYPES
) -> Parameter:
    """Check a parameter that is an integer in a range, or a vector of integers."""
    # A tensor like the logits is the usual case, and it is quicker to see that it is one than that it is not a number.
    if type(value) is not type(logits.tensor) and is_scalar(value):
        return Scalar(as_integer(name, value, least, most))
    return _vector(name, value, logits, types)


def read_real(name: str, value: Any, logits: Logits, expected: str, valid: Callable[[float], bool]) -> Parameter:
    """Check a parameter that is a real number for which `valid` holds, or a vector of real numbers."""
    if type(value) is not type(logits.tensor) and is_scalar(value):
        return Scalar(_real_number(name, value, expected, valid))
    return _vector(name, value, logits, REAL_TYPES)


def _real_number(name: str, value: Any, expected: str, valid: Callable[[float], bool]) -> float:
    if type(value) not in (float, int):
        if isinstance(value, np.generic) and value.dtype.name == "bfloat16":  # of ml_dtypes, to Python no number
            value = float(value)
        elif isinstance(value, _NO_NUMBERS) or not isinstance(value, numbers.Real):
            raise TypeError(f"{name} must be a real number, got {value!r}")
    rounded = to_fp32(value)
    if not valid(rounded):
        raise ValueError(f"{name} must be {expected}, got {value}")
    return rounded


@usual_mode
def to_fp32(value: Any) -> float:
    """A real number rounded once to fp32, to the nearest and to even between two; infinite if it is beyond fp32."""
    try:
        if type(value) is not float and not (type(value) is int and -_EXACT <= value <= _EXACT):
            value = _like_in_fp64(value)
        return _FP32.unpack(_FP32.pack(value))[0]
    except OverflowError:  # numbers that do not round to a finite one, in fp64 or in fp32
        return math.inf if value > 0 else -math.inf


def _like_in_fp64(value: Any) -> float:
    """Return a float that rounds to the same fp32 as a given real number of any kind. `float` is not enough, because it
    rounds, too: its result may lie half-way between two fp32 numbers where the number itself does not.
    """
    if isinstance(value, (float, np.float32, np.float16)):
        return float(value)
    if isinstance(value, numbers.Integral):
        return _cut(int(value), 1)
    if isinstance(value, numbers.Rational):
        return _cut(int(value.numerator), int(value.denominator))
    if not hasattr(value, "as_integer_ratio") or not math.isfinite(value):
        return float(value)
    return _cut(*value.as_integer_ratio())


def _cut(numerator: int, denominator: int) -> float:
    """Cut a fraction to 50 or 51 bits, and set the last bit if any bit beyond it is set. This keeps enough to tell a
    number that is half-way between two fp32 numbers from one that is only near.
    """
    magnitude = abs(numerator)
    shift = 50 - magnitude.bit_length() + denominator.bit_length()
    quotient, rest = divmod(magnitude << max(shift, 0), denominator << max(-shift, 0))
    cut = math.ldexp(quotient | (rest != 0), -shift)
    return cut if numerator >= 0 else -cut


def _vector(name: str, tensor: Any, logits: Logits, types: tuple[str, ...]) -> Vector:
    framework = logits.framework
    _check_class(logits, name, tensor, "a number or ")
    shape, dtype, device, strides, pointer = described(name, tensor, framework)
    if dtype not in types:
        raise TypeError(f"{name} must be of type {' or '.join(types)}, got {dtype}")
    if device != logits.device:
        raise ValueError(f"{name} must be on the logits' device {logits.device}, got {device}")
    rows = logits.rows
    if shape == ():
        return Vector(tensor, 0, pointer)
    if shape not in ((rows,), (rows, 1)):
        raise ValueError(f"{name} must be a number or have shape [{rows}] (or [{rows}, 1]), got {list(shape)}")
    return Vector(tensor, integer(strides[0]) if rows > 1 else 0, pointer)


def _check_class(logits: Logits, name: str, tensor: Any, others: str = "") -> None:
    framework = logits.framework
    if type(tensor) is not type(logits.tensor) and not framework.is_tensor(tensor):
        got = class_name(tensor)
        raise TypeError(f"{name} must be {others}a {framework.name} tensor like the logits, got {got}")


def class_name(value: object) -> str:
    """The name of the class of an argument, for the message of an error."""
    return f"{type(value).__module__}.{type(value).__qualname__}"
