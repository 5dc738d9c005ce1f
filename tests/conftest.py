"""How the suite runs: kernels on a GPU where there is one, otherwise in Triton's interpreter."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import kernel_path
import levels
import pytest
from command import Run, runner

if kernel_path.GPU is None:
    # Triton reads it where a kernel is defined. Nothing here has imported triton yet; subprocesses that compile
    # kernels take it out of their environment.
    os.environ["TRITON_INTERPRET"] = "1"

def pytest_configure(config: pytest.Config) -> None:
    """Overflow and NaN are what many cases are about; NumPy warns of them inside Triton's interpreter."""
    message = "(overflow|invalid value|divide by zero) encountered"
    config.addinivalue_line("filterwarnings", f"ignore:{message}:RuntimeWarning")


def pytest_report_header() -> str:
    """Say what the kernels run on: a green run without a GPU says less."""
    where = f"{kernel_path.GPU} tensors on a GPU" if kernel_path.GPU else "Triton's interpreter (no GPU)"
    return f"detsample: kernels run on {where}; {levels.LEVEL} level"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the short level leaves out; skip what needs a GPU where there is none."""
    out = levels.left_out(items)
    config.stash[levels.TAKEN] = [item.nodeid for item in items if item not in out]
    config.stash[levels.LEFT_OUT] = [levels.LeftOut(item.nodeid, reason) for item, reason in out.items()]
    if out and not levels.FULL:
        items[:] = [item for item in items if item not in out]
        config.hook.pytest_deselected(items=list(out))
    if kernel_path.GPU is None:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker process tells what was left out: the process that it works for collects nothing."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = [tuple(left) for left in session.config.stash.get(levels.LEFT_OUT, [])]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a worker tells; all workers collect the same."""
    told = getattr(node, "workeroutput", {}).get("left_out", [])
    node.config.stash[levels.LEFT_OUT] = [levels.LeftOut(*left) for left in told]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what the short level left out."""
    found = config.stash.get(levels.LEFT_OUT, [])
    if found and not levels.FULL:
        terminalreporter.section("left out")
        for line in levels.summary(found):
            terminalreporter.line(line)


@functools.cache
def _paddle_computes() -> bool:
    """Whether Paddle's own kernels are right where its tensors are by default: an older build gives wrong numbers on a
    newer GPU without an error.
    """
    import paddle

    return bool((paddle.to_tensor([1.0, 2.0]) + 1).numpy().tolist() == [2.0, 3.0])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this Paddle cannot do on this GPU, whoever's kernels they are that would be tested."""
    if item.get_closest_marker("paddles_own_kernels") and kernel_path.GPU == "paddle" and not _paddle_computes():
        pytest.skip("Paddle's own kernels give wrong numbers on this GPU")


def _kernels(*arguments: Any, **keywords: Any) -> Any:
    pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")
    return kernel_path.sample(*arguments, **keywords)


def _reference(*arguments: Any, **keywords: Any) -> Any:
    from detsample import reference

    return reference.sample(*arguments, **keywords)


IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {"reference": _reference, "kernels": _kernels}

# Field defects that Triton's interpreter shows in seconds; on a GPU the kernels take all of them.
QUICK_DEFECTS = {
    "test_flashinfer_top_k_keeps_all_ties",
    "test_flashinfer_all_nan_row_gives_token_0",
    "test_flashinfer_one_bad_logit_goes_unnoticed",
    "test_vllm_half_row_filled_with_minus_1e9_and_k5_keeps_5",
    "test_vllm_geometric_row_needs_more_than_18_steps",
    "test_vllm_all_equal_row_keeps_everything",
    "test_vllm_values_within_1e_9_taken_for_equal",
    "test_vllm_seeded_speculative_output_differs_from_plain",
    "test_sglang_min_p_with_a_seed_asserts",
    "test_fastdeploy_log_z_is_lost",
    "test_fastdeploy_outputs_of_a_call_are_overwritten_by_the_next",
    "test_fastdeploy_top_k_0_beside_top_k_on_breaks_the_row",
    "test_fastdeploy_tolist_and_a_python_loop_over_seeds",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`samplers`: the reference for every test, the kernels where they are fast enough for it."""
    if "samplers" in metafunc.fixturenames:
        slow = pytest.mark.full("seconds in the interpreter")
        quick = metafunc.function.__name__.startswith(("test_vllm", "test_sglang"))
        kernels = pytest.param("kernels", marks=() if quick or kernel_path.GPU else slow)
        kernels_too = kernel_path.GPU or metafunc.function.__name__ in QUICK_DEFECTS
        names = ["reference", kernels] if kernels_too else ["reference"]
        metafunc.parametrize("samplers", names, indirect=True)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """A command of `detsample` in this process: its exit status, stdout and stderr."""
    return runner(capsys)


@pytest.fixture
def samplers(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """An implementation of `sample`, with the reference's signature, on NumPy arrays."""
    return IMPLEMENTATIONS[request.param]
