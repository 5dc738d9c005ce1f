"""Launches that leave out Triton's preparations: they start what Triton would have started, with the same arguments.

Compiler, launcher and GPUs are those of `fake_framework.py`, in processes of their own; Triton's binding of arguments
and its choice of a compiled kernel are real.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from own_process import run
from paths import ROOT

import detsample

pytest.importorskip("triton", reason="Triton is not installed: there is nothing to launch")
pytestmark = pytest.mark.triton_contract

START = "from fake_launches import *\n"


def check(tmp_path: Path, body: str) -> None:
    """Run code behind `START`."""
    run(tmp_path, START + body, interpret=False, block=("torch", "paddle"))


def test_what_is_launched_is_what_triton_would_launch(tmp_path: Path) -> None:
    """Catches element types, alignments, wide integers, devices, options or arguments taken for each other."""
    body = """
for number in random.Random(1).choices(range(150), k=400):
    given = case(number)
    expected = ordinarily(given)
    assert len(expected) >= 3, expected
    compiled = len(COMPILED)
    assert launches(given) == expected, number
    assert launches(given) == expected, number
    assert len(COMPILED) == compiled, "something was compiled that Triton had"
assert len({(function[0], grid) for grid, _, function, *_ in expected}) > 1
with Counting() as prepared:
    for number in range(150):
        launches(case(number)), launches(case(number))
    first = prepared.count
    for number in range(150):
        launches(case(number))
assert prepared.count == first, "launches seen before were prepared again"
"""
    check(tmp_path, body)


def test_a_plan_launches_what_sample_launches(tmp_path: Path) -> None:
    """Catches a plan that passes the logits it was made with, their alignment, or results of an earlier call."""
    body = """
for number in range(150):
    given = case(number)
    logits = given["logits"]
    draw = detsample.plan(**given)
    for address in (logits.address, 2**46, 2**46 + 8):
        other = Tensor(address, logits.shape, logits.strides, logits.dtype, logits.index)
        expected = launches({**given, "logits": other})
        HERE.address, HERE.launched = 1 << 40, []
        draw(other)
        assert HERE.launched == expected, (number, address)
"""
    check(tmp_path, body)


def test_the_direct_way_is_taken_at_all(tmp_path: Path) -> None:
    """Catches a cache that never hits: everything would be right, and slow."""
    body = """
given = case(3)
launches(given)
with Counting() as prepared:
    assert len(launches(given)) >= 3
assert prepared.count == 0
"""
    check(tmp_path, body)


def test_another_driver_is_asked_for_its_stream(tmp_path: Path) -> None:
    """Catches a driver, or a stream, that was remembered from an earlier call."""
    body = """
given = case(5)
index = given["logits"].index
with Counting() as prepared:
    first = launches(given)
kinds = prepared.count
assert kinds > 3
assert {stream for _, stream, *_ in first} == {1000 + index}
driver.active.streams = 2000
assert {stream for _, stream, *_ in launches(given)} == {2000 + index}
driver.set_active(Driver(7000))
with Counting() as prepared:
    assert {stream for _, stream, *_ in launches(given)} == {7000 + index}
    assert prepared.count == kinds, "another driver may load and launch in its own way"
    launches(given)
    assert prepared.count == kinds
"""
    check(tmp_path, body)


HOOKED = """
knobs = getattr(triton, "knobs", None)
seen = []


def hook(metadata):
    seen.append(metadata.get()["name"])


owner = knobs.runtime if knobs else launch.CompiledKernel
if knobs and hasattr(owner.launch_enter_hook, "add"):
    add, remove = owner.launch_enter_hook.add, owner.launch_enter_hook.remove
else:
    add, remove = lambda h: setattr(owner, "launch_enter_hook", h), lambda h: setattr(owner, "launch_enter_hook", None)
"""


def test_launch_hooks_are_called(tmp_path: Path) -> None:
    """Catches a profiler that is set up after the first call and sees nothing."""
    body = """
given = case(7)
expected = launches(given)
launches(given)
add(hook)
assert launches(given) == expected
assert seen == [function[0] for _, _, function, *_ in expected], seen
remove(hook)
with Counting() as prepared:
    assert launches(given) == expected
