"""Makes the test vectors of a contract from the reference: ``python make_vectors.py`` writes the three files beside it.

Inputs are chosen where wrong implementations differ; tests/contract/test_vectors.py breaks the reference in the ways
that the README lists and sees to it that each fails a vector.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import broken_requests
import cases

from detsample import reference

HERE = Path(__file__).parent
F32, U64 = np.float32, np.uint64
ORDERS = ("top_k_first", "min_p_first", "joint")
RNG = np.random.default_rng(2)
FLT_MAX = np.finfo(F32).max


def part(name: str) -> Any:
    return importlib.import_module(f"{reference.__name__}.{name}")


def words(array: Any) -> str:
    """32-bit numbers as eight hex digits each, with spaces between."""
    return " ".join(f"{word:08x}" for word in np.ascontiguousarray(array).reshape(-1).view(np.uint32).tolist())


def integers(array: Any) -> list[int]:
    return [int(v) for v in (array if isinstance(array, list) else np.asarray(array).reshape(-1))]


# ---- functions


def random_bits(count: int, least: int = 0) -> np.ndarray:
    """64-bit numbers of every magnitude."""
    numbers = RNG.integers(least, 2**64, count, U64) >> RNG.integers(0, 64, count, U64)
    return np.maximum(numbers, U64(least))


def split_inputs() -> np.ndarray:
    """Where SPLIT changes its exponent, and where the last bits of its coefficients show."""
    seams = [2**k for k in range(64)] + [(3037000499 << k) >> 10 for k in range(43)]
    near = {seam + step for seam in seams for step in (-1, 0, 1)} | {3037000499, 3037000500, 2**64 - 1, 2**53 + 1}
    last = [t << k for t in (2782365138, 2878157519, 2899064188) for k in (0, 20)]
    return np.concatenate([np.array(sorted(n for n in near if 0 < n < 2**64) + last, U64), random_bits(150, 1)])


def uniform_inputs() -> np.ndarray:
    """Both ends, the middle, and where the last bits of the noise's coefficients show."""
    low = [0, 1, 2, 3, 2**32, 2**33 - 1, 2**62, 2**63 - 1, *(v << 33 for v in (1022064678, 1019388244, 1055995825))]
    low += [t << k for t in (2782365138, 2878157519, 2899064188) for k in (0, 9, 20)]
    s = np.concatenate([np.array(low, U64), random_bits(100)])
    return np.concatenate([s, ~s])


def gap_inputs() -> np.ndarray:
    """Near powers of two of the weight, over the whole range, at its ends, and where coefficients' last bits show."""
    last = np.array([0x3D124840, 0x4111A4C5, 0x3F0D6D50, 0x413B510C, 0x4098C9F6, 0x40F402A6, 0x413C8C1C], np.uint32)
    edges = F32([n * math.log(2) for n in range(1, 44)] + [27.75, 28.42, 31.999998, 2**-27, 2**-26])
    near = [edges, np.nextafter(edges, F32(0)), np.nextafter(edges, F32(99))]
    ends = F32([0, 1e-45, 1e-38, 32, 40, 1e9, FLT_MAX, np.inf])
    return np.concatenate(
        [
            ends,
            last.view(F32),
            *near,
            F32(33) * RNG.random(200, dtype=F32),
            F32(2) ** RNG.uniform(-27, 5, 60).astype(F32),
        ]
    )


