"""Deliberate breakages of the kernels, and the few rows that must reveal each: a suite that misses one is too weak.

    python tests/support/mutations.py "score ties" launches

runs some probes (all by default) in Triton's interpreter, on whatever `detsample` is on the path, and exits with
status 3 if one finds a difference to the reference.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

F32 = np.float32
FOUND = 3
OUT_OF_BOUNDS = "lie in no argument"  # says guarded_memory.py


@dataclass(frozen=True)
class Mutation:
    """One change of one file, at every place where the old text is."""

    name: str
    file: str
    old: str
    new: str
    probe: str


MUTATIONS = (
    Mutation(
        "of equal scores the highest id wins",
        "kernels/sampling/draw.py",
        "(other_token < token)",
        "(other_token > token)",
        "score ties",
    ),
    Mutation(
        "the last tied token at a boundary is lost",
        "kernels/contract/order.py",
        "(token <= boundary_token)",
        "(token < boundary_token)",
        "few of many ties",
    ),
    Mutation(
        "the last tied token at a boundary is not in the mask",
        "kernels/sampling/masks.py",
        "(token > boundary_token)",
        "(token >= boundary_token)",
        "ties",
    ),
    Mutation(
        "a mask has tied tokens of later programs",
        "kernels/sampling/masks.py",
        "tl.where(boundary_token < start,",
        "tl.where(boundary_token < 0,",
        "few of many ties",
    ),
    Mutation(
        "two words of a counter serve four tokens", "kernels/contract/philox.py", "token & 3", "token & 1", "noise"
    ),
    Mutation(
        "the high word of the position is dropped",
        "kernels/contract/philox.py",
        "c2 = high_word(position)",
        "c2 = high_word(position) & 0",
        "noise",
    ),
    Mutation(
        "min-p's and top-p's targets are rounded down",
        "kernels/contract/fraction.py",
        "((lower + (1 << below) - 1) >> below)",
        "(lower >> below)",
        "halves",
    ),
    Mutation(
        "a sum equal to top-p's target is not enough",
        "kernels/sampling/finish.py",
        "before < target - above_weight",
        "before <= target - above_weight",
        "halves",
    ),
    Mutation(
        "one token too many at the end of a row",
        "kernels/sampling/tiles.py",
        "mask=tokens < end",
        "mask=tokens <= end",
        "edges",
    ),
    Mutation(
        "half of a group's tokens are not looked at",
        "kernels/sampling/tiles.py",
        "member & ((1 << tokens) - 1)",
        "member & ((1 << tokens - 1) - 1)",
        "edges",
    ),
    Mutation(
        "of a stretch's bounds those of its last segment are left",
        "kernels/sampling/summarize.py",
        "if ends:",
        "if bounds_here:",
        "stretches",
    ),
    Mutation(
        "what min-p keeps is not all listed",
        "kernels/sampling/settle.py",
        "threshold = lowest_key_of(scale, largest, top_key, min_weight)",
        "threshold = top_key",
        "few above min-p",
    ),
    Mutation(
        "fusion is on", "sampler/on_gpu.py", "enable_fp_fusion=False", "enable_fp_fusion=True", "launches"
    ),
    Mutation(
        "fusion is on for masks",
        "sampler/on_gpu.py",
        '"enable_fp_fusion": False',
        '"enable_fp_fusion": True',
        "launches",
    ),
    Mutation(
        "fusion is on for margins", "inspect/on_gpu.py", "enable_fp_fusion=False", "enable_fp_fusion=True", "launches"
    ),
    Mutation(
        "fusion is on for noise", "noise/on_gpu.py", "enable_fp_fusion=False", "enable_fp_fusion=True", "launches"
    ),
    Mutation(
        "fusion is on for rollouts",
        "rollout/on_gpu.py",
        "enable_fp_fusion=False",
        "enable_fp_fusion=True",
        "launches",
    ),
    Mutation(
        "fusion is on for logits of probabilities",
        "integrations/probability/on_gpu.py",
        "enable_fp_fusion=False",
        "enable_fp_fusion=True",
        "launches",
    ),
    Mutation(
        "fusion is on for verification",
        "speculative/on_gpu.py",
        '"enable_fp_fusion": False',
        '"enable_fp_fusion": True',
        "launches",
    ),
    Mutation(
        "log_z without the total",
        "kernels/sampling/outcome.py",
        "mass = log_kept_mass(kept_weight, total_weight)",
        "mass = log_kept_mass(kept_weight, kept_weight)",
        "ties",
    ),
    Mutation(
        "the n-th tie is the one after",
        "kernels/sampling/finish.py",
        "(order == n - seen)",
        "(order == n - seen + 1)",
        "few of many ties",
    ),
    Mutation("-0 is below +0", "kernels/contract/order.py", "(x + 0.0).to", "x.to", "zeros"),
    Mutation(
        "a NaN among the logits goes unnoticed",
        "kernels/contract/order.py",
        "tl.where(x != x, NAN_KEY, key)",
        "key",
        "edges",
    ),
    Mutation(
        "bounds are trusted to the last bit",
        "kernels/sampling/score_bounds.py",
        "bound - shift + margin >=",
        "bound - shift - margin >=",
        "large equal logits",
    ),
    Mutation(
        "weights are not rounded",
        "kernels/contract/weight.py",
        ">> (y >> 23).to(tl.int64)) + 1) >> 1",
        ">> (y >> 23).to(tl.int64))) >> 1",
        "halves",
    ),
    Mutation(
        "marks are taken for those of another tile",
        "kernels/sampling/compaction.py",
        "tiles - 1 - (place >> 2)",
        "(place >> 2)",
        "intervals",
    ),
    Mutation(
        "marks count twice", "kernels/sampling/sum_weights.py", "count += number", "count += number * 2", "intervals"
    ),
    Mutation(
        "what reaches an interval lacks what is above it",
        "kernels/sampling/boundary/measure.py",
        "above_count + tl.sum(between, axis=0)",
        "tl.sum(between, axis=0)",
        "intervals",
    ),
    Mutation(
        "two programs add to a sum at once, and one is lost",
        "kernels/sampling/rows.py",
        'tl.atomic_add(sums + row * SUMS + which, value.to(tl.int64), sem="relaxed")',
        "tl.store(sums + row * SUMS + which, tl.load(sums + row * SUMS + which) + value.to(tl.int64))",
        "programs at once",
    ),
    Mutation(
        "a program judges before the others have added their sums",
        "kernels/sampling/boundary/measure.py",
        "arrived == programs - 1",
        "arrived >= programs - 2",
        "programs at once",
    ),
    Mutation(
        "the best token of all is taken, kept or not",
        "kernels/sampling/aim.py",
        "decided & (x >= kept_from)",
        "decided",
        "token alone",
    ),
    Mutation(
        "a token is taken although it may not be kept",
        "kernels/sampling/settling.py",
        "(token_of_code(code) == winner) | (token_only == 0)",
        "token_only == 0",
        "token alone",
    ),
    Mutation(
        "of the listed ties one too many is kept",
        "kernels/sampling/finish.py",
        "(equal & (token <= middle)).to(tl.int64), axis=0) >= ties",
        "(equal & (token <= middle)).to(tl.int64), axis=0) > ties",
        "listed ties",
    ),
    Mutation(
        "programs that share a stretch overwrite each other's bounds",
        "kernels/sampling/sum_weights.py",
        "tl.atomic_max(group_bound + groups_of_segment(quads) * stretch + lane // quads, bound, sem=\"relaxed\")",
        "tl.store(group_bound + groups_of_segment(quads) * stretch + lane // quads, bound)",
        "stretches",
    ),
    Mutation(
        "the best listed token is taken, kept or not",
        "kernels/sampling/finish.py",
        "kept = above + before < target",
        "kept = target > 0",
        "token alone",
    ),
    Mutation(
        "of the quads that share a word of a set, all have the first one's bits",
        "kernels/sampling/tiles.py",
        ">> (token & ((1 << log) - 1))",
        ">> (token & 0)",
        "sets",
    ),
    Mutation(
        "a tile of which one token is forbidden counts as free",
        "kernels/sampling/tiles.py",
        "tl.min(words.to(tl.uint32), axis=0) != ",
        "tl.max(words.to(tl.uint32), axis=0) != ",
        "sets",
    ),
    Mutation(
        "the prompt's tokens count as generated ones",
        "kernels/processing.py",
        "tl.where((how & PROMPT_COUNTS) != 0, 0, output_begin)",
        "output_begin * 0",
        "processing",
    ),
    Mutation(
        "a row of a draft sees one drafted token less",
        "kernels/processing.py",
        "tl.load(drafts + place).to(tl.int64)",
        "tl.load(drafts + place, mask=place > 0).to(tl.int64)",
        "processing",
    ),
)


# ---- probes


def compare(logits: np.ndarray, params: dict[str, Any], cuts: dict[str, int] | None = None) -> None:
    """The kernels and the reference, all outputs as bits."""
    import kernel_path

    from detsample import reference
    from detsample.sampler import on_gpu as engine

    wanted = {"return_log_z": True, "return_mask": "bits"}
    found = kernel_path.sample(logits, **params, **wanted, tuning=engine.Tuning(**cuts) if cuts else None)
    kernel_path.assert_same(found, reference.sample(logits, **params, **wanted))


def score_ties() -> None:
    """Rows decided by the last bit of a score."""
    import cases

    from detsample import reference

    case = cases.score_ties(reference.gumbel_noise, np.random.default_rng(1), 4, 40)
    compare(case.logits, case.parameters)


def ties() -> None:
    """Boundaries within ties, of each filter."""
    rows = np.tile(F32([2, 1, 1, 1, 0, 1, -1]), (3, 3))
    compare(rows, {"topp_seed": 4, "top_k": np.array([5, 9, 0]), "top_p": F32([1, 0.5, 0.8])})


def noise() -> None:
    """Noise itself, and equal logits, where the token is that of the largest noise."""
    import kernel_path

    from detsample import reference

    found, expected = (which.gumbel_noise(5, 2**40, np.arange(8)) for which in (kernel_path, reference))
    assert np.array_equal(found, expected), (found, expected)
    compare(np.zeros((3, 40), F32), {"topp_seed": np.arange(3), "position": np.array([5, 2**33 + 1, 2**62])})


def halves() -> None:
    """Sums that hit or miss their target by one unit."""
    import cases

    case = cases.exact_half_boundaries(np.random.default_rng(2), 8, 16)
    compare(case.logits, case.parameters)
    compare(np.random.default_rng(3).standard_normal((1, 50), dtype=F32), {"topp_seed": 1, "top_p": 0.7})


def edges() -> None:
    """The best token right behind a row's end; the winner in any quad of any group; a NaN."""
    rows = np.random.default_rng(5).standard_normal((5, 203), dtype=F32)
    rows[[1, 3], 0] = 50
    rows[2, 64] = 9
    rows[4, 77] = -np.nan  # with its sign set
    compare(rows, {"topp_seed": np.arange(5), "top_k": np.array([0, 9, 0, 3, 5])})


