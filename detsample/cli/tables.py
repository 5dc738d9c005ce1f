"""Text for terminals: aligned lines, and tokens and prompts on one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def line(cells: Sequence[Any], widths: Sequence[int]) -> str:
    """Cells in columns: a negative width aligns to the left, a positive one to the right.

    >>> line(["a", 1], [-4, 3])
    'a       1'
    """
    padded = [str(c).ljust(-w) if w < 0 else str(c).rjust(w) for c, w in zip(cells, widths, strict=True)]
    return "  ".join(padded).rstrip()


def shortest(value: Any) -> str:
    """An fp32 number in the fewest digits that read back as the same bits.

    >>> shortest(np.float32(-2.8681498))
    '-2.8681498'
    """
    value = np.float32(value)
    return "nan" if np.isnan(value) else np.format_float_positional(value, unique=True, trim="0")


def bits(value: Any) -> str:
    """The bits of an fp32 number.

    >>> bits(np.float32(1))
    '0x3f800000'
    """
    return f"0x{int(np.float32(value).view(np.uint32)):08x}"


def clipped(text: str, width: int) -> str:
    """The end of a text on one line, at most so wide.

    >>> clipped("the quick brown fox", 10)
    '…brown fox'
    """
    text = "".join(c if c.isprintable() else "⏎" if c == "\n" else "·" for c in text)
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]


def token_text(text: str, width: int) -> str:
    """A token with its spaces visible; cut at the end where it is too wide.

    >>> token_text(" the\\n", 12)
    '␣the⏎'
    """
    text = "".join("␣" if c == " " else "⏎" if c == "\n" else c if c.isprintable() else "·" for c in text)
    return text if len(text) <= width else text[: width - 1] + "…"
