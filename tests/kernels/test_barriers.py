"""Barriers, atomics and caches of the compiled kernels: what no interpreter minds, and a GPU seldom shows.

Kernels are compiled, as far as Triton's GPU dialect, in a process of its own without TRITON_INTERPRET and without a
GPU; tests/support/hazards.py then looks for accesses to the same memory without a barrier in between.
"""

from __future__ import annotations

import functools
import re

import compiled
import pytest
from compiled import PASSES, READING
from compiling import Request, results
from hazards import Access, Hazards, Kernel
from levels import only

pytest.importorskip("triton", reason="Triton is not installed: nothing can be compiled")
pytestmark = [pytest.mark.triton_contract, pytest.mark.xdist_group("sm_90")]

SAME = {"list_token": "group_key"}
"""In calls without a mask the list lies where the groups' maxima are."""

HARMLESS = {
    "sampling.settle.settle": {
        ("records", "read_field", "write_outcome"): "the status: who reads it late reads what it leads to itself",
        ("records", "read_field", "note"): "the mode: the sum over the parts comes between, for which warps wait",
        ("scratch_code", "append", "gather"): "candidates, and the groups' numbers behind them",
        ("scratch_code", "gather", "append"): "the groups' numbers, and candidates before them",
    },
    "sampling.sum_weights.sum_weights": {
        ("sums", "measure", "read_sum"): "the number of programs that arrived, and another sum",
        ("records", "read_field", "judge"): "the next interval, and other fields",
    },
    "sampling.finish.finish": {
        ("records", "read_boundary", "write_boundary"): "a stage, with its barrier, always comes between",
        ("records", "read_interval", "write_boundary"): "intervals, and the boundary",
        ("records", "read_field", "write_outcome"): "the status: who reads it late has nothing to do but what is done",
        ("records", "read_interval", "write_outcome"): "intervals, and the status",
    },
}
"""What looks like a hazard and is none: the argument, the functions of the first and of the second access, and why."""


SOME = only(READING.__contains__, PASSES, "kernels that take long to compile")
"""The kernels that serve a call."""


@functools.cache
def kernel(name: str) -> Kernel:
    """One of them, compiled."""
    return Kernel(results([Request(name, 90)])[name]["ttgir"], arguments(name))


def arguments(name: str) -> list[str]:
    """What a kernel calls its arguments, those of compile time left out."""
    items = [item.split(":") for item in compiled.KERNELS[name][0].format(dtype="fp32").split()]
    return [argument for argument, kind in items if kind != "constexpr"]


def hazards(name: str, without: object = None) -> Hazards:
    """Those of a kernel."""
    return Hazards(kernel(name), SAME, False, without)


def described(first: Access, second: Access) -> tuple[str, str, str]:
    """A hazard as `HARMLESS` has it."""
    return first.argument, first.functions[0], second.functions[0]


@pytest.mark.parametrize("name", SOME)
def test_what_a_program_writes_and_reads_has_a_barrier_in_between(name: str) -> None:
    """Catches a missing `tl.debug_barrier`: a warp that reads what another has not yet written, or no longer has."""
    found = {described(*pair): f"{pair[0]}, then {pair[1]}" for pair in hazards(name).found}
    harmless = HARMLESS.get(name, {})
    assert {what: text for what, text in found.items() if what not in harmless} == {}
    assert set(found) == set(harmless), "something listed as harmless does not occur"


@pytest.mark.parametrize("name", SOME)
def test_without_any_of_the_barriers_there_is_a_hazard(name: str) -> None:
    """Catches a search that sees nothing: each barrier in turn is taken for none."""
    barriers = kernel(name).barriers()
    for barrier in barriers:
        pairs = {described(*pair) for pair in hazards(name, barrier).found}
        assert pairs - set(HARMLESS.get(name, {})), barrier
    expected = dict(zip(PASSES, (0, 4, 1, 6), strict=True))
    assert len(barriers) == expected[name]


@pytest.mark.parametrize("name", ["sampling.sum_weights.sum_weights"])
def test_the_last_program_to_arrive_knows_what_the_others_did(name: str) -> None:
    """Catches an arrival that releases or acquires nothing, or comes before another warp's share: the row's judge would
    add up too little.
    """
    atomics = [access for access in kernel(name).accesses() if access.kind == "atomic"]
    ordering = [access for access in atomics if "relaxed" not in access.text]
    assert len(ordering) == 1, [access.text for access in ordering]
    assert re.search(r"\bacq_rel, gpu\b", ordering[0].text)
    assert (ordering[0].argument, ordering[0].functions[0]) == ("sums", "measure")
    assert [str(write) for write in hazards(name).unreleased] == []


@pytest.mark.parametrize("name", SOME)
def test_what_other_programs_write_is_read_past_the_first_cache(name: str) -> None:
    """Catches a sum, or a list, read without `.cg`: a multiprocessor's first cache does not see what others add."""
    shared = {"sums", "list_token"} if name == "sampling.sum_weights.sum_weights" else {"sums"}
    loads = [a for a in kernel(name).accesses() if a.kind == "load" and a.argument in shared]
    assert [str(load) for load in loads if not re.search(r"\b(cache_modifier|cacheModifier) = cg\b", load.text)] == []
    assert {load.argument for load in loads} == (set() if name == "sampling.summarize.summarize" else shared)
