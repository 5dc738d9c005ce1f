"""Which rows belong to which request, and the parameters of requests copied to their rows (spec section 14).

A request has one set of parameters and several rows of logits: one for each drafted token, and one behind them.
`expand` writes the parameters of every row, so that these rows can be sampled like any others. Ragged offsets are read
on the device only. A request whose offsets do not fit gets no row, and a row that belongs to no request is made greedy,
which is cheapest.
"""

import triton
import triton.language as tl

from detsample.kernels.sampling.rows import (
    MIN_P_GIVEN,
    POSITION_GIVEN,
    SEED_GIVEN,
    TEMPERATURE_GIVEN,
    TOP_K_GIVEN,
    TOP_P_GIVEN,
    join_words,
)

ROWS = tl.constexpr(32)  # how many rows a program of `expand` takes
REQUESTS = tl.constexpr(64)  # how many requests are looked at at a time
NOBODY = tl.constexpr(0x7FFFFFFF)
COUNT_GIVEN = tl.constexpr(64)  # a bit of `given`, beside those of `rows`: the number of rows is a vector

STATUS_LENGTH = tl.constexpr(16)  # the bits of RequestStatus
STATUS_OFFSETS = tl.constexpr(32)
STATUS_DRAFT_TOKEN = tl.constexpr(64)
STATUS_TREE = tl.constexpr(128)
STATUS_DRAFT_WEIGHTS = tl.constexpr(256)


@triton.jit
def rows_said(counts, count_stride, count_scalar, given, extra, request, inside):
    """How many rows each request says that it has, as int64: the caller's number plus `extra`."""
    vector = ((given + (request & 0).to(tl.int32)) & COUNT_GIVEN) != 0  # a block if `request` is one, as masks must be
    loaded = tl.load(counts + request * count_stride, mask=inside & vector, other=0).to(tl.int64)
    return tl.where(vector, loaded, count_scalar.to(tl.int64)) + extra


@triton.jit
def rows_claimed(row_offsets, offset_stride, request, inside, count, width, rows):
    """For each request, its first row and whether its offsets give it exactly `count` rows."""
    first = tl.load(row_offsets + request * offset_stride, mask=inside, other=0).to(tl.int64)
    end = tl.load(row_offsets + (request + 1) * offset_stride, mask=inside, other=0).to(tl.int64)
    inside = inside & (count >= 1) & (count <= width) & (first >= 0) & (first < end) & (end <= rows)
    return first, inside & (end - first == count)


@triton.jit
def owners_of(row, row_offsets, offset_stride, counts, count_stride, count_scalar, given, extra, requests, width, rows):
    """For each of ROWS rows, the first request that claims it; NOBODY where no request does."""
    owner = (row * 0).to(tl.int32) + NOBODY
    for start in range(0, requests, REQUESTS):
        request = start + tl.arange(0, REQUESTS).to(tl.int64)
        inside = request < requests
        count = rows_said(counts, count_stride, count_scalar, given, extra, request, inside)
        first, claims = rows_claimed(row_offsets, offset_stride, request, inside, count, width, rows)
        behind = row[:, None] - first[None, :]
        holds = claims[None, :] & (behind >= 0) & (behind < count[None, :])
        owner = tl.minimum(owner, tl.min(tl.where(holds, request.to(tl.int32)[None, :], NOBODY), axis=1))
    return owner


@triton.jit
def depth_of(parents, parent_row_stride, parent_stride, request, node, count, width):
    """How many steps each node is below node 0, if the request's nodes are a tree. Otherwise it is some number of at
    most `width`.
    """
    depth = node * 0
    steps = 0
    while (tl.max(node, axis=0) > 0) & (steps < width):
        below = node > 0
        parent = tl.load(
            parents + request * parent_row_stride + node * parent_stride, mask=below, other=0
        ).to(tl.int64)
        depth += below.to(tl.int64)
        node = tl.where(below & (parent >= 0) & (parent < count), parent, 0)
        steps += 1
    return depth


@triton.jit
def copy_of(result, vector, stride, request, owned, row, rows, given):
    """Copies one parameter from requests to their rows, and 0 to rows that belong to no request. It does nothing if the
    parameter is not `given` as a vector.
    """
    last = tl.where(given != 0, rows, 0)
    value = tl.load(vector + request * stride, mask=owned & (row < last), other=0)
    tl.store(result + row, value.to(result.dtype.element_ty), mask=row < last)


