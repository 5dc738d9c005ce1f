"""The worked example of docs/rollouts.md: it runs, and its importance ratios are what the page says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from paths import ROOT

pytest.importorskip("pyarrow", reason="no pyarrow for this NumPy: no record is written", exc_type=ImportError)

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    """docs/examples/policy_gradient.py."""
    spec = importlib.util.spec_from_file_location("policy_gradient", DOCS / "examples" / "policy_gradient.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.paddles_own_kernels
@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_the_ratio_is_1_over_kept_sets_alone(example: ModuleType, framework: str) -> None:
    """Catches an example that has stopped to run, to learn, or to show what it is for."""
    pytest.importorskip(framework, reason=f"{framework} is not installed")
    kept = example.train(framework, "kept", 8, 0)
    assert max(kept["largest"]) < 2e-6
    assert kept["reward"][-1] > kept["reward"][0]
    every = example.train(framework, "all", 2, 0)
    assert min(every["largest"]) > 0.1


def test_the_plot_is_drawn(example: ModuleType, tmp_path: Path) -> None:
    """Catches results that the plot cannot read."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    sources = sorted((DOCS / "results").glob("policy-gradient-*.json"))
    assert [json.loads(source.read_text())["framework"] for source in sources] == ["paddle", "torch"]
    example.plot(tmp_path / "plot.png", sources)
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