def launches() -> None:
    """Every launch says that nothing may be fused; the interpreter does not care, a GPU's compiler does."""
    import kernel_path
    from triton.runtime import interpreter

    call = interpreter.GridExecutor.__call__
    said: list[Any] = []

    def record(self: Any, *arguments: Any, **options: Any) -> Any:
        said.append(options.get("enable_fp_fusion"))
        return call(self, *arguments, **options)

    interpreter.GridExecutor.__call__ = record
    rows = np.zeros((1, 700), F32)
    for kind, top_k in (("bool", 600), ("bits", 0), ("csr", 3)):
        kernel_path.sample(rows, 1, top_k=top_k, top_p=0.5, return_log_z=True, return_mask=kind)
    kernel_path.gumbel_noise(1, 2, np.arange(3))
    kernel_path.fold_in(np.arange(3), 1)
    built_on_the_sampler()
    assert len(said) > 24
    assert all(fusion is False for fusion in said), said


def built_on_the_sampler() -> None:
    """The other launches: margins, rollouts, logits of probabilities, verification."""
    import kernel_path
    import speculative_path

    from detsample import frameworks
    from detsample.integrations.probability import on_gpu as probability
    from detsample.rollout import on_gpu
    from detsample.sampler import parameters

    rows = np.zeros((1, 40), F32)
    numpy = frameworks.of(rows)
    kernel_path.margin(rows, 1)
    of = parameters.read_logits(rows, numpy)
    heat = parameters.read_parameters(of, 0, 0, 1.0, 0, 1.0, 0.0).temperature
    on_gpu.observe(of, np.array([3]), np.full((1, 2), -1, np.int32), heat, 2)
    probability.log_probabilities(numpy, rows + F32(0.5))
    tree, drafts = np.zeros((1, 2, 40), F32), np.array([[3]])
    speculative_path.verify(tree, drafts, 1, 5, position=0)
    speculative_path.verify(tree, drafts, 1, 5, position=0, method="rejection", draft_logits=rows[None])
    speculative_path.verify_tree(tree, np.array([[3, 4]]), np.array([[-1, 0]]), 5, position=0)