def function_vectors() -> dict[str, dict[str, Any]]:
    """Each function: what its columns mean, and columns of inputs and results."""
    found: dict[str, dict[str, Any]] = {}

    def add(name: str, columns: Iterable[tuple[str, Any]]) -> None:
        found[name] = {k: words(v) if getattr(v, "dtype", None) == F32 else integers(v) for k, v in columns}

    y = split_inputs()
    e, f = part("logarithm").split(y)
    add("SPLIT", [("y", y), ("e", e), ("f", f)])
    e = np.concatenate([np.arange(-64, 66), [-127, 126]])
    f = RNG.integers(-(2**30), 2**30, len(e))
    add("LOGQ", [("e", e), ("f", f), ("log", part("logarithm").logq(e, f))])
    mass = (y >> U64(3)).view(np.int64)
    mass = np.append(mass[mass > 0], [2**40, 2**40 - 1, 2**40 + 1, 2**61])
    add("LN", [("y", mass), ("log", part("logarithm").ln_mass(mass))])
    s = uniform_inputs()
    add("G", [("s", s), ("noise", part("gumbel").gumbel(s))])
    a = gap_inputs()
    add("W", [("a", a), ("w", part("weight").weight(a))])
    a = np.append(a, F32([2.0**30, 2.0**31, 2.0**29 + 64, 1.5 * 2.0**-32, 2.5 * 2.0**-32, 0.75 * 2.0**-32]))
    add("Z", [("a", a), ("units", part("fixed_point").fixed_point(a))])
    found["gap"] = gap_vectors()
    found["philox"] = philox_vectors()
    seeds = np.concatenate([[0, 1, -1, 2**32, 2**63 - 1, -(2**63), 5 << 40], RNG.integers(-(2**63), 2**63 - 1, 8)])
    index = np.concatenate([[0, 1, -1, 2**32, 7 << 50], RNG.integers(-(2**63), 2**63 - 1, 4)])
    pairs = np.array([(seed, i) for seed in seeds for i in index])
    add("fold_in", [("topp_seed", pairs[:, 0]), ("index", pairs[:, 1]), ("seed", reference.fold_in(*pairs.T))])
    add("bits", bits_of_tokens(seeds))
    found |= filter_vectors() | log_vectors()
    found["csr"] = csr_vector()
    return found


def gap_vectors() -> dict[str, Any]:
    m = np.concatenate(
        [F32([30, 30, FLT_MAX, FLT_MAX, 2.0**24, 0, 1e-38, 3]), RNG.standard_normal(60, dtype=F32) * F32(9)]
    )
    x = np.concatenate(
        [F32([20, -FLT_MAX, -FLT_MAX, 0, 0.3, 0, 1e-45, -np.inf]), m[8:] - RNG.random(60, dtype=F32) * F32(20)]
    )
    t = np.concatenate(
        [F32([1e-8, 1, 1e38, 1e-45, 3, 1e-45, 1e-45, 0.1]), RNG.choice(F32([0.1, 0.3, 0.7, 1.3, 3]), 60)]
    )
    a = part("temperature").gaps(x[:, None], m, t)[:, 0]
    return {"M": words(m), "x": words(x), "temperature": words(t), "a": words(a)}


def philox_vectors() -> dict[str, Any]:
    blocks = np.concatenate([[[0] * 6, [2**32 - 1] * 6], RNG.integers(0, 2**32, (12, 6))]).astype(U64)
    found = part("philox").philox4x32(tuple(blocks[:, :4].T), tuple(blocks[:, 4:].T))
    text = [" ".join(f"{word:08x}" for word in row) for row in blocks.tolist()]
    return {
        "counter_and_key": text,
        "words": [" ".join(f"{w:08x}" for w in row) for row in np.stack(found, 1).tolist()],
    }


def bits_of_tokens(seeds: np.ndarray) -> list[tuple[str, Any]]:
    """The random bits of single tokens: noise, residual noise and coin."""
    tokens = np.array([0, 1, 2, 3, 4, 7, 31, 2**18 + 1, 2**21 - 1])
    places = np.array([0, 1, 2**32 - 1, 2**32, 2**63 - 1, 5])
    rows = [(s, p, t) for s in seeds[:10] for p in places[: len(places)] for t in RNG.choice(tokens, 2, replace=False)]
    seed, place, token = (np.array(column) for column in zip(*rows, strict=True))
    keys = seed.view(U64)
    residual = [
        part("speculative_rejection").residual_uniform(keys[i : i + 1], place[i : i + 1], 32)[0]
        for i in range(len(rows))
    ]
    small = token & 31
    return [
        ("topp_seed", seed), ("position", place), ("token", token), ("s", part("gumbel").uniform(keys, place, token)),
        ("residual_token", small), ("residual_s", [int(r[t]) for r, t in zip(residual, small, strict=True)]),
        ("coin", part("speculative_rejection").coin(keys, place)),
    ]  # fmt: skip


