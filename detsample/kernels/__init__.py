"""The Triton kernels: one idea a file, device functions composed into five kernels.

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
`wide`      kernel 4: everything else, for the others
`masks`     kernel 5: the kept set written out, on request
`streams`   `gumbel_noise` and `fold_in` on their own
========== ==========================================================================================

Nothing here is shared with `reference/`. Every launch passes `enable_fp_fusion=False`: `launch.py` is the only caller.
"""
