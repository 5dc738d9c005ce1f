"""What hypothesis searches in more than one suite."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st


def parameters(temperature: st.SearchStrategy[float], most_k: int) -> st.SearchStrategy[dict[str, Any]]:
    """A row's parameters of `sample` by name: valid ones, with filters that are off as often as on.

    `temperature` is searched where it is neither 0 nor 1; `top_k` goes up to `most_k`.
    """
    return st.fixed_dictionaries(
        {
            "topp_seed": st.integers(-(2**63), 2**63 - 1),
            "position": st.integers(0, 2**63 - 1),
            "temperature": st.one_of(st.sampled_from([0.0, 1.0]), temperature),
            "top_k": st.integers(-1, most_k),
            "top_p": st.one_of(st.just(1.0), st.floats(0, 1, width=32)),
            "min_p": st.one_of(st.just(0.0), st.floats(0, 1, width=32)),
        }
    )
