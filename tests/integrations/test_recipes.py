"""The recipes run, and print what their page says."""

from __future__ import annotations

import ast
import importlib
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from paths import ROOT

import detsample

RECIPES = ROOT / "docs" / "recipes"
PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
slow = pytest.mark.full("runs other people's programs, which takes minutes")


def run(name: str, *words: str) -> str:
    """The output of a recipe."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(RECIPES / f"{name}.py"), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def said(name: str) -> str:
    """What the page says that a recipe prints."""
    found = re.search(rf"`recipes/{name}\.py`.*?```text\n(.*?)```", PAGE, re.S)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.py")), ids=lambda file: file.stem)
def test_a_recipe_is_on_the_page_and_asks_for_what_there_is(file: Path) -> None:
    """Defect caught: a name of ours that a recipe imports, or uses of a module of ours, and that is gone; a recipe that
    no page shows.
    """
    assert f"`recipes/{file.name}`" in PAGE
    tree = ast.parse(file.read_text(encoding="utf-8"))
    ours: dict[str, object] = {"detsample": detsample}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "detsample":
            module = importlib.import_module(node.module or "")
            ours |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ours:
            assert hasattr(ours[node.value.id], node.attr), ast.unparse(node)


@slow
def test_trl_has_ratios_of_1() -> None:
    """Defect caught: a log probability of the trainer that is another than the rollout's, in a single bit."""
    pytest.importorskip("trl")
    ours, learned, whole, _ = [line for line in run("trl_ratios").splitlines() if not line.startswith("{")]
    assert ours == said("trl_ratios").splitlines()[0]
    assert ours.endswith("ratios from 1.0 to 1.0")
    assert re.search(r"reward 0\.\d\d -> (1\.00|0\.[6-9])", learned)
    assert not whole.endswith("to 1.0")


@slow
def test_ray_audits_a_record() -> None:
    """Defect caught: an audit that needs processes of its own, or an error that Ray cannot carry."""
    pytest.importorskip("ray.data")
    lines = zip(run("ray_audit").splitlines(), said("ray_audit").splitlines(), strict=True)
    assert all(re.sub("-[0-9a-f]{16}", "", a) == re.sub("-[0-9a-f]{16}", "", b) for a, b in lines)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a vLLM server with a model on the CPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # `vllm serve` under the name by which the build for CPUs can be started as well.
    words = ["--model", str(folder), "--host", "127.0.0.1", "--port", port, "--enforce-eager", "--dtype", "float32"]
    words += ["--max-model-len", "256", "--max-num-seqs", "16", "--no-enable-prefix-caching"]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words]
    server = subprocess.Popen(command, env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"})
    try:
        for _ in range(600):
            assert server.poll() is None, "the server has ended"
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=3)
                break
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


@slow
def test_a_vllm_server_draws_the_same_alone_and_in_a_crowd(tmp_path: Path) -> None:
    """Defect caught: a worker that does not load the plug-in, or a seed lost on its way through the HTTP API."""
    pytest.importorskip("vllm")
    from vllm_engine import model_folder

    with served(model_folder(tmp_path)) as url:
        assert "another seed, another text: True" in run("vllm_serve", url)
