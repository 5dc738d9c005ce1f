"""How the suite runs: kernels on a GPU where there is one, otherwise in Triton's interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import kernel_path
import pytest

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
    return f"detsample: kernels run on {where}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if kernel_path.GPU is None:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


def _kernels(*arguments: Any, **keywords: Any) -> Any:
    pytest.importorskip("triton", reason="Triton is not installed: no kernel runs")
    return kernel_path.sample(*arguments, **keywords)


def _reference(*arguments: Any, **keywords: Any) -> Any:
    from detsample import reference

    return reference.sample(*arguments, **keywords)


IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {"reference": _reference, "kernels": _kernels}

# Field defects that Triton's interpreter shows in seconds; on a GPU the kernels take all of them.
QUICK_DEFECTS: frozenset[str] = frozenset()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`samplers`: the reference for every test, the kernels where they are fast enough for it."""
    if "samplers" in metafunc.fixturenames:
        kernels_too = kernel_path.GPU or metafunc.function.__name__ in QUICK_DEFECTS
        names = ["reference", "kernels"] if kernels_too else ["reference"]
        metafunc.parametrize("samplers", names, indirect=True)


@pytest.fixture
def samplers(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """An implementation of `sample`, with the reference's signature, on NumPy arrays."""
    return IMPLEMENTATIONS[request.param]
