"""The Triton kernels: one idea a file, device functions composed into a few kernels.

The kernels of a call, in the order in which they are launched (see `detsample.sampler.on_gpu`):

============= =======================================================================================
`summarize`   kernel 1: reads every logit once; largest logits, bounds of scores, rough sums
`settle`      kernel 2: all that is left, for rows with few candidates or a known kept set; each row goes one
              of two ways
`sum_weights` kernel 3: exact sums, and the tokens around a boundary, for rows that need them; then twice
              more around another guess, for those where the one before was wrong
`finish`      kernel 4: all that is left, for the other rows
`masks`       kernel 5: the kept set written out, on request
============= =======================================================================================

They are in `sampling/`, each in a file of its name, with what they share. The last three are in `sampling/boundary/`:

================== ==================================================================================
`rows`             a row's parameters, its record and its sums in the workspace  (spec sections 2, 3)
`tiles`            how a row is cut into segments, tiles, quads and groups
`score_bounds`     what no score exceeds
`draw`             which token of the kept set has the largest score                 (spec section 8)
`settling`         what the ways through `settle` are made of
`aim`              where the boundary of a row probably lies, if it may be among thousands of tokens
`candidates`       all-pairs ranks of a few tokens, and the cut through them         (spec section 6)
`compaction`       a few tokens among many, as bits, and the lists made of them
`outcome`          what a row ends with                                        (spec sections 3, 6, 9)
`dependent_launch` launches that start before the one ahead has ended
`pivots`           rough sums of weights and their error, and values around which a boundary may lie
`guess`            the interval where a boundary probably lies, from maxima, rough sums, or what was listed
`measure`          what an interval holds, exactly, and whether that settles the boundary
================== ==================================================================================

In `contract/` are the functions that the contract defines bit by bit:

============= =======================================================================================
`philox`      counter-based random words                                            (spec section 7)
`logarithm`   the integer logarithm                                                 (spec section 7)
`gumbel`      words to noise                                                        (spec section 7)
`weight`      the integer weight of a token                                         (spec section 5)
`fraction`    fp32 times integer, exactly: the targets of min-p and top-p           (spec section 6)
`order`       fp32 as integers that sort like it                                    (spec section 4)
`fixed_point` scores and logarithms in units of 2^-32                           (spec sections 7, 8)
`mask_bits`   kept sets as bits                                                    (spec section 10)
`products`    products of 64-bit integers                                           (spec section 17)
`probability` logits of probabilities                                            (docs/fastdeploy.md)
============= =======================================================================================

For other calls:

============= =======================================================================================
`noise`       `gumbel_noise` and `fold_in` on their own                             (spec section 7)
`margin`      how far logits may move before a token could change                  (spec section 13)
`observation` what a trainer asks of a draw                                         (spec section 12)
`processing`  what requests ask to be done to logits before a draw               (docs/processing.md)
`rows`, `match`, `tree`, `rejection`, in `speculative/`
              drafted tokens, verified                                       (spec sections 14 to 17)
============= =======================================================================================

For rows whose vocabulary is cut into shards (docs/sharded.md), in `sharded/`:

============= =======================================================================================
`rows`        a row's parameters, its first tokens, and what is told of it
`heads`       what a rank tells of its shard at first
`look`        exact sums of a shard, and its best score                           (spec sections 5, 8)
`settle`      what is kept, from what all ranks have told; the results        (spec sections 3, 6, 9)
`exchange`    whole rows for each rank, and what each tells of those that it has drawn
============= =======================================================================================

Nothing here is shared with `reference/`. Every launch passes `enable_fp_fusion=False`.

The arguments of kernels
------------------------
B is the number of rows, V the size of the vocabulary, Q the number of requests, R the number of rows of all requests,
K the most drafted tokens of a request and N the most nodes. A type with a shape is a pointer to memory, one without is
a number. Names in capitals are compile-time constants. Strides are in elements.

Of the logits and the parameters:
    logits: fp32, bf16, fp16 [B, V]. The logits; the tokens of a row are neighbours.
    row_stride, vocab, rows: int. From row to row of the logits; V; B, or R.
    allowed, allowed_stride: uint32 [B, words], or uint8 [B, bytes]. Bits that say which tokens are allowed, and the
        step from row to row.
    ALLOWED: bool. Whether there are such bits; otherwise all tokens are allowed.
    given: int. One bit for each parameter that is a vector: rows.py names them.
    temperature_ptr, top_p_ptr, min_p_ptr: fp32, fp64, bf16, fp16 [B]. Vectors of parameters.
    top_k_ptr, seed_ptr, position_ptr, index_ptr: int64 or int32 [B]. Vectors of parameters; index is that of fold_in.
    temperature_stride, top_k_stride, top_p_stride, min_p_stride, seed_stride, position_stride, index_stride: int. Their
        strides.
    temperature_bits, top_p_bits, min_p_bits: int. A parameter that is one number, as the bits of an fp32.
    top_k_scalar: int. Top_k, if it is one number.
    seed_low, seed_high, position_low, position_high, index_low, index_high: int. The halves of a parameter that is one
        number.
    filter_order: int. 0: top_k_first, 1: min_p_first, 2: joint.
    want: int. Which results are asked for: bits WANT_... of rows.py.
How the rows are cut (tiles.py):
    quads, segment_tiles: int. Quads of a tile in a group; tiles in a segment.
    segments, parts, stretches, groups: int. How many there are in a row.
    segments_of_part, segments_of_stretch, stretch_tiles: int. Segments in a part and in a stretch; tiles in a stretch.
    ALIGNED: bool. Whether every row starts at a multiple of 16 bytes.
    OVERLAP: bool. Whether the kernel may start before the one ahead has ended (dependent_launch.py).
What the kernels of a draw leave for each other:
    records: int64 [B, RECORD]. What is known of each row: rows.py names the words.
    sums: int64 [B, SUMS]. Integer sums that the programs of a row add to: rows.py names them. Of shards [ranks, B,
        parts, SUMS]: what each part of each shard tells of a row.
    missed: int32 [COUNTERS + 3 * B]. How many rows each launch of sum_weights has to look at, then the numbers of these
        rows.
    group_key, pitch: int32 [B, pitch]. The key of the largest logit of each group.
    list_token: int32 [B, pitch]. Tokens that were listed; unless a mask is asked for, in the memory of group_key.
    group_bound: fp32 [B, bounds]. What no score of a group exceeds, measured from the anchor.
    part_key, part_counts: int32 [B, parts]. The largest key of each part; how many tokens of it can be drawn.
    row_pivots: fp32 [B, RUNGS]. The pivots of each row, and its reference.
    part_rungs: fp32 [B, parts, RUNGS]. Rough sums of what reaches each pivot, and of all tokens.
    scratch_code: int64 [B, SCRATCH]. Candidates, as key and token in one number; behind them, groups to gather from.
    attempt: int. Which launch of sum_weights this is, from 0.
    every_row: int. 1 if the first of these launches looks at every row, because the host knows that nearly all need it;
        then no list is made for it.
Results:
    token_ids: int64 [B]. Tokens; of requests [Q, K + 1] or [Q, N].
    num_kept, status: int32 [B]. Size of the kept set; status bits.
    logprobs, log_z: fp32 [B]. Natural logarithms; logprobs of requests are [Q, K + 1] or [Q, N].
    result: float64, fp32 or int64. What the call returns: noise, margins, logits or seeds; where whole rows
        are copied to.
Masks:
    mask, mask_stride: bool [B, V] or int32 [B, words]. Kept sets, and the step from row to row.
    words: int. Ceil(V / 32).
    AS_BITS: bool. Whether the mask is of bits and not of bools.
    span_counts: int32 [B, segments, spans]. How many tokens each program will write.
    row_offsets: int64 [B + 1]. Where the tokens of each row begin; of requests [Q + 1], where their rows begin.
    kept: int32. In a mask, the ids of all rows one after the other; of a trainer, the kept sets as bits [B, words].
    capacity: int. The length of the list of ids.
Drafted tokens (spec sections 14 to 17):
    requests, width: int. Q; the most rows of a request, K + 1 or N.
    extra: int. 1 if drafted tokens are counted, 0 if nodes are.
    counts, count_stride, count_scalar: int64 or int32 [Q]. How many drafted tokens or nodes each request has; or one
        number for all.
    offset_stride: int. The stride of row_offsets.
    row_owner: int32 [R]. The request that each ragged row belongs to.
    drafts, draft_row_stride, draft_stride: int64 or int32 [Q, K] or [Q, N]. Drafted tokens, and the strides from row to
        row and within a row.
    parents, parent_row_stride, parent_stride: int64 or int32 [Q, N]. The node that each node follows.
    drawn, drawn_status, drawn_logprobs: int64, int32, fp32 [R]. What was drawn from each row.
    num_accepted: int32 [Q]. How many drafted tokens were accepted.
    nodes: int32 [Q, N]. The accepted nodes.
    temperature, top_k, top_p, min_p, seed, position: as above [Q] or [R]. Vectors of parameters, of requests or of
        rows.
    row_temperature, row_top_k, row_top_p, row_min_p, row_seed, row_position: as above [R]. The parameters of rows,
        written.
    seeds, positions: int64 [R]. Seeds, unless they are one number; positions.
    row_status, row_given: int32 [R]; int. The status of each row; as given, for parameters of rows.
    peak, mass: fp32, int64 [R]. The largest logit of a row, and the sum of the weights of its kept tokens.
    draft_values, draft_values_stride: fp32, bf16, fp16 [D, V]. Logits or probabilities that the drafter drew from; D
        rows.
    draft_rows_count: int. D.
    draft_peak, draft_mass: fp32, int64 [D]. As peak and mass, of the draft.
    decisions: int64 [Q, 3]. What to draw from behind the accepted tokens, the row, and the draft's row.
    spans: int. How many blocks of tokens a program of residual looks at.
    part_score, part_token: int64, int32 [Q, parts]. The best score in each part, in units of 2^-32, and its token.
    WIDTH, PARTS: int. Powers of two that are at least the number of rows, or parts.
    FLAT, TREE, LOGITS, LOGPROBS: bool. Rows are ragged; drafts are trees; the draft gives logits; logprobs are wanted.
What a trainer asks for (observation.py):
    listed, top_n: int. How many first tokens each part lists; how many are asked for.
    part_places: int64 [B, parts, listed]. The first tokens of each part, as key and token in one number.
    part_kept_key: int32 [B, parts]. The key of the largest kept logit of each part.
    part_sums: int64 [B, parts, PART_SUMS]. Sums of each part: observation.py names them.
    raw_logprobs, entropy: fp32 [B]. Natural logarithms, in the full softmax; nats.
    rank: int32 [B]. How many tokens come before the token in the order.
    top_token_ids, top_logprobs: int32, fp32 [B, top_n]. The first tokens, and their log probabilities.
What is done to logits before a draw (processing.py); Q is the number of requests:
    how, offsets_given: int. The convention, as bits; whether there are row_offsets.
    repetition, frequency, presence, min_length: as above [Q]. Vectors of numbers.
    repetition_stride, frequency_stride, presence_stride, length_stride: int. Their strides.
    repetition_bits, frequency_bits, presence_bits, length_scalar: int. A number for all requests; the first three as
        the bits of an fp32.
    prompt, output, bias, banned, stop, only: int64 or int32. Lists of token ids: tables [Q, width], or [size].
    prompt_starts, output_starts, bias_starts, banned_starts, stop_starts, only_starts: int64 or int32 [Q]. Where each
        list begins; where there is no table.
    prompt_ends, output_ends, bias_ends, banned_ends, stop_ends, only_ends: int64 or int32 [Q]. Where each list ends.
    prompt_stride, output_stride, bias_stride, banned_stride, stop_stride, only_stride: int. From row to row of a table.
    prompt_width, output_width, bias_width, banned_width, stop_width, only_width: int. The columns of a table; -1 where
        lists have starts and ends.
    prompt_size, output_size, bias_size, banned_size, stop_size, only_size: int. The length of what these are places in.
    bias_values: fp32. What is added to the logits of the tokens in the same places of bias.
    bad_words, words_stride: int64 or int32 [Q, bad_count, longest]. Sequences, and the step from request to request.
    bad_count, longest: int. How many sequences a request has, and how long the longest may be.
    marks, chosen: int32 [R, V]. For each token what is known of it; the place of its bias.
    path, matched: int64 [R, width], int64 [R, bad_count]. The drafted tokens before a row, the nearest first; the last
        tokens of sequences that are nearly complete, or -1.
Shards of a vocabulary (sharded/rows.py):
    start, ranks, told, each: int. The token of a shard's first column; how many ranks there are; how many first tokens
        a rank tells of; how many rows a rank draws.
    heads: int64 [ranks, B, 1 + told]. The status of each shard, and the codes of its first tokens.
    message: int64 [B, ...]. What this rank tells the others.
    maxima: int32 [32]. Keys that let every group of tokens into a mask.
    row_statuses: int32 [B]. Status bits.
    result_stride, result_start: int. The stride of copied rows, and the column of their first token.
    GIVEN: int. How the first tokens are given.
    SUM, DRAW, SUMMED, TOLD_BEST, SHIFTED: bool. What is asked for, or is there: heads.py and the kernels say more.
    RANKS, SLOTS: int. Powers of two that are at least ranks and told.
Noise, probabilities, margins:
    tokens, token_row_stride, token_stride: int64 or int32 [B, columns]. Token ids, and their strides.
    columns, count: int. How many token ids a row has; how many seeds are made.
    probabilities: fp32, bf16, fp16 [B, V]. What logits are made of.
    SPAN, BITS: int. Tokens that the margin's kernel loads together; bits that one look decides.
"""
