"""Where the boundary of a large kept set lies: rough sums at pivots, a guess, and its exact measure."""
