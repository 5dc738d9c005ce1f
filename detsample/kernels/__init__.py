"""The Triton kernels: one idea a file, device functions composed into a few kernels.

The kernels of a call, in the order in which they are launched (see `detsample.sampler.on_gpu`):

============= =======================================================================================
`scan`        kernel 1: reads every logit once; largest logits, bounds of scores, rough sums
`narrow`      kernel 2: all that is left, for rows with few candidates or a known kept set
`mass`        kernel 3: exact sums, and the tokens around a boundary, for rows that need them; then twice
              more around another guess, for those where the one before was wrong
`wide`        kernel 4: all that is left, for the other rows
`masks`       kernel 5: the kept set written out, on request
============= =======================================================================================

What they are made of:

============= =======================================================================================
`philox`      counter-based random words                                            (spec section 7)
`logarithm`   the integer logarithm                                                 (spec section 7)
`gumbel`      words to noise                                                        (spec section 7)
`weight`      the integer weight of a token                                         (spec section 5)
`fraction`    fp32 times integer, exactly: the targets of min-p and top-p           (spec section 6)
`order`       fp32 as integers that sort like it                                    (spec section 4)
`fixed_point` scores and logarithms in units of 2^-32                           (spec sections 7, 8)
`rows`        a row's parameters, its record and its sums in the workspace       (spec sections 2, 3)
`tiles`       how a row is cut into segments, tiles, quads and groups
`bounds`      what no score exceeds
`lanes`       the draw: which token of the kept set has the largest score           (spec section 8)
`candidates`  all-pairs ranks of a few tokens, and the cut through them             (spec section 6)
`pivots`      rough sums of weights and their error, and values around which a boundary may lie
`aim`         the interval where a boundary probably lies, from rough sums or from what was listed
`marked`      a few tokens among many, as bits, and the lists made of them
`measure`     what an interval holds, exactly, and whether that settles the boundary
`outcome`     what a row ends with                                            (spec sections 3, 6, 9)
`overlap`     launches that start before the one ahead has ended
============= =======================================================================================

For other calls:

============= =======================================================================================
`streams`     `gumbel_noise` and `fold_in` on their own                             (spec section 7)
`margin`      how far logits may move before a token could change                   (docs/margin.md)
`trainer`     what a trainer asks of a draw                                 (docs/spec-rollouts.md)
`bits`        kept sets as bits                                                    (spec section 10)
`probability` logits of probabilities                                            (docs/fastdeploy.md)
`speculative_rows`, `speculative_match`, `speculative_tree`, `speculative_rejection`
              drafted tokens, verified                                          (docs/speculative.md)
`products`    products of 64-bit integers                                       (docs/speculative.md)
============= =======================================================================================

Nothing here is shared with `reference/`. Every launch passes `enable_fp_fusion=False`.
"""