def listed_ties() -> None:
    """A boundary within a tie that `sum_weights` has listed, of more tokens than `settle` gathers."""
    rows = np.random.default_rng(11).permuted(np.repeat(F32([[3, 1, 2]]), [200, 1000, 800], axis=1), axis=1)
    compare(rows, {"topp_seed": 5, "top_p": F32([0.8]), "top_k": np.array([0])})


def few_of_many_ties() -> None:
    """A boundary far from the end of a tie; the token there is drawn for some rows."""
    compare(np.zeros((8, 300), F32), {"topp_seed": np.arange(8), "top_p": 0.01})
    compare(np.zeros((1, 3000), F32), {"topp_seed": 1, "top_k": 1500})


def intervals() -> None:
    """Boundaries among many tokens, by weight, by count and by min-p."""
    rows = np.random.default_rng(6).standard_normal((3, 3000), dtype=F32)
    filters = {"top_p": F32([0.9, 1, 1]), "top_k": np.array([0, 700, 0]), "min_p": F32([0, 0, 0.05])}
    compare(rows, {"topp_seed": np.arange(3), **filters})


def stretches() -> None:
    """Winners in any of the segments that share a bound."""
    rows = np.random.default_rng(8).standard_normal((6, 2100), dtype=F32)
    compare(rows, {"topp_seed": np.arange(6), "temperature": 3.0}, {"parts": 1, "segment_tiles": 1})
    rows = np.random.default_rng(8).standard_normal((2, 10240), dtype=F32)  # a stretch of six tiles, programs of five
    compare(rows, {"topp_seed": np.arange(2), "min_p": F32(0.001)}, {"parts": 3, "segment_tiles": 3})


