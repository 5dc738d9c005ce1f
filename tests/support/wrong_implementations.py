"""The classic wrong implementations of the contract: the reference broken in one way each, in the running process.

`MISTAKES` names them; tests/vectors/README.md lists the same names, and each must fail a vector.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

from reference_parts import reference


class Mistake(NamedTuple):
    """A piece of one of the reference's files, and what somebody might write instead."""

    module: str
    right: str
    wrong: str


MISTAKES = {
    # section 4
    "gaps of scaled logits": Mistake(
        "temperature",
        "        a = largest[:, None] - x\n        if temperature is not None:\n"
        "            a *= _inverse(temperature)[:, None]\n    return a",
        "        r = np.ones_like(largest) if temperature is None else _inverse(temperature)\n"
        "        a = (largest * r)[:, None] - np.minimum(x * r[:, None], FLT_MAX)\n    return a",
    ),
    "division by the temperature": Mistake(
        "temperature", "a *= _inverse(temperature)[:, None]", "a /= temperature[:, None]"
    ),
    "difference and product rounded together": Mistake(
        "temperature",
        "            a *= _inverse(temperature)[:, None]\n",
        "            wide = largest[:, None].astype(np.float64) - x\n"
        "            a = (wide * _inverse(temperature)[:, None]).astype(np.float32)\n",
    ),
    "inverse temperature not clamped": Mistake(
        "temperature", "np.minimum(np.float32(1) / temperature, FLT_MAX)", "np.float32(1) / temperature"
    ),
    "subnormal logits flushed to zero": Mistake(
        "order",
        'return np.add(to_fp32(logits), np.float32(0), order="C")',
        'x = np.add(to_fp32(logits), np.float32(0), order="C")\n'
        "        return np.where(np.abs(x) < 2**-126, np.float32(0), x)",
    ),
    "minus zero below zero": Mistake(
        "order", 'np.add(to_fp32(logits), np.float32(0), order="C")', 'np.array(to_fp32(logits), order="C")'
    ),
    "ties of logits to the higher id": Mistake("order", "    keys |= ids\n", "    keys |= 0xFFFFFFFF - ids\n"),
    # section 5
    "fused multiply-add in W": Mistake(
        "weight", "        h *= t\n        h += c\n", "        h = (h.astype(np.float64) * t + c).astype(np.float32)\n"
    ),
    "no final rounding in W": Mistake("weight", "    p += 1\n    p >>= 1\n", "    p >>= 1\n"),
    "gap rounded in W": Mistake(
        "weight",
        "(np.minimum(a, LARGEST_GAP) * np.float32(1 << 27)).astype(np.int64)",
        "np.rint(np.minimum(a, LARGEST_GAP) * np.float32(1 << 27)).astype(np.int64)",
    ),
    "octaves rounded in W": Mistake(
        "weight", "d * _LOG2E >> np.uint64(35)", "d * _LOG2E + np.uint64(1 << 34) >> np.uint64(35)"
    ),
    "a coefficient of W one bit off": Mistake("weight", "0xBA7862DF", "0xBA7862E0"),
    "W by exp": Mistake(
        "weight",
        "    return by_pieces(_weight, np.int64, a)",
        "    return np.rint(np.exp(-a.astype(np.float64)) * ONE).astype(np.int64)",
    ),
    # section 6
    "floor for ceil in top-p's target": Mistake("filters", " + ((low & np.uint64(0xFFFFFF)) > 0)", ""),
    "top-p's product in floating point": Mistake(
        "filters",
        "    bits = top_p.view(np.uint32)\n",
        "    return np.ceil(top_p.astype(np.float64) * mass).astype(np.int64)\n    bits = top_p.view(np.uint32)\n",
    ),
    "more than the target instead of at least": Mistake("filters", "sums < target[:, None]", "sums <= target[:, None]"),
    "min-p above instead of at least": Mistake(
        "filters", "w >= min_p_weight(p.min_p)[:, None]", "w > min_p_weight(p.min_p)[:, None]"
    ),
    "floor for ceil in min-p's threshold": Mistake("filters", "np.ceil(np.clip", "np.floor(np.clip"),
    "min-p not capped": Mistake(
        "filters", "np.clip(min_p.astype(np.float64), 0, 1)", "np.clip(min_p.astype(np.float64), 0, 2**20)"
    ),
    "tokens of weight zero dropped": Mistake(
        "filters", "np.where(off, num_kept, np", "np.where(off, np.minimum(num_kept, (w > 0).sum(axis=1)), np"
    ),
    "negative top_k is on": Mistake("filters", "(top_k >= 1) & (top_k < vocab)", "(top_k != 0) & (top_k < vocab)"),
    "top_p of zero is off": Mistake("filters", "np.where(first, 1, by_mass)", "np.where(first, survivors, by_mass)"),
    "top-p of all tokens where top-k is on": Mistake(
        "filters", 'if p.filter_order != "joint":', 'if p.filter_order == "min_p_first":'
    ),
    "min-p not before top-p": Mistake(
        "filters", '(num_kept if p.filter_order == "min_p_first" else survivors)', "survivors"
    ),
    "joint taken for top-k first": Mistake("filters", 'if p.filter_order != "joint":', "if True:"),
    "min-p first by default": Mistake(
        "filters", '(num_kept if p.filter_order == "min_p_first" else survivors)', "num_kept"
    ),
    # section 7
    "nine rounds of Philox": Mistake("philox", "ROUNDS = 10", "ROUNDS = 9"),
    "the low half of the uniform ignored": Mistake(
        "gumbel", "np.choose(lane, high) << _HALF | np.choose(lane, low)", "np.choose(lane, high) << _HALF"
    ),
    "halves of the uniform swapped": Mistake(
        "gumbel",
        "np.choose(lane, high) << _HALF | np.choose(lane, low)",
        "np.choose(lane, low) << _HALF | np.choose(lane, high)",
    ),
    "words in reverse": Mistake("gumbel", "    lane = token & 3\n", "    lane = 3 - (token & 3)\n"),
    "a seed of 32 bits": Mistake(
        "gumbel",
        "    key, (low, high) = halves(topp_seed), ",
        "    key, (low, high) = halves(topp_seed & np.uint64(0xFFFFFFFF)), ",
    ),
    "a position of 32 bits": Mistake(
        "gumbel",
        "halves(position.view(np.uint64))\n    c0",
        "halves(position.view(np.uint64) & np.uint64(0xFFFFFFFF))\n    c0",
    ),
    "a closed uniform": Mistake("gumbel", "split(t + t + np.uint64(1))", "split(np.maximum(t + t, np.uint64(1)))"),
    "the mirror one off": Mistake("gumbel", "np.where(upper, ~s, s)", "np.where(upper, ~s + np.uint64(1), s)"),
    "the middle on the wrong side": Mistake(
        "gumbel", "upper = s.view(np.int64) < 0", "upper = (s.view(np.int64) < 0) & (s != np.uint64(1 << 63))"
    ),
    "noise without its polynomial": Mistake("gumbel", "ell[below] - ((horner(_H, v) * v) >> 30)", "ell[below]"),
    "a coefficient of the noise one off": Mistake("gumbel", "1190561710", "1190561711"),
    "a coefficient of the logarithm one off": Mistake("logarithm", "-125534836", "-125534835"),
    "square root of two on the wrong side": Mistake("logarithm", "upper = t > _SQRT2", "upper = t >= _SQRT2"),
    "leading bit by floating point": Mistake(
        "logarithm", "leading = (n & ~(n >> np.uint64(1))).astype(np.float64)", "leading = n.astype(np.float64)"
    ),
    "division for shift in the polynomials": Mistake(
        "logarithm",
        "        acc *= f\n        acc >>= 31\n",
        "        acc = np.where(acc * f < 0, -(-(acc * f) >> 31), acc * f >> 31)\n",
    ),
    "division for shift in the logarithm": Mistake(
        "logarithm", "((e * _LN2) >> 16) + r", "np.sign(e) * ((np.abs(e) * _LN2) >> 16) + r"
    ),
    "fold_in with its halves swapped": Mistake("seeds", "words[0] | words[1] << _HALF", "words[1] | words[0] << _HALF"),
    "fold_in in the domain of noise": Mistake("seeds", "np.uint64(2)\n", "np.uint64(0)\n"),
    "fold_in with an index of 32 bits": Mistake(
        "seeds", "low, high = halves(np.atleast_1d(index))", "low, high = halves(np.atleast_1d(index) & _LOW)"
    ),
    # sections 8 and 9
    "gap rounded in the score": Mistake(
        "fixed_point",
        "(np.minimum(a, _LIMIT) * _UNITS).astype(np.int64)",
        "np.rint(np.minimum(a, _LIMIT) * _UNITS).astype(np.int64)",
    ),
    "no limit of the score": Mistake("fixed_point", "np.float32(2.0**30)", "np.float32(2.0**30 * 1.5)"),
    "ties of scores to the higher id": Mistake(
        "draw",
        "np.minimum.reduceat(np.where(best, kept.token, vocab), start)",
        "np.maximum.reduceat(np.where(best, kept.token, -1), start)",
    ),
    "scores in fp32": Mistake(
        "draw",
        "_noise(kept, p, vocab) - fixed_point(kept.a)",
        "(_noise(kept, p, vocab) * 2.0**-32).astype(np.float32) - kept.a",
    ),
    "minus fp32 instead of fp32 of minus": Mistake(
        "logprob", "from_units(-(fixed_point(a) + ln_mass(mass)))", "-from_units(fixed_point(a) + ln_mass(mass))"
    ),
    "log probabilities over all tokens": Mistake(
        "kept", "a[row, column], mass, total)", "a[row, column], total, total)"
    ),
    "log_z of top-k's survivors": Mistake("kept", "if want_total or", "if"),
    # sections 10 and 12
    "highest bit first": Mistake(
        "mask", 'np.packbits(padded, axis=1, bitorder="little")', 'np.packbits(padded, axis=1, bitorder="big")'
    ),
    "rank counts all ties": Mistake("observation", "(ids < token[:, None])", "(ids != token[:, None])"),
    "raw log probabilities at the temperature": Mistake(
        "observation", "    a = gaps(x, m)\n", "    a = gaps(x, m, scale)\n"
    ),
    "the largest outside the set": Mistake(
        "observation", "a = gaps(inner, inner.max(axis=1), scale)", "a = gaps(inner, m, scale)"
    ),
    "entropy's products cut too early": Mistake("observation", "(w * e >> 21)", "((w >> 21) * e)"),
    # section 13
    "scores of the margin without doubt": Mistake(
        "margin", "lead + (below >> _ROUNDING) + (below[w] >> _ROUNDING) + 4 >= 0", "lead >= 0"
    ),
    "shares of the margin without doubt": Mistake("margin", "_DOUBT = 17", "_DOUBT = 40"),
    "the margin of the largest only": Mistake(
        "margin", "largest = np.maximum(low[w], high[int(w == 0)])", "largest = high[0]"
    ),
    "the margin's survivors where top-k is joint": Mistake(
        "margin", 'n if p.filter_order == "joint" else self.k', "self.k"
    ),
    "the margin's share with what min-p drops": Mistake(
        "margin", 'self.min_weight if p.filter_order == "min_p_first" else 0', "0"
    ),
    # sections 14 to 17
    "-1 among drafts refused": Mistake(
        "speculative", "drafted = np.minimum(told, _until_stop(drafts))", "drafted = told"
    ),
    "one reason hides another": Mistake(
        "speculative_rejection",
        "missing = ~there & (batch.status & RequestStatus.LENGTH == 0)",
        "missing = ~there & (batch.status == 0)",
    ),
    "refused requests claim nothing": Mistake(
        "speculative_rows",
        "        claimed[first[b] : end[b]] = True\n",
        "        claimed[first[b] : end[b]] |= owns[b]\n",
    ),
    "the position does not advance": Mistake(
        "speculative", "given.position + (slot if ahead is None else ahead[request, slot])", "given.position"
    ),
    "the highest of equal nodes": Mistake(
        "speculative", "key=lambda i: (-int(depth[i]), i)", "key=lambda i: (-int(depth[i]), -i)"
    ),
    "drafts behind a wrong one accepted": Mistake(
        "speculative", "np.cumprod(agree, axis=1).sum(axis=1)", "agree.sum(axis=1)"
    ),
    "the coin at most": Mistake("speculative_rejection", "np.array([a < b for", "np.array([a <= b for"),
    "the coin's words swapped": Mistake(
        "speculative_rejection", "words[0] << _HALF | words[1]", "words[1] << _HALF | words[0]"
    ),
    "the residual with the noise of the draw": Mistake(
        "speculative_rejection", "np.uint64(3), np.uint64(4), np.uint64(5)", "np.uint64(3), np.uint64(0), np.uint64(1)"
    ),
    "the residual of what the draft cannot draw": Mistake(
        "speculative_rejection", "drafts[b[left], j[left]]] > 0", "drafts[b[left], j[left]]] >= 0"
    ),
    "probabilities of the draft rounded": Mistake(
        "speculative_rejection",
        "* np.float32(1 << 40)).astype(np.int64)",
        "* np.float32(1 << 40) + np.float32(0.5)).astype(np.int64)",
    ),
    "the target itself instead of the residual": Mistake(
        "speculative_rejection", "level[left], wanted[left] = _residual(w[left], mass[left], v)", "pass"
    ),
}


