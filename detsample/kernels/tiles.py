"""How a row is cut: segments of tiles of quads, and the groups of tokens that one summary number stands for.

A tile is `TILE` tokens, loaded as `LANES` quads: four neighbours share one Philox counter. A segment is
`segment_tiles` tiles, chosen by the host so that a row has at most 128 of them. Within a segment, `QUADS`
neighbouring quads of every tile form a group; a row has at most `MOST_GROUPS` groups. None of this can show in
a result: groups only tell where to look.
"""

import triton
import triton.language as tl

LANES = tl.constexpr(256)
TILE = tl.constexpr(1024)
QUADS = tl.constexpr(16)  # quads of a tile in one group
SPAN = tl.constexpr(64)  # tokens of a tile in one group
GROUPS = tl.constexpr(16)  # groups of a segment
MOST_SEGMENTS = tl.constexpr(128)
MOST_GROUPS = tl.constexpr(2048)


@triton.jit
def first_token_of_group(group, segment_tiles):
    """The group's first token in the first tile of its segment; in each further tile it lies TILE tokens on."""
    return (group // GROUPS) * (segment_tiles * TILE) + (group % GROUPS) * SPAN


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
def fold_groups(per_lane):
    """The largest value of each group, [GROUPS], from one value a lane (no NaN)."""
    return tl.max(tl.reshape(per_lane, [GROUPS, QUADS]), axis=1)
