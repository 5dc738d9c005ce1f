"""The integrations together: what importing them imports, and what they say without their engines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from paths import ROOT


def test_integrations_name_the_extra_that_is_missing(tmp_path: Path) -> None:
    """Defect caught: a ModuleNotFoundError from somewhere inside, or an engine that the core imports."""
    code = """
import sys
for name in ("transformers", "vllm", "paddle", "fastdeploy"):
    sys.modules[name] = None
import detsample
for name, extra in (("transformers", "transformers"), ("vllm", "vllm"), ("fastdeploy", "paddle")):
    try:
        __import__("detsample.integrations." + name)
    except ImportError as error:
        assert f"pip install 'detsample[{extra}]'" in str(error), error
    else:
        raise AssertionError(name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_transformers_without_torch_names_the_extra(tmp_path: Path) -> None:
    """Defect caught: a ModuleNotFoundError, because transformers can be imported where torch is not."""
    (tmp_path / "transformers.py").write_text("")
    code = f"""
import sys
sys.modules["torch"] = None
sys.path.insert(0, {str(tmp_path)!r})
try:
    import detsample.integrations.transformers
except ImportError as error:
    assert "needs torch" in str(error) and "pip install 'detsample[transformers]'" in str(error), error
else:
    raise AssertionError("imported")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_committed_run_of_vllm_on_a_gpu_found_nothing() -> None:
    """Defect caught: a committed result with tokens that depend on the batch, or without a way to serve."""
    report = json.loads((ROOT / "docs" / "results" / "h100-vllm.json").read_text())
    ours = {way: found for way, found in report["alone against"].items() if ", installed, " in way}
    assert len(ours) == 10
    for found in ours.values():
        assert found["equal"] == found["requests"] >= 48
    told = [line for line in report["served"] if line["kind"] == "told"]
    assert [line["engine"] for line in told] == ["first-telling", "second-telling"]
    for line in told:
        assert line["tokens"] > 0
        assert [line[wrong] for wrong in ("other tokens", "other bits", "outside the kept set")] == [0, 0, 0]
    every = [line for line in report["served"] if line["kind"] == "all"]
    assert [line["engine"] for line in every] == ["first-all", "second-all"]
    assert all(line["drawn"] == line["rows"] > 0 == line["wrong"] for line in every)
    assert sum(line.get("accepted_drafts", 0) for line in report["served"]) > 1000
    assert report["failed"] == []
    second = json.loads((ROOT / "docs" / "results" / "h100-vllm-second.json").read_text())
    ours = {way: found for way, found in second["alone against"].items() if ", installed, " in way}
    assert len(ours) == 4
    assert all(found["equal"] == found["requests"] >= 48 for found in ours.values())
    assert len(second["speed"]) == 16
    assert all(case["times_range"][0] > 1 for case in second["speed"])
    newest = json.loads((ROOT / "docs" / "results" / "h200-vllm.json").read_text())
    assert len(newest["speed"]) == 32
    assert all(case["times_range"][0] > 1 for case in newest["speed"])
    assert sum(line["kind"] == "strict" for line in newest["served"]) == 8
    grammars = [line for line in newest["served"] if line["kind"] == "grammars"]
    assert [line["apart"] for line in grammars] == [0] * 32
    assert all(line["kind"] == "skipped" for line in newest["failed"])