assert prepared.count == 0 and len(seen) == len(expected)
"""
    check(tmp_path, HOOKED + body)


def test_a_kernels_own_hook_is_called(tmp_path: Path) -> None:
    """Catches `add_pre_run_hook` on a kernel being passed over once the kernel is known."""
    body = """
given = case(7)
expected, seen = launches(given), []
summarize_module.summarize.add_pre_run_hook(lambda *arguments, **options: seen.append(options["num_warps"]))
for times in (1, 2):
    assert launches(given) == expected
    assert len(seen) == times
summarize_module.summarize.pre_run_hooks.clear()
with Counting() as prepared:
    assert launches(given) == expected
assert prepared.count == 0
"""
    check(tmp_path, body)


def test_debugging_and_instrumentation_go_triton_s_way(tmp_path: Path) -> None:
    """Catches a kernel without its debugging code started where Triton would compile one with it."""
    body = """
import os
given = case(7)
count = len(launches(given))
knobs = getattr(triton, "knobs", None)
if knobs:
    owner, name, value = knobs.runtime, "debug", True
    setattr(owner, name, value)
else:
    os.environ["TRITON_DEBUG"] = "1"
compiled = len(COMPILED)
with Counting() as prepared:
    launches(given)
assert prepared.count == count and len(COMPILED) > compiled
"""
    check(tmp_path, body)


@pytest.mark.full("more of what Triton may lack", every=2)
@pytest.mark.parametrize("break_it", ["launch.VERSION = (3, 10)", "launch.CompiledKernel = type('Other', (), {})"])
def test_an_unknown_triton_launches_as_it_does(tmp_path: Path, break_it: str) -> None:
    """Catches a newer Triton being started in the way of an older one."""
    body = f"""
{break_it}
given = case(7)
expected = launches(given)
with Counting() as prepared:
    assert launches(given) == expected
assert prepared.count == len(expected)
"""
    check(tmp_path, body)


def test_a_triton_without_its_knobs_launches_as_it_does(tmp_path: Path) -> None:
    """Catches an attribute that is gone ending a call."""
    body = """
launch.CompiledKernel = type("Other", (), {})
if hasattr(triton, "knobs"):
    triton.knobs = type("Knobs", (), {"runtime": None})()
assert not launch._launches_alone()
"""
    check(tmp_path, body)


def test_kernels_that_look_at_integers_are_not_kept(tmp_path: Path) -> None:
    """Catches a kernel compiled for n = 1, or for a multiple of 16, started for another n."""
    body = """
import triton.language as tl
from detsample.frameworks.pointer import pointer


@triton.jit
def looks(x, n):
    tl.store(x, n)


@triton.jit(do_not_specialize=["n"])
def does_not(x, n):
    tl.store(x, n)


for kernel, prepared_each_time in ((looks, True), (does_not, False)):
    go = launch.launcher(("gpu", 0))
    with Counting() as prepared:
        for n in (1, 16, 17, 1, 16, 17, 2**31, 2**31):
            go(kernel, (1,), pointer(4096, "int64"), n)
    assert (prepared.count == 8) == prepared_each_time, (kernel, prepared.count)
go(does_not, (1,), fake.Buffer(4096, "int64", None), 5)
assert [call[4] for call in HERE.launched[-2:]] == [(4096, 2**31), (4096, 5)]
"""
    run(tmp_path, START + body.replace("2**31, 2**31)", "17, 17)").replace("2**31), (4096", "17), (4096"),
        interpret=False, block=("torch", "paddle"))  # fmt: skip


def test_a_compilation_taken_away_is_not_kept(tmp_path: Path) -> None:
    """Catches the None that Triton returns, where a hook keeps it from compiling, being started later."""
    body = """
from detsample.sampler import warmup as warming
given = case(7)
with warming._hook(lambda **seen: True):
    assert launches(given) == []
assert len(launches(given)) >= 3
"""
    check(tmp_path, body)


def test_threads_on_two_gpus_stay_apart(tmp_path: Path) -> None:
    """Catches state of one call that another thread's call finds."""
    body = """
cases = [case(number) for number in range(40)]
expected = [ordinarily(given) for given in cases]
wrong = []


def work(seed):
    rng = random.Random(seed)
    for _ in range(60):
        number = rng.randrange(len(cases))
        if launches(cases[number]) != expected[number]:
            wrong.append(number)


threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong, wrong
"""
    check(tmp_path, body)


