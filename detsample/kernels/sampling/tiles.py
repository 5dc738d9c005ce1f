"""How a row is cut: into segments of tiles of quads, and into groups of tokens that one summary number stands for.

A tile is `TILE` neighbouring tokens, loaded as `LANES` quads. A quad is four neighbours, which share one Philox
counter. A segment is `segment_tiles` tiles. Within a segment, the same `quads` neighbouring quads of every tile form a
group.

The host chooses the cut so that a row has at most 64 segments and `MOST_GROUPS` groups. Where rows are many, segments
are long and a group has one quad of each tile, so that no lane has to speak to another. Where rows are few, segments
are short and a group has 8 quads of each tile.

The groups of maxima belong to segments. The groups of score bounds belong to stretches. A stretch is one segment where
rows are few; where rows are many it is all segments of a part, because more bounds would take more memory than is
allowed. None of this can show in a result, since groups only say where to look.
"""

import triton
import triton.language as tl

LANES_BITS = tl.constexpr(8)
LANES = tl.constexpr(256)
TILE = tl.constexpr(1024)
TILE_WORDS = tl.constexpr(32)  # how many words of 32 bits hold a tile's set, and how many bytes do
TILE_OCTETS = tl.constexpr(128)
QUADS_BITS = tl.constexpr(3)
QUADS = tl.constexpr(8)  # how many quads of a tile are in one group, if it is more than one
MOST_SEGMENTS = tl.constexpr(64)
MOST_GROUPS = tl.constexpr(2048)

# What the L2 cache is to do with logits. Those that pass through it leave the kernels' code there, which each of the
# next kernel's programs would else fetch from memory, a few lines at a time (Triton says so to the cache from 3.6 on).
PASSING = tl.constexpr("evict_first")
STAYING = tl.constexpr("")