def few_above_min_p() -> None:
    """Rows of which min-p alone keeps few tokens, ties at the boundary among them."""
    rows = np.random.default_rng(9).standard_normal((4, 1200), dtype=F32) * 5
    rows[3, ::100] = 30
    rows[3, 50::100] = 29
    compare(rows, {"topp_seed": np.arange(4), "min_p": np.exp(-1, dtype=F32)})


def programs_at_once() -> None:
    """Rows whose first interval is wrong, for the tokens it is guessed from are all alike and unlike the rest; each is
    worked on by three programs that take turns.
    """
    from interleaved import interleaved

    rows = np.random.default_rng(7).standard_normal((3, 9000), dtype=F32) * F32(0.1)
    rows[:, np.arange(9000) % (9000 // 512) < 16] = -30
    for seed in range(3):
        with interleaved(seed, patience=1):
            compare(rows, {"topp_seed": 1, "top_p": F32([0.9, 0.95, 0.99])}, {"parts": 3, "segment_tiles": 1})


def token_alone() -> None:
    """The token without its kept set, where the best of all is not kept, and where rough sums cannot tell."""
    import kernel_path

    from detsample import reference

    flat = np.repeat(np.random.default_rng(11).standard_normal((1, 2000), dtype=F32), 24, axis=0)
    equal = np.full((1, 2000), F32(-12))  # of 15 equal tokens, in as many groups, top-p keeps 7 or 8
    equal[0, 130 * np.arange(15)] = 0
    share = F32(7 / (15 + 1985 * np.exp(-12.0)))
    best = reference.sample(np.repeat(equal, 900, axis=0), np.arange(900), top_k=8).token_ids
    seeds = np.flatnonzero(best == 7 * 130)[:6]  # the token behind the boundary, or the last one before it
    shares = np.nextafter(share, F32([0, 1] * 6)[: len(seeds)])
    for rows, params in (
        (flat, {"topp_seed": np.arange(24), "top_p": 0.6}),
        (flat[:8] * F32(0.3), {"topp_seed": np.arange(8), "top_p": 0.3}),
        (np.repeat(equal, len(seeds), axis=0), {"topp_seed": seeds, "top_p": shares}),
    ):
        found = kernel_path.sample(rows, **params, return_logprobs=False, return_num_kept=False)
        expected = reference.sample(rows, **params)
        assert np.array_equal(found.token_ids, expected.token_ids), (found.token_ids, expected.token_ids)


def zeros() -> None:
    """Zeros of both signs, which are one value."""
    compare(np.where(np.arange(12) % 3, F32(-0.0), F32(0))[None, :], {"topp_seed": 1, "top_k": 6})


def large_equal_logits() -> None:
    """A draw that fp32 bounds cannot settle: at 1e6 they are rounded to 1/16, which puts others ahead of the winner."""
    compare(np.full((2, 300), 1e6, F32), {"topp_seed": np.arange(18, 20)})


def processing() -> None:
    """Penalties of tokens that are repeated, of the prompt, of the output and of drafts."""
    from processing_cases import by_kernel

    from detsample.processing import Processing, apply

    rows = np.random.default_rng(10).standard_normal((2, 3, 40), dtype=F32)
    asked = Processing(prompt=np.array([[3, 4], [5, 5]]), output=np.array([[3, 3], [7, -1]]), repetition_penalty=1.3,
                       presence_penalty=0.5)  # fmt: skip
    how = {"draft_tokens": np.array([[9, 3], [8, 8]])}
    found, expected = by_kernel(rows, asked, how), apply(rows, asked, **how)
    assert np.array_equal(found.view(np.int32), expected.view(np.int32)), (found, expected)


def sets() -> None:
    """Rows whose largest logit is forbidden, in each of a word's bits; and one with a tile that allows one token."""
    rows = np.zeros((32, 1024), F32)
    rows[np.arange(32), np.arange(32) + 32] = 9
    allowed = np.full((32, 32), -1, np.int32)
    allowed[:, 1] = ~(1 << np.arange(32, dtype=np.int64)).astype(np.uint32).view(np.int32)
    compare(rows, {"topp_seed": np.arange(32), "top_k": 40, "allowed": allowed})
    allowed = np.full((1, 64), -1, np.int32)
    allowed[:, 32:] = np.arange(32) == 5
    compare(np.arange(2048, dtype=F32)[None], {"topp_seed": 1, "top_k": 40, "allowed": allowed}, {"parts": 1})


PROBES: dict[str, Callable[[], None]] = {
    probe.__name__.replace("_", " ").replace("min p", "min-p"): probe
    for probe in (
        score_ties, ties, noise, halves, edges, launches, listed_ties, few_of_many_ties, intervals,
        stretches, few_above_min_p, programs_at_once, token_alone, zeros, large_equal_logits, processing, sets,
    )
}  # fmt: skip


def main(names: list[str]) -> int:
    """Run probes; 0, or `FOUND` if one of them finds a difference."""
    sys.meta_path.insert(0, NoTorch())  # Triton would import it, which takes seconds
    for name in names or PROBES:
        try:
            PROBES[name]()
        except Exception as error:
            if not isinstance(error, AssertionError) and OUT_OF_BOUNDS not in str(error):
                raise
            print(f"{name}: {str(error)[:500]}")
            return FOUND
    return 0


class NoTorch(importlib.abc.MetaPathFinder):
    """As if torch were not installed."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        """Refuse torch, and leave all else to others."""
        if fullname.partition(".")[0] == "torch":
            raise ModuleNotFoundError("torch is left out here", name="torch")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
