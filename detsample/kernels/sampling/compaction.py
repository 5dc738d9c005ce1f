"""A few tokens among many, marked by one bit each, so that what is computed for them alone costs the others next to
nothing.

A lane of a program holds four neighbouring tokens of every tile, so eight tiles make 32 marks a lane, which is one
word. Afterwards every lane goes through its own marks, in as many rounds as the lane with the most marks needs.
"""

import triton
import triton.language as tl

from detsample.kernels.sampling.candidates import LIST
from detsample.kernels.sampling.tiles import LANES, TILE

TILES_MARKED = tl.constexpr(8)


@triton.jit
def no_marks():
    """The marks of a program that has marked no token yet, as uint32 [LANES]."""
    return tl.zeros([LANES], tl.uint32)


@triton.jit
def mark_tile(marks, which):
    """Adds one tile to the marks and returns them; `which` is a [LANES, 4] condition that says which of its tokens to
    mark.
    """
    bits = which.to(tl.uint32) << tl.arange(0, 4).to(tl.uint32)[None, :]
    return (marks << 4) | tl.sum(bits, axis=1).to(tl.uint32)


@triton.jit
def number_marked(marks):
    """[LANES] int32: the number of marks of each lane."""
    pairs = marks - ((marks >> 1) & 0x55555555)
    fours = (pairs & 0x33333333) + ((pairs >> 2) & 0x33333333)
    eights = (fours + (fours >> 4)) & 0x0F0F0F0F
    return ((eights * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def next_marked(marks, start, tiles):
    """(the token of each lane's lowest mark, the marks without it), where `tiles` tiles from the token `start` on were
    marked. Without a mark the token means nothing.
    """
    rest = marks & (marks - 1)
    place = ((marks ^ rest).to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127
    tile = tiles - 1 - (place >> 2)
    return tl.arange(0, LANES) * 4 + tile * TILE + (place & 3) + start, rest


@triton.jit
def list_marked(marks, start, tiles, listed, list_token):
    """Appends the marked tokens to a row's list, in the order in which programs arrive, which is never relied on.
    `listed` points at its length, which may exceed what it holds. A program asks for all its places at once.
    """
    number = number_marked(marks)
    total = tl.sum(number, axis=0)
    if total > 0:
        place = tl.atomic_add(listed, total.to(tl.int64), sem="relaxed") + tl.cumsum(number, axis=0) - number
        for _ in range(tl.max(number, axis=0)):
            token, rest = next_marked(marks, start, tiles)
            tl.store(list_token + place, token, mask=(marks != 0) & (place >= 0) & (place < LIST))
            place += 1
            marks = rest