def test_triton_s_launcher_gets_the_arguments_that_it_would_give_itself(tmp_path: Path) -> None:
    """Catches an argument of the launcher in C that is missing, or in another place, in the version installed."""
    body = """
from types import SimpleNamespace
from triton.backends.nvidia.driver import CudaLauncher
from detsample.launching.launchers import start_of

calls = []
run = CudaLauncher.__new__(CudaLauncher)
vars(run).update(
    launch=lambda *arguments: calls.append(arguments), global_scratch_size=0, global_scratch_align=1,
    profile_scratch_size=0, profile_scratch_align=1, launch_cooperative_grid="cooperative", launch_pdl="pdl",
    num_ctas=1, gsan_enabled=False, arg_annotations="annotations", kernel_signature="signature",
)
compiled = SimpleNamespace(run=run, function="function", packed_metadata="metadata")
run(2, 3, 4, "stream", "function", "metadata", None, None, None, 5, 6, True)
start = start_of(compiled)
arguments = (5, 6, True)
start.call(2, 3, 4, "stream", *start.head, *([arguments] if start.packs else arguments))
assert calls[0] == calls[1], calls
early = start_of(compiled, overlaps=True)
changed = [after for before, after in zip(start.head, early.head) if before != after]
assert changed == ([True] if "pdl" in start.head else []), early
assert start.call is run.launch or triton.__version__[:3] not in ("3.3", "3.6", "3.9")
run.global_scratch_size = 8
assert start_of(compiled).call is run, "whoever wants memory of the launcher goes through it"
"""
    check(tmp_path, body)


def test_every_launch_goes_this_way() -> None:
    """Catches `kernel[grid](...)`: it would take a `Pointer` for an integer, and only on a GPU would anybody notice."""
    apart = {"kernels", "bench"}
    for file in sorted((ROOT / "detsample").rglob("*.py")):
        if apart & set(file.parts) or file.name == "launch.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript):
                told = ast.unparse(node)
                assert "num_warps" not in told, f"{file}:{node.lineno}: {told}"


# ---- what every launch says


def entries() -> set[str]:
    """The kernels that are launched, by their modules and names: two modules have a `finish`."""
    import compiled
    import compiled_speculative

    names = (*compiled.KERNELS, *compiled_speculative.KERNELS)
    return {".".join(("detsample.kernels", *compiled.place(name))) for name in names}


def launched(tree: ast.Module) -> list[tuple[str, ast.Call]]:
    """The kernels that a file hands to anything as the first argument, and these calls."""
    kernels = entries()
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("detsample.kernels")
        for alias in node.names
    }

    def kernel(value: ast.expr) -> str | None:
        if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name) and value.value.id in imported:
            name: str | None = f"{imported[value.value.id]}.{value.attr}"
        else:
            name = imported.get(value.id) if isinstance(value, ast.Name) else None
        return name if name in kernels else None

    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    return [(name, call) for call in calls if (name := kernel(call.args[0])) is not None]


def forbids_fusion(said: ast.expr, tree: ast.Module, above: tuple[str, ...] = ()) -> bool:
    """Whether a launch, its options or what makes launches says `enable_fp_fusion=False`, whatever it may stand for."""
    if isinstance(said, ast.Call):
        given = [keyword.value for keyword in said.keywords if keyword.arg == "enable_fp_fusion"]
        if given:
            return all(isinstance(value, ast.Constant) and value.value is False for value in given)
        sources = [keyword.value for keyword in said.keywords if keyword.arg is None]
        return any(forbids_fusion(source, tree, above) for source in (*sources, *said.args[:1], said.func))
    if isinstance(said, ast.Dict):
        for key, value in reversed(list(zip(said.keys, said.values, strict=True))):  # the last one counts
            if key is None:  # `**value`
                return forbids_fusion(value, tree, above)
            if isinstance(key, ast.Constant) and key.value == "enable_fp_fusion":
                return isinstance(value, ast.Constant) and value.value is False
        return False
    if isinstance(said, ast.IfExp):
        return forbids_fusion(said.body, tree, above) and forbids_fusion(said.orelse, tree, above)
    if isinstance(said, ast.Name) and said.id not in above:
        assigned = [
            node.value for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [said.id]
        ]  # fmt: skip
        return bool(assigned) and all(forbids_fusion(value, tree, (*above, said.id)) for value in assigned)
    return False