@triton.jit(
    do_not_specialize=[
        "rows", "requests", "width", "extra", "given", "count_stride", "count_scalar", "offset_stride",
        "parent_row_stride", "parent_stride", "temperature_stride", "top_k_stride", "top_p_stride", "min_p_stride",
        "seed_stride", "position_stride", "position_low", "position_high",
    ]
)  # fmt: skip
def expand(
    rows, requests, width, extra, given, counts, count_stride, count_scalar, row_offsets, offset_stride,
    parents, parent_row_stride, parent_stride,
    temperature, temperature_stride, top_k, top_k_stride, top_p, top_p_stride, min_p, min_p_stride,
    seed, seed_stride, position, position_stride, position_low, position_high,
    row_owner, row_temperature, row_top_k, row_top_p, row_min_p, row_seed, row_position,
    FLAT: tl.constexpr, TREE: tl.constexpr,
):  # fmt: skip
    """Writes the parameters, and the position, of every row from those of its request (spec section 14).

    Grid (ceil(rows / ROWS)). With FLAT, row offsets say which rows a request has, and the owner of each row is written
    to `row_owner`; otherwise request b has the rows from b * width on. With TREE, the position of a row is that of the
    request plus the depth of its node.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    if FLAT:
        owner = owners_of(
            row, row_offsets, offset_stride, counts, count_stride, count_scalar, given, extra, requests, width, rows
        )
        owned = (owner < NOBODY) & (row < rows)
        request = tl.where(owned, owner, 0).to(tl.int64)
        slot = row - tl.load(row_offsets + request * offset_stride, mask=owned, other=0).to(tl.int64)
        count = rows_said(counts, count_stride, count_scalar, given, extra, request, owned)
        tl.store(row_owner + row, owner, mask=row < rows)
    else:
        request = tl.where(row < rows, row // width, 0)
        slot = row % width
        count = rows_said(counts, count_stride, count_scalar, given, extra, request, row < rows)
        owned = (row < rows) & (count <= width) & (slot < count)
    ahead = tl.where(owned, slot, 0)
    if TREE:
        ahead = depth_of(parents, parent_row_stride, parent_stride, request, ahead, count, width)
    vector = (given & POSITION_GIVEN) != 0
    first = tl.load(position + request * position_stride, mask=owned & (row < tl.where(vector, rows, 0)), other=0)
    first = tl.where(vector, first.to(tl.int64), join_words(position_low, position_high))
    tl.store(row_position + row, tl.where(owned, first + ahead, 0), mask=row < rows)
    copy_of(row_temperature, temperature, temperature_stride, request, owned, row, rows, given & TEMPERATURE_GIVEN)
    copy_of(row_top_k, top_k, top_k_stride, request, owned, row, rows, given & TOP_K_GIVEN)
    copy_of(row_top_p, top_p, top_p_stride, request, owned, row, rows, given & TOP_P_GIVEN)
    copy_of(row_min_p, min_p, min_p_stride, request, owned, row, rows, given & MIN_P_GIVEN)
    copy_of(row_seed, seed, seed_stride, request, owned, row, rows, given & SEED_GIVEN)


@triton.jit
def rows_of_request(
    request, width, rows, extra, given, counts, count_stride, count_scalar, row_offsets, offset_stride, row_owner,
    slot, FLAT: tl.constexpr,
):  # fmt: skip
    """The first row of a request, the number of its rows, and its status as far as rows decide it. `slot` must be at
    least as long as the request has rows.
    """
    whole = request >= 0  # always
    count = rows_said(counts, count_stride, count_scalar, given, extra, request, whole)
    good = (count >= 1) & (count <= width)
    status = tl.where(good, 0, STATUS_LENGTH)
    first = request * width
    if FLAT:
        first, claims = rows_claimed(row_offsets, offset_stride, request, whole, count, width, rows)
        mine = slot < tl.where(claims, count, 0)
        owner = tl.load(row_owner + first + slot, mask=mine, other=request.to(tl.int32))
        owns = claims & (tl.sum((owner != request.to(tl.int32)).to(tl.int32), axis=0) == 0)
        status = tl.where(good & (owns == 0), STATUS_OFFSETS, status)
    return first, count, status


@triton.jit
def drafted_length(token, used, slot):
    """How many of a chain's drafted tokens count: those before the first -1, which says that nothing was drafted there.
    """
    counted = tl.sum(used.to(tl.int32), axis=0)
    return tl.minimum(counted, tl.min(tl.where(used & (token == -1), slot, 0x7FFFFFFF), axis=0))


@triton.jit
def foreign_tokens(token, used, vocab):
    """STATUS_DRAFT_TOKEN if a used token is outside the vocabulary, else 0."""
    foreign = used & ((token < 0) | (token >= vocab))
    return tl.where(tl.sum(foreign.to(tl.int32), axis=0) > 0, STATUS_DRAFT_TOKEN, 0)
