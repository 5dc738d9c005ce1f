"""Rows that are not valid (section 3): what their status says, and that they harm no other."""

from __future__ import annotations

import numpy as np
import pytest
from reference_parts import as_bits, reference, rows_of_all_sorts


def test_status_of_logits() -> None:
    """Catches a bit that hides another: every combination of NaN, +inf and nothing finite."""
    nan, inf = np.nan, np.inf
    x = np.float32(
        [[0, 1], [nan, 0], [inf, 0], [nan, inf], [-inf, -inf], [nan, nan], [inf, inf], [nan, -inf]]
    )
    out = reference.sample(x, 1)
    assert out.status.tolist() == [0, 1, 2, 7, 4, 5, 6, 5]
    assert reference.mask(x).status.tolist() == out.status.tolist()
    x = np.float32([[nan, inf, 0], [-inf, 3, nan]])
    assert reference.sample(x, 1).status.tolist() == [3, 1]


def test_status_of_parameters() -> None:
    """Catches a bad parameter of one row that raises, passes, or spreads to its neighbours."""
    x = np.zeros((9, 4), np.float32)
    vectors = {
        "temperature": np.array([1, -1, np.inf, np.nan, 1, 1, 1, 0, -0.0]),
        "top_p": np.array([1, 1, 1, 1, np.nan, 1, 1, np.nan, 1]),
        "min_p": np.array([0, 0, 0, 0, 0, np.nan, 0, 0, 0]),
        "position": np.array([0, 0, 0, 0, 0, 0, -1, 0, 0]),
    }
    out = reference.sample(x, 1, **vectors, return_log_z=True, return_mask="bool")
    assert out.status.tolist() == [0, 8, 8, 8, 8, 8, 8, 8, 0]
    bad = out.status != 0
    assert out.token_ids[bad].tolist() == [-1] * 7
    assert not out.num_kept[bad].any()
    assert not out.mask[bad].any()
    assert set(as_bits(out.logprobs[bad]) + as_bits(out.log_z[bad])) == {0x7FC00000}
    x[1, 0] = np.nan
    assert reference.sample(x, 1, **vectors).status[1] == 9
    with np.errstate(over="ignore"):
        assert reference.sample(x[:1], 1, temperature=np.array([1e39])).status.tolist() == [8]


def test_check_names_the_rows() -> None:
    """Catches ``check`` that raises for nothing, or does not say which rows and why."""
    x = np.zeros((20, 3), np.float32)
    reference.sample(x, 1, check=True)
    x[4, 1], x[7] = np.nan, -np.inf
    for call in (lambda: reference.sample(x, 1, check=True), lambda: reference.mask(x, check=True)):
        with pytest.raises(
            ValueError, match=r"2 of 20 rows.*row 4 \(a logit is NaN\); row 7 \(no logit is fin"
        ):
            call()
    with pytest.raises(ValueError, match=r"20 of 20 rows.*and 12 more"):
        reference.sample(x, 1, temperature=np.full(20, -1.0), check=True)


def test_a_bad_row_changes_no_other() -> None:
    """Catches a NaN, an infinity or a bad parameter that reaches another row."""
    logits, p = rows_of_all_sorts(200, 50, 8)
    logits = np.nan_to_num(logits, nan=0.0, neginf=-np.inf)
    p["top_p"] = np.nan_to_num(p["top_p"], nan=0.5)
    clean = reference.sample(logits, **p, return_log_z=True, return_mask="bool")
    logits[::2, 7] = np.tile([np.nan, np.inf], 50)
    dirty = reference.sample(logits, **p, return_log_z=True, return_mask="bool")
    assert dirty.status[::2].all()
    for name in vars(clean):
        assert getattr(clean, name)[1::2].tobytes() == getattr(dirty, name)[1::2].tobytes()