def test_every_launch_says_that_nothing_may_be_fused() -> None:
    """Catches a launch with `enable_fp_fusion` left out, which is on then, or set: no interpreter would notice."""
    seen: set[str] = set()
    for file in sorted((ROOT / "detsample").rglob("*.py")):
        if {"kernels", "bench"} & set(file.parts):
            continue
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"enable_fp_fusion(?!=False|\": False)", text), file
        tree = ast.parse(text)
        for kernel, call in launched(tree):
            assert forbids_fusion(call, tree), f"{file}:{call.lineno}: {ast.unparse(call)}"
            seen.add(kernel)
    assert seen == entries(), "a kernel whose launch was not found"


@pytest.mark.parametrize(
    "text",
    [
        "launch(summarize, (1,), x, num_warps=4)", "launch(summarize, (1,), x, enable_fp_fusion=True)",
        "launch(summarize, (1,), enable_fp_fusion=off)", "PLAIN = {'num_warps': 4}\nlaunch(summarize, (1,), **PLAIN)",
        "PLAIN = {'enable_fp_fusion': True}\nlaunch(summarize, (1,), **PLAIN)", "launch(summarize, (1,), **elsewhere)",
        "PLAIN = {'enable_fp_fusion': False, **elsewhere}\nlaunch(summarize, (1,), **PLAIN)",
        "step = partial(Step, enable_fp_fusion=False)\nlater = partial(step) if x else Step\nlater(summarize, num_warps=4)",  # noqa: E501
    ],
)  # fmt: skip
def test_a_launch_that_may_fuse_is_told(text: str) -> None:
    """Catches the test above seeing no launch, or taking whatever it does not know for right."""
    tree = ast.parse("from detsample.kernels.sampling.summarize import summarize\n" + text)
    assert [forbids_fusion(call, tree) for _, call in launched(tree)] == [False]


def test_every_kernel_can_be_kept() -> None:
    """Catches an integer that a kernel specialises on: each value would be prepared by Triton, or compiled."""
    from compiled import KERNELS, place

    from detsample.kernels.sampling.rows import PARAMETER_NAMES

    for name, (signature, _) in KERNELS.items():
        module, function = place(name)
        file = ROOT / "detsample" / "kernels" / f"{module.replace('.', '/')}.py"
        tree = ast.parse(file.read_text(encoding="utf-8"))
        node = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == function)
        integers = [item.split(":")[0] for item in signature.format(dtype="fp32").split() if item.endswith(":i32")]
        constants = [a.arg for a in node.args.args if a.annotation]
        assert constants == [a.arg for a in node.args.args][len(node.args.args) - len(constants) :], name
        told = ast.unparse(node.decorator_list[0])
        listed = told if "NOT_SPECIALIZED" not in told else ast.unparse(tree)
        listed += repr(PARAMETER_NAMES) if "*PARAMETER_NAMES" in listed else ""
        missing = [i for i in integers if f"'{i}'" not in listed]
        assert not missing, f"{name}: {missing}"


