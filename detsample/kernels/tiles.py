"""How a row is cut: segments of tiles of quads, and the groups of tokens that one summary number stands for.

A tile is `TILE` tokens, loaded as `LANES` quads: four neighbours share one Philox counter. A segment is `segment_tiles`
tiles. Within a segment, `quads` neighbouring quads of every tile form a group. The host chooses so that a row has at
most 64 segments and `MOST_GROUPS` groups: long segments and one quad to a group where rows are many, since then no
lane has to speak to another, and short segments with 8 where they are few. Groups of maxima are of segments; groups of
score bounds are of stretches, where rows are many all segments of a part, since memory for more would exceed what is
allowed. None of this can show in a result: groups only tell where to look.
"""

import triton
import triton.language as tl

LANES_BITS = tl.constexpr(8)
LANES = tl.constexpr(256)
TILE = tl.constexpr(1024)
QUADS_BITS = tl.constexpr(3)
QUADS = tl.constexpr(8)  # quads of a tile in one group, where it is not one
MOST_SEGMENTS = tl.constexpr(64)
MOST_GROUPS = tl.constexpr(2048)

# What the L2 cache is to do with logits. Those that pass through it leave the kernels' code there, which each of the
# next kernel's programs would else fetch from memory, a few lines at a time (Triton says so to the cache from 3.6 on).
PASSING = tl.constexpr("evict_first")
STAYING = tl.constexpr("")


@triton.jit
def groups_of_segment(quads):
    return tl.where(quads == 1, LANES, LANES // QUADS)


@triton.jit
def token_of_group(group, member, quads, segment_tiles):
    """The token number `member` of groups; a group has `4 * quads * segment_tiles`.

    In shifts: of quotients by one power of two or another the compiler makes a real division.
    """
    folded = tl.where(quads == 1, 0, QUADS_BITS)
    lanes = -folded + LANES_BITS  # bits of a group's number within its segment
    tokens = 2 + folded  # bits of a token's number within its group's quads of a tile
    segment = group >> lanes
    first = (group & ((1 << lanes) - 1)) << tokens
    tile = member >> tokens
    within = member & ((1 << tokens) - 1)
    return (segment * segment_tiles + tile) * TILE + first + within


@triton.jit
def logits_of_row(logits, row, row_stride, ALIGNED: tl.constexpr):
    """Where a row's logits start: on 16 bytes if ALIGNED.

    Only this tells the compiler so. Kernels have Triton ignore the alignment of `logits` itself, for which it would
    compile each of them twice. The hint is about the sum, since one about an argument is dropped.
    """
    row_logits = logits + row * row_stride
    if ALIGNED:
        row_logits = tl.multiple_of(row_logits, 16)  # of a pointer: bytes
    return row_logits


@triton.jit
def split_quads(block):
    """[LANES, 4] to four [LANES]: no data moves, since a thread holds whole quads."""
    even, odd = tl.split(tl.reshape(block, [LANES, 2, 2]))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def load_tile(row_logits, start, end, L2: tl.constexpr):
    """The logits of one tile, [LANES, 4], as they are stored; -inf from the token `end` on. A whole tile is loaded
    without a mask, hence in full width. `L2` is PASSING or STAYING.

    Loops load the tile after the one they work on, so that the work hides the time of the load: a conversion to fp32
    would wait for it here.
    """
    tokens = start + tl.arange(0, LANES)[:, None] * 4 + tl.arange(0, 4)[None, :]
    if start + TILE <= end:
        x = tl.load(row_logits + tokens, eviction_policy=L2)
    else:
        x = tl.load(row_logits + tokens, mask=tokens < end, other=float("-inf"), eviction_policy=L2)
    return x


@triton.jit
def load_span(row_logits, start, vocab, SIZE: tl.constexpr):
    """The logits of SIZE neighbouring tokens as fp32; -inf behind the end."""
    tokens = start + tl.arange(0, SIZE)
    if start + SIZE <= vocab:
        x = tl.load(row_logits + tokens).to(tl.float32)
    else:
        x = tl.load(row_logits + tokens, mask=tokens < vocab, other=float("-inf")).to(tl.float32)
    return x


@triton.jit
def store_groups(pointer, segment, per_lane, quads):
    """Stores the largest value of each of a segment's groups, from one value a lane (no NaN)."""
    if quads == 1:
        tl.store(pointer + segment * LANES + tl.arange(0, LANES), per_lane)
    else:
        folded = tl.max(tl.reshape(per_lane, [LANES // QUADS, QUADS]), axis=1)
        tl.store(pointer + segment * (LANES // QUADS) + tl.arange(0, LANES // QUADS), folded)