@contextlib.contextmanager
def broken(mistake: Mistake) -> Iterator[None]:
    """Inside, all of the reference works with the broken file's functions, classes and numbers."""
    name = f"{reference.__name__}.{mistake.module}"
    module = importlib.import_module(name)
    source = inspect.getsource(module)
    assert source.count(mistake.right) == 1, (mistake.module, mistake.right, source.count(mistake.right))
    wrong = ModuleType(name)
    wrong.__package__, wrong.__file__ = reference.__name__, module.__file__
    before = sys.modules[name]
    sys.modules[name] = wrong  # dataclasses look their module up
    exec(compile(source.replace(mistake.right, mistake.wrong), str(module.__file__), "exec"), vars(wrong))
    sys.modules[name] = before
    right, changed = dict(vars(module)), []
    for other_name, other in list(sys.modules.items()):
        if other_name.partition(".")[0] != reference.__name__.partition(".")[0] or reference.__name__ not in other_name:
            continue
        for key, value in list(vars(other).items()):
            if (
                value is right.get(key)
                and key in vars(wrong)
                and not key.startswith("__")
                and not isinstance(value, ModuleType)
            ):
                changed.append((other, key, value))
                setattr(other, key, vars(wrong)[key])
    try:
        yield
    finally:
        for other, key, value in changed:
            setattr(other, key, value)
