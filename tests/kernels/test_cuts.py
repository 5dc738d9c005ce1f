"""How rows are cut into parts, segments and groups, and how much memory that takes; no kernel runs."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="Triton is not installed: there are no kernels to cut rows for")

from detsample.kernels.sampling.tiles import LANES, MOST_GROUPS, MOST_SEGMENTS, TILE
from detsample.sampler import on_gpu as engine

H100 = 132  # multiprocessors


@pytest.mark.parametrize("multiprocessors", [1, 20, 108, H100])
@pytest.mark.parametrize("vocab", [1, 31, 1025, 49_152, 129_280, 151_936, 2**21])
@pytest.mark.parametrize("rows", [1, 7, 64, 128, 256, 4096])
def test_cuts_cover_the_row(rows: int, vocab: int, multiprocessors: int) -> None:
    """Catches tokens that no part reads, and more groups or parts than the kernels load at a time."""
    programs = engine.PROGRAMS_PER_MULTIPROCESSOR * multiprocessors
    cut, _ = engine.cut_rows(rows, vocab, programs, engine.DEFAULT_TUNING, False)
    assert cut.segments * cut.segment_tiles * int(TILE.value) >= vocab
    assert (cut.segments - 1) * cut.segment_tiles * int(TILE.value) < vocab, "a segment without a token"
    assert cut.parts * cut.segments_of_part >= cut.segments > (cut.parts - 1) * cut.segments_of_part
    assert cut.parts <= int(MOST_SEGMENTS.value)
    assert cut.groups * cut.quads == cut.segments * int(LANES.value)
    assert cut.groups <= int(MOST_GROUPS.value)
    assert cut.stretch_tiles == cut.segment_tiles * cut.segments_of_stretch
    assert cut.parts * cut.stretches_of_part >= cut.stretches > (cut.parts - 1) * cut.stretches_of_part
    assert cut.stretches_of_part * cut.segments_of_stretch == cut.segments_of_part
    assert cut.stretches * cut.segments_of_stretch >= cut.segments


@pytest.mark.parametrize("rows", [1, 8, 64, 128, 256, 512, 1024, 4096])
def test_memory_stays_within_its_bound(rows: int) -> None:
    """Catches working memory beyond 2% of fp32 logits and 1 MiB, for the vocabularies and the GPU of the benchmark."""
    vocab = 129_280 if rows == 256 else 151_936
    _, laid = engine.cut_rows(rows, vocab, engine.PROGRAMS_PER_MULTIPROCESSOR * H100, engine.DEFAULT_TUNING, False)
    assert laid.total <= 0.02 * 4 * rows * vocab + 2**20