def filter_vectors() -> dict[str, Any]:
    p = np.concatenate(
        [F32([0.5, 0.5, 0.5, 0.75, 1e-45, 1e-45, 1e-38, 0.1, 0.9, 1 - 2**-24]), RNG.random(60, dtype=F32)]
    )
    s = np.concatenate(
        [[1, 2, 3, 4, 1, 2**61, 2**61, 10, 10, 2**61], RNG.integers(1, 2**61, 60) >> RNG.integers(0, 60, 60)]
    )
    s = np.maximum(s, 1)
    m = F32([0, -1, -0.0, 1e-45, 2**-41, 2**-40, 2**-39, 1.5 * 2**-40, 0.1, 0.5, 1, 1.5, 2, 3e38, np.inf])
    q = np.concatenate(
        [F32([0, 1, 1.9999999, 2**-40, 1.5 * 2**-40, 1e-45, 0.1, 0.3]), RNG.random(20, dtype=F32) * F32(2**-18)]
    )
    return {
        "target": {"top_p": words(p), "S": integers(s), "target": integers(part("filters").top_p_mass(p, s))},
        "threshold": {"min_p": words(m), "threshold": integers(part("filters").min_p_weight(m))},
        "v": {
            "probability": words(q),
            "v": integers(part("speculative_rejection").draft_weights(q[:, None], False)[0]),
        },
    }


def log_vectors() -> dict[str, Any]:
    a = np.concatenate([F32([0, 0, 1, 2.0**30, 2.0**31, np.inf, 13.3]), F32(30) * RNG.random(40, dtype=F32)])
    kept = np.concatenate([[2**40, 2**40 + 1, 2**41, 2**40, 2**40, 2**40, 3 << 41], RNG.integers(2**40, 2**61, 40)])
    total = np.minimum(kept + (RNG.integers(0, 2**61, 47) >> RNG.integers(0, 60, 47)), 2**61)
    wide = [1, 2**63, 2**64 - 1, 2**64, 2**64 + 1, 3037000499 << 40, 2**127 - 1, 2**100 + 2**36 + 1]
    wide += [int(h) << 62 | int(low) for h, low in zip(random_bits(20, 1), random_bits(20), strict=True)]
    wide = [n & (2**127 - 1) for n in wide]
    pair = np.array([n >> 64 for n in wide], U64), np.array([n & (2**64 - 1) for n in wide], U64)
    coins = np.array([0, 2**63, 2**63 - 1, 2**64 - 1, 2**62], U64)
    w, v = np.array([2**39, 2**39, 2**39, 2**40, 0]), np.array([2**40, 2**40, 2**40, 2**40, 1])
    of = np.full(5, 2**40)
    passed = part("speculative_rejection")._accepted(coins, w, of, v, of)
    return {
        "logprobs": {"a": words(a), "w(kept)": integers(kept), "logprobs": words(part("logprob").logprob(a, kept))},
        "log_z": {
            "w(kept)": integers(kept),
            "w(all)": integers(total),
            "log_z": words(part("logprob").log_z(kept, total)),
        },
        "LNW": {"y": wide, "log": integers(part("products").ln_wide(pair))},
        "test": {
            "coin": integers(coins), "w_i": integers(w), "w(kept)": integers(of), "v_i": integers(v),
            "v(all)": integers(of), "accepted": integers(passed),
        },
    }  # fmt: skip


def csr_vector() -> dict[str, Any]:
    x = RNG.standard_normal((4, 35), dtype=F32)
    x[2, 3] = np.nan
    found = reference.mask(x, top_k=np.array([3, 1, 2, 0]), min_p=0.1, kind="csr").mask
    return {
        "logits": words(x), "top_k": [3, 1, 2, 0], "min_p": words(F32([0.1])),
        "row_offsets": integers(found.row_offsets), "token_ids": integers(found.token_ids),
    }  # fmt: skip


# ---- rows

PARAMETERS = ("temperature", "top_k", "top_p", "min_p", "topp_seed", "position")


def given_of(params: dict[str, np.ndarray], row: int) -> dict[str, Any]:
    reals = {"temperature", "top_p", "min_p"}
    return {n: words(F32([params[n][row]])) if n in reals else int(params[n][row]) for n in PARAMETERS}