@pytest.mark.full("launches of 300 calls after a warmup")
def test_after_a_warmup_nothing_is_compiled(tmp_path: Path) -> None:
    """Catches a kernel, an alignment, a mask or a type that `warmup` leaves to the first request."""
    body = """
from detsample import frameworks
from detsample.sampler import warmup as warming
frameworks.named = lambda name: FRAMEWORK
types = {"topp_seed": "int32"}
for index in (0, 1):
    launched = HERE.launched = []
    plain = detsample.warmup("fake", index, parameters=types, processes=0)
    more = detsample.warmup("fake", index, parameters=types, allowed=True, processes=0)
    assert 0 < more < plain and plain + more == len(COMPILED) // (1 + index)
    assert detsample.warmup("fake", index, parameters=types, allowed=True, processes=0) == 0
warm = len(COMPILED)
kinds = [kind for index, *kind in COMPILED if index == 0]
count = {name: sum(kind[0] == name for kind in kinds) for name in {kind[0] for kind in kinds}}
assert count["summarize"] == 2 * 2 * 3 and count["settle"] == 2 * 3, f"types, sets, aligned or not: {count}"
for number in range(300):
    given = case(number)
    logits = given["logits"]
    logits.strides = (min(logits.strides[0], 2**31 - 1), 1)  # a step beyond 32 bits is another type
    for name, value in given.items():
        if isinstance(value, Tensor) and name != "logits":
            value.dtype = {"topp_seed": "int32"}.get(name, VECTORS[name][0])
            value.strides = (min(value.strides[0], 2**31 - 1),)
    seed = given["topp_seed"]
    if not isinstance(seed, Tensor):
        given["topp_seed"] = Tensor(2**44, (), (), "int32", logits.index)
    if number % 2:
        rows, words = logits.shape[0], -(-logits.shape[1] // 32)
        given["allowed"] = Tensor(2**43 + number * 4, (rows, words), (words + number, 1), "int32", logits.index)
    assert len(launches(given)) >= 3
    assert len(COMPILED) == warm, (number, COMPILED[-1])
"""
    check(tmp_path, body)


def test_a_warmup_takes_nothing_away_from_other_threads(tmp_path: Path) -> None:
    """Catches launches of another thread that are swallowed while a warmup looks for what to compile."""
    body = """
from detsample.sampler import warmup as warming
given, found = case(7), []


def meanwhile():
    thread = threading.Thread(target=lambda: found.extend(launches(given)))
    thread.start()
    thread.join()


assert warming.compilations([meanwhile]) == []
assert len(found) >= 3
jobs = warming.compilations([lambda: launches(case(8))])
assert jobs and {job["target"][1] for job in jobs} == {90}
skipped = len(HERE.launched)
assert skipped < len(launches(case(8)))
"""
    check(tmp_path, body)


@pytest.mark.full("processes that compile")
def test_workers_compile_what_this_process_then_finds(tmp_path: Path) -> None:
    """Catches a worker that compiles with other options, which would fill the cache in vain."""
    body = f"""
import os
from pathlib import Path
cache = Path({str(tmp_path / "cache")!r})
os.environ["TRITON_CACHE_DIR"] = str(cache)
from detsample.sampler import warmup as warming
from triton.compiler.compiler import compile as really_compile

seeds = Tensor(2**44, (3,), (1,), "int64", 0)
call = lambda: detsample.fold_in(seeds, 2)
jobs = warming.compilations([call])
assert [job["name"] for job in jobs] == ["folded_seeds"]
warming.compile_jobs(jobs, 1)
before = sorted(cache.rglob("*.cubin"))
assert len(before) == 1, before
fake.compiler.compile = lambda *arguments, **options: really_compile(*arguments, **options)
from detsample.kernels.noise import folded_seeds
folded_seeds.device_caches.clear()
from detsample.launching.launch import Buffer
folded_seeds.warmup(
    3, 16, Buffer(2**44, "int64", None), 1, 0, 0, Buffer(2**43, "int64", None), 0, 2, 0, Buffer(2**42, "int64", None),
    grid=(1,), num_warps=4, enable_fp_fusion=False,
)
assert sorted(cache.rglob("*.cubin")) == before
"""
    check(tmp_path, body)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "framework must be 'torch' or 'paddle', got 'numpy'"),
        ({"framework": "jax"}, "framework must be one of numpy, torch, paddle, got 'jax'"),
        ({"dtypes": ["float64"]}, "dtypes must be of float32, bfloat16, float16, got 'float64'"),
        ({"masks": ["dense"]}, "masks must be of bool, bits, csr, got 'dense'"),
        ({"parameters": {"top_a": "int32"}}, "parameters must be of topp_seed"),
        ({"parameters": {"top_k": "float32"}}, "must be of int64, int32, got 'float32'"),
    ],
)
def test_a_warmup_says_what_is_wrong(arguments: dict[str, Any], message: str) -> None:
    """Catches a misspelt argument, or a machine without a GPU, that goes unnoticed until the first request."""
    with pytest.raises(ValueError, match=re.escape(message)):
        detsample.warmup(**{"framework": "numpy", **arguments})
