"""No result depends on the floating-point mode, NumPy's instructions or BLAS's variables; no call leaves a trace."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detsample.reference import float_mode

import detsample
from detsample import golden, reference, rollout

LIBM = ctypes.PyDLL(None)
TINY = np.float32(1e-40)
ROUNDINGS = {"down": 0x400, "up": 0x800, "towards zero": 0xC00}
MXCSR = {"flush to zero": 0x8000, "subnormals are zero": 0x40, "both": 0x8040}


def _restoring(change: Callable[[], object]) -> Any:
    """Inside, what `change` does to this thread's floating-point environment."""

    @contextmanager
    def changed() -> Iterator[None]:
        before = (ctypes.c_char * 64)()
        LIBM.fegetenv(before)
        try:
            change()
            yield
        finally:
            LIBM.fesetenv(before)

    return changed()


def _mxcsr(bits: int) -> None:
    """Set bits of the register through the environment that the C library stores: its last word is the register."""
    environment = (ctypes.c_uint32 * 8)()
    LIBM.fegetenv(environment)
    environment[7] |= bits
    LIBM.fesetenv(environment)


def _modes() -> list[Any]:
    if os.uname().machine != "x86_64":
        return [pytest.param(None, marks=pytest.mark.skip(reason="the register of another processor"))]
    found = [pytest.param(lambda x=x: LIBM.fesetround(x), id=f"rounds {name}") for name, x in ROUNDINGS.items()]
    return found + [pytest.param(lambda x=x: _mxcsr(x), id=name) for name, x in MXCSR.items()]


def _rows() -> np.ndarray:
    """Ordinary rows, rows that are subnormal throughout, and some between."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((24, 300)).astype(np.float32)
    x[8:16] *= TINY
    x[16:] *= np.float32(1e-37)
    return x


X = _rows()
HEAT = np.tile(np.float32([0, 1e-40, 0.7]), 8)


def _everything() -> list[np.ndarray]:
    """Each public way to results on the CPU, of inputs that a mode may change, made in the usual one."""
    x, heat, seeds = X, HEAT, np.arange(24)
    how: dict[str, Any] = {"position": 3, "top_p": 0.93, "min_p": 1e-42}
    out = detsample.sample(x, seeds, temperature=heat, **how, return_log_z=True, return_mask="bits")
    one = detsample.sample(x, seeds, temperature=1e-40, **how)
    planned = detsample.plan(x, seeds, temperature=1e-40, **how)(x)
    raw = reference.sample(x, seeds, temperature=0.1, **how)
    kept = detsample.mask(x, temperature=1e-40, top_p=0.93, kind="bits")
    margin = detsample.margin(x, seeds, temperature=heat, **how)
    drawn = rollout.draw(x, seeds, temperature=0.1, top_n=3, **how)
    record = rollout.Record.of(drawn, 0)
    rows = golden.record(x, seeds, temperature=1e-40, **how).rows
    noise = np.asarray(detsample.gumbel_noise(7, 2, [0, 1, 99]))
    tokens, drafts = np.zeros((1, 2), np.int64), np.int64([2])
    verified = detsample.speculative.verify(x[None, :3], tokens, drafts, 7, position=np.int64([4]), temperature=1e-40)
    found = [out.token_ids, out.logprobs, out.log_z, out.mask, one.token_ids, one.logprobs, planned.logprobs,
             raw.token_ids, raw.logprobs, kept.mask, margin.margin, drawn.entropy, drawn.top_logprobs,
             record.temperature, record.min_p, noise, verified.token_ids, verified.logprobs]  # fmt: skip
    return [*found, np.array([(row.temperature, row.logprob, row.margin) for row in rows])]


@pytest.fixture(scope="module")
def usual() -> list[bytes]:
    return [array.tobytes() for array in _everything()]


@pytest.mark.parametrize("change", _modes())
def test_no_result_depends_on_the_mode(change: Callable[[], object], usual: list[bytes]) -> None:
    """Would catch subnormal temperatures, gaps and logits flushed to zero, or steps rounded elsewhere, on any way."""
    with _restoring(change):
        found = [array.tobytes() for array in _everything()]
        still = not float_mode.is_usual()
    assert [a == b for a, b in zip(found, usual, strict=True)] == [True] * len(usual)
    assert still, "the call changed the caller's mode"


@pytest.mark.parametrize("change", _modes())
def test_the_mode_is_the_threads_own_again_after_an_error(change: Callable[[], object]) -> None:
    """Would catch a mode that is put back only by calls that return."""
    with _restoring(change):
        with pytest.raises(ValueError, match="temperature"):
            reference.sample(X, np.arange(24), temperature=-1.0)
        assert not float_mode.is_usual()


def test_torchs_switch() -> None:
    """Would catch the switch that most meet: 62 of 64 tokens were others at a temperature of 1e-40."""
    torch = pytest.importorskip("torch")
    x, seeds = torch.from_numpy(X), torch.arange(24)
    before = detsample.sample(x, seeds, temperature=1e-40).token_ids
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush")
    try:
        after = detsample.sample(x, seeds, temperature=1e-40).token_ids
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(before, after)


def test_a_mode_that_cannot_be_changed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a platform without C's functions on which other bits come, and nobody is told."""
    monkeypatch.setattr(float_mode, "is_usual", lambda: False)
    with pytest.raises(FloatingPointError, match="subnormal"):
        reference.sample(np.zeros((1, 4), np.float32), 7)


