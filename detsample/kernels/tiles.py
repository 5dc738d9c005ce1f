"""How a row is cut: segments of tiles of quads, and the groups of tokens that one summary number stands for.

A tile is `TILE` tokens, loaded as `LANES` quads: four neighbours share one Philox counter. A segment is `segment_tiles`
tiles. Within a segment, `quads` neighbouring quads of every tile form a group. The host chooses so that a row has at
most 128 segments and `MOST_GROUPS` groups: long segments and one quad to a group where rows are many, since then no
lane has to speak to another, and short segments with 16 where they are few. None of this can show in a result:
groups only tell where to look.
"""

import triton
import triton.language as tl

LANES = tl.constexpr(256)
TILE = tl.constexpr(1024)
QUADS = tl.constexpr(16)  # quads of a tile in one group, where it is not one
MOST_SEGMENTS = tl.constexpr(128)
MOST_GROUPS = tl.constexpr(2048)


@triton.jit
def groups_of_segment(quads):
    return tl.where(quads == 1, LANES, LANES // QUADS)


@triton.jit
def token_of_group(group, member, quads, segment_tiles):
    """The token number `member` of groups; a group has `4 * quads * segment_tiles`.

    In shifts: of quotients by one power of two or another the compiler makes a real division.
    """
    alone = quads == 1
    segment = group >> tl.where(alone, 8, 4)  # LANES groups or LANES // QUADS in a segment
    first = (group & tl.where(alone, 255, 15)) << tl.where(alone, 2, 6)
    tile = member >> tl.where(alone, 2, 6)  # 4 tokens or 4 * QUADS of a tile in a group
    within = member & tl.where(alone, 3, 63)
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
def load_tile(row_logits, start, vocab):
    """The logits of one tile as fp32 [LANES, 4]; -inf behind the end. A whole tile is loaded without a mask,
    hence in full width.
    """
    tokens = start + tl.arange(0, LANES)[:, None] * 4 + tl.arange(0, 4)[None, :]
    if start + TILE <= vocab:
        x = tl.load(row_logits + tokens).to(tl.float32)
    else:
        x = tl.load(row_logits + tokens, mask=tokens < vocab, other=float("-inf")).to(tl.float32)
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