def sampled(
    x: np.ndarray, params: dict[str, np.ndarray], order: str, allowed: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Rows of `sample`, with their margins where rows are small and all tokens allowed."""
    out = reference.sample(x, **params, filter_order=order, allowed=allowed, return_log_z=True, return_mask="bits")
    margins = reference.margin(x, **params, filter_order=order).margin if x.shape[1] <= 64 and allowed is None else None
    return [
        {
            "logits": words(x[row]), **given_of(params, row), "filter_order": order,
            "token_id": int(out.token_ids[row]), "num_kept": int(out.num_kept[row]), "status": int(out.status[row]),
            "logprobs": words(out.logprobs[row : row + 1]), "log_z": words(out.log_z[row : row + 1]),
            "mask": words(out.mask[row]),
        } | ({} if margins is None else {"margin": words(margins[row : row + 1])})
        for row in range(len(x))
    ]  # fmt: skip


def filtered(rows: int, vocab: int) -> dict[str, np.ndarray]:
    """Parameters with which many tokens, but not all, are kept, and any filter may decide."""
    return cases.plain_parameters(RNG, rows) | {
        "temperature": RNG.choice(F32([0.5, 0.7, 1, 2]), rows),
        "top_k": RNG.integers(0, vocab, rows),
        "top_p": F32(0.3) + F32(0.7) * RNG.random(rows, dtype=F32),
        "min_p": RNG.choice(F32([0, 0, 0.02, 0.1, 0.3]), rows),
    }


def sample_rows() -> list[dict[str, Any]]:
    found = []
    for vocab in (1, 2, 3, 7, 31, 32, 33, 64, 100, 257):
        kinds = RNG.choice(sorted(cases.CASES), 4)
        x = np.concatenate([np.asarray(cases.CASES[kind](RNG, 1, vocab), F32) for kind in kinds])
        found += sampled(x, cases.parameters(RNG, 4, vocab), ORDERS[vocab % 3])
    for order in ORDERS:
        found += sampled(RNG.standard_normal((16, 24), dtype=F32) * F32(1.5), filtered(16, 24), order)
        found += sampled(np.round(RNG.standard_normal((6, 40), dtype=F32) * 2) / F32(2), filtered(6, 40), order)
        few = filtered(6, 64) | {"top_k": RNG.integers(1, 5, 6), "min_p": np.zeros(6, F32)}
        found += sampled(RNG.standard_normal((6, 64), dtype=F32), few, order)
    for boundary in (cases.exact_half_boundaries(RNG, 12, 16), cases.score_ties(reference.gumbel_noise, RNG, 14, 4)):
        found += sampled(boundary.logits, boundary.parameters, ORDERS[0])
    return found + special_rows()


def special_rows() -> list[dict[str, Any]]:
    """Rows by hand: ties, zeros, subnormals, weightless tokens, tiny and huge temperatures, filters at their ends."""
    plain = {"temperature": F32(1), "top_k": 0, "top_p": F32(1), "min_p": F32(0), "topp_seed": 0, "position": 5}
    rows: list[tuple[list[float], dict[str, Any]]] = [
        ([30, 20], {"temperature": F32(1e-8), "topp_seed": seed}) for seed in range(6)
    ]
    rows += [([0, 1e-45, 0, 1e-45], {"temperature": F32(0)}), ([0, 1e-45, 0, 1e-45], {"temperature": F32(1e-45)})]
    rows += [([-0.0, 0.0, -0.0], how) for how in ({"temperature": F32(0)}, {"top_k": 1}, {"top_p": F32(0.1)})]
    rows += [([1e-45, 0, -0.0, -1e-45], {"top_k": 1}), ([0, -40, -40, 0], {}), ([0, -40, -40, 0], {"top_k": 3})]
    rows += [([0, 0, -1], {"min_p": F32(7)}), ([0, 0, -1], {"min_p": F32(1)}), ([0, 0, -1], {"top_p": F32(0)})]
    rows += [([0, 0, -1], {"top_p": F32(-1)}), ([5, 5, 5, 5], {"top_p": F32(0.5)}), ([5, 5, 5, 5], {"top_k": 2})]
    rows += [([1, 0, -1], {"top_k": k}) for k in (-1, 2, 3, 2**40)]
    rows += [([3e38, -3e38], {"temperature": F32(1e38)}), ([3e38, 2e38, 1e38], {"temperature": F32(1e38)})]
    rows += [([2.0**24, 2.0**24 - 1, 1.3], {"temperature": F32(7)}), ([0, -27.75, -27.75, -40], {"min_p": F32(2**-40)})]
    bad = ({"temperature": F32(-1)}, {"temperature": F32(np.inf)}, {"top_p": F32(np.nan)}, {"position": -1})
    rows += [([0, 1], how) for how in bad] + [([0, np.nan], {}), ([np.inf, 0], {}), ([-np.inf, -np.inf], {})]
    found = []
    for values, how in rows:
        params = {name: np.array([value]) for name, value in (plain | how).items()}
        found += sampled(F32([values]), params, ORDERS[0])
    return found


def allowed_rows() -> list[dict[str, Any]]:
    """Rows with sets of allowed tokens: bits past V set, forbidden NaN and +inf, rows without a token."""
    rng, rows = np.random.default_rng(21), []
    for vocab in (1, 31, 32, 33, 70, 300):
        for order in ORDERS:
            x = (rng.standard_normal((8, vocab)) * 3).astype(np.float32)
            allowed = rng.random((8, vocab)) < rng.choice([0.1, 0.5, 0.97], (8, 1))
            allowed[0], allowed[1], allowed[2, rng.integers(vocab)] = True, False, True
            x[3:5][~allowed[3:5]] = np.float32([np.nan, np.inf]).repeat(vocab).reshape(2, vocab)[~allowed[3:5]]
            x[5][~allowed[5]] += 40
            sets = part("mask").bits_of(allowed)
            sets[4:, -1] |= np.int32(-1) << np.int32((vocab - 1) % 32) << np.int32(1)
            params = filtered(8, vocab)
            for row, made in enumerate(sampled(x, params, order, allowed=sets)):
                rows.append(made | {"allowed": words(sets[row])})
    return rows


def observations() -> list[dict[str, Any]]:
    found = []
    for vocab in (3, 33, 40):
        x = np.round(RNG.standard_normal((8, vocab), dtype=F32) * 4) / F32(4)
        x[RNG.random(x.shape) < 0.1] = -np.inf
        x[:, 0] = 0
        x[7, 1] = np.nan
        kept = RNG.integers(-(2**31), 2**31, (8, -(-vocab // 32)), np.int64).astype(np.int32)
        kept[6] = 0
        tokens = np.append(RNG.integers(0, vocab, 6), [0, -1])
        tokens[5] = vocab
        t = F32([1, 0, 0.7, 2, 1e-45, np.nan, 1, 1])
        seen = reference.observe(x, tokens, kept, temperature=t, top_n=4)
        found += [
            {
                "logits": words(x[row]), "token": int(tokens[row]), "kept": words(kept[row]),
                "temperature": words(t[row : row + 1]), "top_n": 4, "rank": int(seen.rank[row]),
                "top_token_ids": integers(seen.top_token_ids[row]), "top_logprobs": words(seen.top_logprobs[row]),
                **{n: words(getattr(seen, n)[row : row + 1]) for n in ("logprobs", "raw_logprobs", "entropy")},
            }
            for row in range(8)
        ]  # fmt: skip
    return found


# ---- requests


def encoded(value: Any) -> Any:
    """An array as its shape and content, fp32 as bits; anything else as it is."""
    if not isinstance(value, np.ndarray):
        return value
    kind = "fp32" if value.dtype == F32 else "integers"
    return {"shape": list(value.shape), kind: words(value) if kind == "fp32" else integers(value)}


def drafted(seed: int) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """A call in order, whose drafts are accepted in part: the target's own tokens with others among them."""
    rng = np.random.default_rng([seed, 18])
    kind = ("match", "rejection", "tree")[seed % 3]
    requests, width, vocab = 4, 4, int(rng.choice([3, 6, 40]))
    x = rng.standard_normal((requests, width, vocab), dtype=F32) * F32(2)
    seeds, how = rng.integers(-(2**63), 2**63 - 1, requests), {"position": rng.integers(0, 2**40, requests)}
    how |= {"temperature": rng.choice(F32([0, 0.7, 1.3]), requests), "top_p": rng.choice(F32([0.9, 1]), requests)}
    if kind == "tree":
        parents = np.array([[-1, 0, 0, 1]] * requests)
        depth = np.array([0, 1, 1, 2])
        own = [
            reference.sample(x[:, m], seeds, **how | {"position": how["position"] + depth[m]}).token_ids
            for m in range(width)
        ]
        drafts = np.stack([own[0] * 0, own[0], own[0], own[1]], axis=1)
        other = rng.random(drafts.shape) < 0.3
        return "verify_tree", (x, np.where(other, rng.integers(0, vocab, drafts.shape), drafts), parents, seeds), how
    own = [
        reference.sample(x[:, m], seeds, **how | {"position": how["position"] + m}).token_ids for m in range(width - 1)
    ]
    drafts = np.where(
        rng.random((requests, width - 1)) < 0.25, rng.integers(0, vocab, (requests, width - 1)), np.stack(own, 1)
    )
    if kind == "rejection":
        q = x[:, :-1] + rng.standard_normal((requests, width - 1, vocab), dtype=F32)
        how |= {"method": "rejection"}
        if rng.random() < 0.5:
            how["draft_logits"] = q
        else:
            share = np.exp(q - q.max(axis=2, keepdims=True))
            how["draft_probs"] = (share / share.sum(axis=2, keepdims=True)).astype(F32)
            how["draft_probs"][0, 0, drafts[0, 0]] = 0
            # A token that neither the draft could draw nor the target keeps.
            drafts[1, 0] = x[1, 0].argmin()
            how["draft_probs"][1, 0, drafts[1, 0]] = 0
            how["top_k"] = np.array([0, 2, 0, 0])
    return "verify", (x, drafts, np.array([2, 1, 3, rng.integers(0, width)]), seeds), how


def by_hand(number: int) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """Two reasons at once; a chain of requests of which each overlaps the last; -1 among drafted tokens."""
    x = np.random.default_rng(19).standard_normal((4, 3), dtype=F32)
    if number == 0:
        how = {"position": 0, "row_offsets": np.array([0, 2]), "method": "rejection", "draft_logits": x[:0]}
        return "verify", (x[:2], np.array([[7]]), np.array([1]), 0), how
    if number == 1:
        how = {"position": 0, "row_offsets": np.array([0, 2, 1, 3, 2, 4])}
        return "verify", (x, np.zeros((5, 1), np.int64), np.ones(5, np.int64), 7), how
    first = int(reference.sample(x[:1], 7).token_ids[0])
    drafts = np.array([[first, -1, 9], [-1, 9, -5], [first, -2, 0]])
    return "verify", (np.stack([x] * 3), drafts, np.array([3, 3, 3]), 7), {"position": 0}


def requests(make: Callable[[int], tuple[str, tuple[Any, ...], dict[str, Any]]], count: int) -> list[dict[str, Any]]:
    found = []
    for seed in range(count):
        name, args, how = make(seed)
        out = getattr(reference, name)(*args, **how)
        results = {field: encoded(getattr(out, field)) for field in vars(out)}
        given = {key: encoded(value) for key, value in how.items()}
        found.append({"call": name, "arguments": [encoded(value) for value in args], **given, "results": results})
    return found


def write(name: str, chapters: dict[str, Any]) -> None:
    """One vector a line, so that a change shows as what it is."""
    head = f'{{"contract": {reference.CONTRACT_VERSION}'
    texts = []
    for key, value in chapters.items():
        if isinstance(value, list):
            texts.append(f'"{key}": [\n' + ",\n".join(json.dumps(row) for row in value) + "\n]")
        else:
            texts.append(f'"{key}": {json.dumps(value)}')
    (HERE / name).write_text(",\n".join([head, *texts]) + "\n}\n")


def main() -> None:
    write("contract-2-functions.json", function_vectors())
    rows = {"sample": sample_rows(), "observe": observations()}
    calls = requests(by_hand, 3) + requests(drafted, 30) + requests(broken_requests.broken_call, 42)
    write("contract-2-rows.json", rows | {"requests": calls})
    write("contract-2-allowed.json", {"sample": allowed_rows()})


if __name__ == "__main__":
    main()
