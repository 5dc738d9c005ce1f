"""The longest accepted path of a drafted tree (spec section 16): one program for each request, one lane for
each node.
"""

import triton
import triton.language as tl

from detsample.kernels.sampling.outcome import quiet_nan
from detsample.kernels.speculative.rows import STATUS_LENGTH, STATUS_TREE, foreign_tokens, rows_of_request


@triton.jit
def climb(parents, parent_stride, drafts, draft_stride, drawn, drawn_status, readable, slot, count, width):
    """Climbs from every node to the root, one lane for each node, and returns (depth, accepted, hangs).

    `depth` is the number of steps to the root; `accepted` says whether every node on the way is the token drawn at its
    parent; `hangs` is false where the way does not lead to node 0. The pointers are those of the request. Either all of
    its `count` nodes have rows that may be read, and `readable` is `count`, or none has, and `readable` is 0. A lane
    without a node stays where it is.
    """
    node = tl.where(slot < count, slot, 0).to(tl.int64)
    depth = slot * 0
    accepted = slot < count
    hangs = slot >= 0
    steps = 0
    while (tl.max(node, axis=0) > 0) & (steps < width):
        below = node > 0
        parent = tl.load(parents + node * parent_stride, mask=below, other=0).to(tl.int64)
        known = (parent >= 0) & (parent < count)
        draft = tl.load(drafts + node * draft_stride, mask=below, other=0).to(tl.int64)
        token = tl.load(drawn + parent, mask=below & known & (parent < readable), other=-1)
        why = tl.load(drawn_status + parent, mask=below & known & (parent < readable), other=0)
        accepted = accepted & ((below == 0) | ((draft == token) & (draft >= 0) & (why == 0)))
        hangs = hangs & ((below == 0) | known)
        depth += below.to(tl.int32)
        node = tl.where(below & known, parent, 0)
        steps += 1
    return depth, accepted, hangs & (node == 0)


@triton.jit(
    do_not_specialize=[
        "vocab", "rows", "width", "extra", "given", "count_stride", "count_scalar", "offset_stride",
        "draft_row_stride", "draft_stride", "parent_row_stride", "parent_stride",
    ]
)  # fmt: skip
def longest_path(
    vocab, rows, width, extra, given, counts, count_stride, count_scalar, row_offsets, offset_stride, row_owner,
    drafts, draft_row_stride, draft_stride, drawn, drawn_status, drawn_logprobs,
    parents, parent_row_stride, parent_stride,
    token_ids, num_accepted, nodes, status, logprobs,
    WIDTH: tl.constexpr, FLAT: tl.constexpr, LOGPROBS: tl.constexpr,
):  # fmt: skip
    """Finds the longest accepted path of each request's tree and writes its tokens and nodes (spec section 16).

    Grid (requests). Of several deepest nodes the one with the lowest number counts.
    """
    request = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, WIDTH)
    first, count, reason = rows_of_request(
        request, width, rows, extra, given, counts, count_stride, count_scalar, row_offsets, offset_stride,
        row_owner, slot, FLAT,
    )  # fmt: skip
    drafts += request * draft_row_stride
    parents += request * parent_row_stride
    nodes_here = tl.where(reason == STATUS_LENGTH, 0, count)
    drafted = (slot > 0) & (slot < nodes_here)
    draft = tl.load(drafts + slot.to(tl.int64) * draft_stride, mask=drafted, other=0).to(tl.int64)
    top = tl.load(parents, mask=nodes_here > 0, other=-1).to(tl.int64)
    depth, accepted, hangs = climb(
        parents, parent_stride, drafts, draft_stride, drawn + first, drawn_status + first,
        tl.where(reason == 0, count, 0), slot, nodes_here, width,
    )  # fmt: skip
    whole = (top == -1) & (tl.sum((hangs == 0).to(tl.int32), axis=0) == 0)
    reason |= foreign_tokens(draft, drafted & (draft != -1), vocab) | tl.where(whole, 0, STATUS_TREE)

    good = reason == 0
    deepest = tl.max(tl.where(accepted, depth, 0), axis=0)
    deepest = tl.where(good, deepest, 0)
    last = tl.min(tl.where(accepted & (depth == deepest), slot, WIDTH), axis=0).to(tl.int64)
    last = tl.where(good, last, 0)
    why = tl.load(drawn_status + first + last, mask=good, other=0)

    at = request * width
    outside = (slot < width) & (slot > tl.where(good, deepest, -1))
    tl.store(token_ids + at + slot, tl.full([WIDTH], -1, tl.int64), mask=outside)
    tl.store(nodes + at + slot, tl.full([WIDTH], -1, tl.int32), mask=outside)
    if LOGPROBS:
        tl.store(logprobs + at + slot, quiet_nan(), mask=outside)
    tl.store(num_accepted + request, deepest)
    tl.store(status + request, reason | why)
    place = tl.where(good, deepest, -1)
    node = last
    while place >= 0:  # from the last node up to the root
        tl.store(token_ids + at + place, tl.load(drawn + first + node))
        tl.store(nodes + at + place, node.to(tl.int32))
        if LOGPROBS:
            tl.store(logprobs + at + place, tl.load(drawn_logprobs + first + node))
        node = tl.load(parents + node * parent_stride, mask=place > 0, other=0).to(tl.int64)
        place -= 1
