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
`mass`      kernel 2: sums of weights, for rows that need them
`narrow`    kernel 3: everything else, for rows whose kept set is small or already known
`pivots`    where a boundary probably is, guessed from a sample
`collect`   kernel 4: lists the tokens around such a boundary
`wide`      kernel 5: everything else, for the others
`outcome`   what a row ends with                                             (spec sections 3, 6, 9)
`tiles`     how a row is cut into segments, tiles, quads and groups
`masks`     kernel 6: the kept set written out, on request
`streams`   `gumbel_noise` and `fold_in` on their own
========== ==========================================================================================

Nothing here is shared with `reference/`. Every launch passes `enable_fp_fusion=False`: `detsample.engine` and
`detsample.streams` are the only callers.
"""