def test_a_thread_has_its_own_mode(usual: list[bytes]) -> None:
    """Would catch a check made once a process."""
    found: list[list[bytes]] = []

    def flushing() -> None:
        _mxcsr(0x8040)
        found.append([array.tobytes() for array in _everything()])

    if os.uname().machine != "x86_64":
        pytest.skip("the register of another processor")
    thread = threading.Thread(target=flushing)
    thread.start()
    thread.join()
    assert found == [usual], "other bits"
    assert float_mode.is_usual()


DIGEST = """
import hashlib, sys
import numpy as np
sys.path.insert(0, {here!r})
import test_float_modes
print(hashlib.sha256(b"".join(x.tobytes() for x in test_float_modes._everything())).hexdigest())
"""


def _digest(**environment: str) -> str:
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here.parents[1]), *filter(None, sys.path)])
    told = subprocess.run(
        [sys.executable, "-c", DIGEST.format(here=str(here))], env={**os.environ, **environment, "PYTHONPATH": paths},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    return told.stdout.strip()


def _features() -> list[str]:
    """The instructions that NumPy would use here beyond its baseline, best first."""
    try:
        from numpy._core import _multiarray_umath as inside
    except ImportError:
        from numpy.core import _multiarray_umath as inside  # type: ignore[no-redef]  # NumPy 1
    has = inside.__cpu_features__
    return [name for name in reversed(inside.__cpu_dispatch__) if has.get(name)]


@pytest.mark.full("more processes")
def test_numpys_instructions_and_blas_change_nothing() -> None:
    """Would catch a step whose bits depend on NumPy's vector width, or a sum that a BLAS library does."""
    usual = _digest()
    features = _features()
    for off in {len(features), (len(features) + 1) // 2}:
        if off:
            assert _digest(NPY_DISABLE_CPU_FEATURES=" ".join(features[:off])) == usual
    for name, value in (("OPENBLAS_CORETYPE", "Prescott"), ("OPENBLAS_NUM_THREADS", "1")):
        assert _digest(**{name: value}) == usual


def test_an_interrupt_leaves_numpys_error_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch an interrupt between the entry of `numpy.errstate` and its block, which then nobody leaves."""
    real = np.errstate.__enter__

    def interrupted(self: Any) -> None:
        real(self)
        raise KeyboardInterrupt

    class Interrupted(np.errstate):
        __enter__ = interrupted

    before = np.geterr()
    with np.errstate(all="warn"):
        asked = np.geterr()
        monkeypatch.setattr(np, "errstate", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            detsample.sample(np.zeros((2, 5), np.float32), np.arange(2), temperature=np.float32([1, 2]))
        monkeypatch.undo()
        assert np.geterr() == asked
    assert np.geterr() == before
