"""What `warmup` must not do while it finds out what is to be compiled: launch, wait, or take launches from others.

Compiler and GPUs are those of `fake_framework.py`, in processes of their own, as in test_launch.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from own_process import run

pytest.importorskip("triton", reason="Triton is not installed: there is nothing to compile")
pytestmark = pytest.mark.triton_contract

START = "from fake_warmup import *\n"


def check(tmp_path: Path, body: str) -> None:
    """Run code behind `START`."""
    run(tmp_path, START + body, interpret=False, block=("torch", "paddle"))


def test_nothing_is_launched_while_jobs_are_found(tmp_path: Path) -> None:
    """Catches kernels that are compiled already being started without the one before them, which is not: they would
    take what memory holds for numbers of rows and places in lists.
    """
    body = """
logits = Tensor(1 << 45, (4, 32000), (32000, 1), "float32", 0)
detsample.sample(logits, Tensor(1 << 44, (4,), (1,), "int32", 0), top_p=0.9)
assert HERE.launched
HERE.launched.clear()
jobs = warming.compilations(calls([], {}))
assert {"summarize", "sum_weights"} <= set(names(jobs)) and "settle" not in names(jobs), names(jobs)
assert HERE.launched == [], HERE.launched
detsample.warmup("fake", processes=0, masks=[], parameters={"top_k": "int32"})
first = len(HERE.launched)
assert [launched[2][0] for launched in HERE.launched[:2]] == ["summarize", "settle"], HERE.launched[:2]
HERE.launched.clear()
detsample.warmup("fake", processes=0, masks=[], parameters={"top_k": "int64"})
kernels = [launched[2][0] for launched in HERE.launched]
assert kernels.count("summarize") == kernels.count("settle"), kernels
"""
    check(tmp_path, body)


@pytest.mark.full("more stale values", every=3)
@pytest.mark.parametrize("stale", [-7, 0, 2**31 - 1])
def test_nothing_is_read_while_jobs_are_found(tmp_path: Path, stale: int) -> None:
    """Catches memory sized by counts that no kernel has written: an error, gigabytes, or kernels that are not found."""
    body = f"""
read = []


def fetch(x):
    read.append(x)
    return np.full(x.shape, {stale}, np.int32)


FRAMEWORK.fetch = fetch
jobs = warming.compilations(calls(["csr"], {{"top_k": "int32"}}))
assert read == []
assert {{"csr_offsets", "csr_counts", "csr_tokens", "csr_tail"}} <= set(names(jobs)), names(jobs)
"""
    check(tmp_path, body)


def test_two_warmups_at_once_leave_no_hook_behind(tmp_path: Path) -> None:
    """Catches a hook of Triton's put back in the wrong order: first launches of a thread would silently not happen."""
    body = """
import triton
from triton.runtime.jit import JITFunction
before = lambda: (triton.knobs.runtime.jit_cache_hook if hasattr(triton, "knobs") else JITFunction.cache_hook)
hook = before()
logits = Tensor(1 << 45, (4, 32000), (32000, 1), "float32", 0)
inside, found = threading.Event(), []


def slow():
    inside.set()
    threading.Event().wait(0.5)
    detsample.sample(logits, 1, shared_noise=True)


def first():
    HERE.launched = []
    found.append(len(warming.compilations([slow])))
    second.join()
    assert HERE.launched == []
    detsample.sample(logits, 1, shared_noise=True)
    found.append(len(HERE.launched))


def other():
    inside.wait()
    found.append(len(warming.compilations([lambda: threading.Event().wait(1)])))


threads = [threading.Thread(target=first), second := threading.Thread(target=other)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert before() is hook
assert len(found) == 3 and found[0] >= 3 and found[2] >= 3, found
"""
    check(tmp_path, body)


def test_only_this_thread_launches_nothing(tmp_path: Path) -> None:
    """Catches another thread's launches, of kernels that are loaded, being left out during a warmup."""
    body = """
logits = Tensor(1 << 45, (4, 32000), (32000, 1), "float32", 0)
detsample.sample(logits, 1, shared_noise=True)
alone, found = len(HERE.launched), []
HERE.launched.clear()


def other():
    HERE.launched = []
    detsample.sample(logits, 1, shared_noise=True)
    found.append(len(HERE.launched))


def meanwhile():
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()


assert warming.compilations([meanwhile, lambda: detsample.sample(logits, 1, shared_noise=True)]) == []
assert (found, HERE.launched) == ([alone], []), (found, HERE.launched)
"""
    check(tmp_path, body)


def test_workers_do_not_import_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a `json.py` in the folder that somebody happens to be in, run by each process that compiles (CWE-427)."""
    from detsample.sampler import warmup as warming

    (tmp_path / "json.py").write_text("open('was_run', 'w').close()\nfrom nowhere import loads\n")
    monkeypatch.chdir(tmp_path)
    with warming._worker() as ask:
        assert ask('{"module": "nowhere", "name": "none", "target": ["cuda", 90, 32]}')
    assert not (tmp_path / "was_run").exists()
