"""The launch that serves a call on a GPU (or, for tests, in Triton's interpreter)."""

from __future__ import annotations

from typing import Any

from detsample.frameworks.pointer import integer, missing
from detsample.kernels.processing import (
    FREQUENCY_GIVEN,
    LENGTH_GIVEN,
    PRESENCE_GIVEN,
    REPETITION_GIVEN,
)
from detsample.kernels.processing import process as process_kernel
from detsample.launching.launch import launcher
from detsample.launching.workspace import allocate, layout
from detsample.processing.arguments import CONVENTIONS, LISTS, Asked, Ids
from detsample.sampler.kernel_arguments import TEMPERATURE, TOP_K, arguments

NUMBERS = (
    ("repetition", TEMPERATURE._replace(bit=REPETITION_GIVEN.value)),
    ("frequency", TEMPERATURE._replace(bit=FREQUENCY_GIVEN.value)),
    ("presence", TEMPERATURE._replace(bit=PRESENCE_GIVEN.value)),
    ("length", TOP_K._replace(bit=LENGTH_GIVEN.value)),
)


def process(asked: Asked) -> None:
    """Change the logits of a call. The kernel's memory, four bytes for each logit and as many again with a bias, is not
    initialised, and only the words of tokens that are named are touched.
    """
    of = asked.logits
    framework, device = of.framework, of.device

    def pointer(tensor: Any, dtype: str = "int64") -> Any:
        return missing(device[0], dtype) if tensor is None else framework.argument(tensor)

    def table(tensor: Any) -> tuple[Any, int]:
        return pointer(tensor), 0 if tensor is None or asked.requests < 2 else integer(framework.strides(tensor)[0])

    bad_count, longest = (0, 0) if asked.bad_words is None else framework.shape(asked.bad_words)[1:]
    bias = of.rows * of.vocab if "bias" in asked.lists else 0
    areas = allocate(framework, device, layout({
        "marks": ("int32", of.rows * of.vocab), "chosen": ("int32", bias),
        "path": ("int64", of.rows * asked.width), "matched": ("int64", of.rows * bad_count),
    }))  # fmt: skip
    given = arguments(framework, device, [(kind, asked.numbers[name]) for name, kind in NUMBERS])
    lists: list[Any] = []
    for name in LISTS:
        of_name = asked.lists.get(name, Ids(None, None, None, 0, 0, 0))
        lists += [*map(pointer, of_name[:3]), *of_name[3:]]
        if name == "bias":
            lists.append(pointer(asked.values, "float32"))
    with framework.launching(device):
        launcher(device)(process_kernel, (asked.requests, asked.width),
            framework.argument(of.tensor), of.row_stride, of.vocab, of.rows, asked.width, CONVENTIONS[asked.convention],
            int(asked.row_offsets is not None), pointer(asked.row_offsets), *table(asked.drafts), *table(asked.parents),
            *given, *lists, *table(asked.bad_words), bad_count, longest, *areas.values(),
            TREE=asked.parents is not None, num_warps=16, enable_fp_fusion=False,
        )  # fmt: skip
