"""The Triton kernels: one idea a file, device functions composed into a few kernels.

========== ==========================================================================================
`philox`    counter-based random words                                            (spec section 7)
`logarithm` the integer logarithm                                                 (spec section 7)
`gumbel`    words to noise, exactly, and a cheap upper bound of it                (spec section 7)
`weight`    the integer weight of a token                                         (spec section 5)
`fraction`  fp32 times integer, exactly                                           (spec section 6)
`order`     fp32 as integers that sort like it                                    (spec section 4)
`rows`      a row's parameters and its record in the workspace                    (spec sections 2, 3)
`candidates` all-pairs ranks of a few tokens, and the cut through them            (spec section 6)
`lanes`     the draw: which token of the kept set has the largest score           (spec section 8)
`scan`      kernel 1: reads every logit once
`pivots`    where a boundary probably is: a sample, rough sums, an interval
`mass`      kernel 2: exact sums, and the tokens around a boundary, for rows that need them
`retry`     kernel 3: the same once more, where the guess was wrong
`narrow`    kernel 4: everything else, for rows with few candidates or a known kept set
`wide`      kernel 5: everything else, for the others
`outcome`   what a row ends with                                             (spec sections 3, 6, 9)
`tiles`     how a row is cut into segments, tiles, quads and groups
`masks`     kernel 6: the kept set written out, on request
`streams`   `gumbel_noise` and `fold_in` on their own
`margin`    how far logits may move before a token could change                     (docs/margin.md)
`trainer`   what a trainer asks of a draw                                     (docs/spec-rollouts.md)
`speculative_*`, `products`: drafted tokens, verified                           (docs/speculative.md)
`probability` logits of probabilities                                            (docs/fastdeploy.md)
========== ==========================================================================================

Nothing here is shared with `reference/`. Every launch passes `enable_fp_fusion=False`.
"""