@triton.jit
def groups_of_segment(quads):
    """How many groups a segment has: one for each lane, or one for QUADS neighbouring lanes."""
    return tl.where(quads == 1, LANES, LANES // QUADS)


@triton.jit
def token_of_group(group, member, quads, segment_tiles):
    """The token that is number `member` of a group, which has `4 * quads * segment_tiles` tokens.

    It is computed with shifts. The compiler makes a real division of a quotient by one power of two or another.
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
def logits_of_row(logits, row, row_stride, allowed, allowed_stride, ALIGNED: tl.constexpr, ALLOWED: tl.constexpr):
    """A row's logits, as the functions below take them: a pointer to them, which is a multiple of 16 bytes if ALIGNED,
    and a pointer to the words or bytes whose bits say which tokens are allowed. If not ALLOWED, the second is the
    first, and nobody reads it.

    The compiler learns of the alignment here only. The kernels have Triton ignore the alignment of the argument
    `logits`, because Triton would compile each of them twice for it. The hint is given for the sum, because a hint
    about an argument is dropped.
    """
    row_logits = logits + row * row_stride
    if ALIGNED:
        row_logits = tl.multiple_of(row_logits, 16)  # of a pointer: bytes
    return row_logits, (allowed + row * allowed_stride) if ALLOWED else row_logits


@triton.jit
def forbid(x, row_logits, token, inside):
    """The logits of tokens as they were loaded, and -inf instead for those that are not allowed (spec section 2)."""
    sets = row_logits[1]
    if sets.dtype.element_ty.is_int():
        bits: tl.constexpr = sets.dtype.element_ty.primitive_bitwidth
        word = tl.load(sets + token // bits, mask=inside, other=0).to(tl.int32)
        x = tl.where(((word >> (token % bits).to(tl.int32)) & 1) != 0, x, float("-inf"))
    return x


@triton.jit
def load_tokens(row_logits, token, inside):
    """The logits of some tokens as fp32; -inf for those that are not `inside` the row."""
    x = tl.load(row_logits[0] + token, mask=inside, other=float("-inf"))
    return forbid(x, row_logits, token, inside).to(tl.float32)


@triton.jit
def split_quads(block):
    """Splits [LANES, 4] into four [LANES]. No data moves, since a thread holds whole quads."""
    even, odd = tl.split(tl.reshape(block, [LANES, 2, 2]))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def load_tile(row_logits, start, end, L2: tl.constexpr):
    """The logits of one tile, [LANES, 4], in the type in which they are stored, for `open_tile`; -inf from the token
    `end` on. A whole tile is loaded without a mask, and so in full width. `L2` is PASSING or STAYING.

    Nothing is converted to fp32 here, and nothing is made -inf: it would wait for the load.
    """
    ALLOWED: tl.constexpr = row_logits[1].dtype.element_ty.is_int()
    log: tl.constexpr = 5 if row_logits[1].dtype.element_ty == tl.uint32 else 3  # of how many bits are in a word
    tokens = start + tl.arange(0, LANES)[:, None] * 4 + tl.arange(0, 4)[None, :]
    sets = row_logits[1] + (start >> log)
    word = tl.arange(0, TILE_WORDS if log == 5 else TILE_OCTETS)
    if start + TILE <= end:
        x = tl.load(row_logits[0] + tokens, eviction_policy=L2)
        words = tl.load(sets + word) if ALLOWED else 0
    else:
        x = tl.load(row_logits[0] + tokens, mask=tokens < end, other=float("-inf"), eviction_policy=L2)
        words = tl.load(sets + word, mask=start + (word << log) < end, other=0) if ALLOWED else 0
    return (x, words, start, end) if ALLOWED else x


@triton.jit
def open_tile(tile, row_logits):
    """What `load_tile` has loaded as fp32, [LANES, 4], with -inf for tokens that are not allowed."""
    sets = row_logits[1]
    if sets.dtype.element_ty.is_int():
        log: tl.constexpr = 5 if sets.dtype.element_ty == tl.uint32 else 3
        x, words, start, end = tile
        x = x.to(tl.float32)
        # Many sets forbid few tokens: a tile of which all are allowed costs one comparison. Words of other tiles are
        # read again, from the cache, by the lanes that need them.
        if tl.min(words.to(tl.uint32), axis=0) != (1 << (1 << log)) - 1:
            token = tl.arange(0, LANES) * 4
            word = tl.load(sets + (start >> log) + (token >> log), mask=start + token < end, other=0)
            word = word.to(tl.int32) >> (token & ((1 << log) - 1))
            x = tl.where((word[:, None] & (1 << tl.arange(0, 4))[None, :]) != 0, x, float("-inf"))
        return x
    else:
        return tile.to(tl.float32)


@triton.jit
def next_tile(tile, row_logits, start, end, L2: tl.constexpr):
    """(`open_tile` of a tile, `load_tile` of the next one), which is asked for first: opening waits for the tile."""
    ahead = load_tile(row_logits, start, end, L2)
    return open_tile(tile, row_logits), ahead


@triton.jit
def load_span(row_logits, start, vocab, SIZE: tl.constexpr):
    """The logits of SIZE neighbouring tokens as fp32; -inf behind the end of the row."""
    tokens = start + tl.arange(0, SIZE)
    if start + SIZE <= vocab:
        x = tl.load(row_logits[0] + tokens)
    else:
        x = tl.load(row_logits[0] + tokens, mask=tokens < vocab, other=float("-inf"))
    return forbid(x, row_logits, tokens, tokens < vocab).to(tl.float32)


@triton.jit
def store_groups(pointer, segment, per_lane, quads):
    """Stores the largest value of each group of a segment, given one value for each lane, none of them NaN."""
    if quads == 1:
        tl.store(pointer + segment * LANES + tl.arange(0, LANES), per_lane)
    else:
        folded = tl.max(tl.reshape(per_lane, [LANES // QUADS, QUADS]), axis=1)
        tl.store(pointer + segment * (LANES // QUADS) + tl.arange(0, LANES // QUADS), folded)
