"""SGLang's real engine: each request alone, all of them together, among others without seeds, and preempted again and
again. A program, as the engine is of several processes; MODEL is a folder, such as that of SmolLM2-135M:

    python tests/support/sglang_engine.py MODEL --device cpu --backend detsample --out report.json

``--backend pytorch`` is SGLang's own deterministic sampler. Each drawn token is compared with what its logits give
alone (`detsample.sample`, or SGLang's sampler with a batch of one), and the servings with each other as long as logits
have the same bits. On the CPU matrix products row by row see to it that they have, whatever the batch; on a GPU
SGLang's own deterministic inference does.

Of SGLang's dependencies, `MISSING` may be absent, and mocks stand in; in place of sglang-kernel's kernels, PyTorch's
operations run, and on the CPU `murmur`, the hash of SGLang's own sampler.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import random
import sys
import tempfile
import types
from importlib import metadata
from pathlib import Path
from typing import Any

from sglang_parts import Finder
from transformers.utils import is_torchvision_available

import detsample

OPTIONAL = ("sgl_kernel", "torchvision", "IPython")
MISSING = {name for name in OPTIONAL if importlib.util.find_spec(name) is None}
is_torchvision_available()  # transformers keeps the answer, and takes no mock for an installed package
sys.meta_path.append(Finder(lambda name: name.split(".")[0] in MISSING))
VOCABULARY = 49152
RECORD, DEVICE = "DETSAMPLE_SGLANG_RECORD", "DETSAMPLE_SGLANG_DEVICE"
OWN = "pytorch"
ABSENT = 77  # the program's exit status where SGLang's engine cannot be imported


def requests(count: int, own: bool = False) -> list[dict[str, Any]]:
    """What the engine is asked for, a seed of its own each: greedy rows, filters on and off, penalties, a bias."""
    choose, asked = random.Random(7), []
    for index in range(count):
        params = {
            "sampling_seed": index if index % 3 else index - (1 << 62),
            "temperature": choose.choice([0.0, 0.6, 1.0, 1.0, 1.7]),
            "top_k": choose.choice([-1, -1, 1, 20, 1000]),
            "top_p": choose.choice([1.0, 1.0, 0.95, 0.7]),
            # With seeds, SGLang's own sampler refuses min-p.
            "min_p": choose.choice([0.0, 0.0, 0.05, 0.3]) * (not own),
            "repetition_penalty": choose.choice([1.0, 1.0, 1.3]),
            "frequency_penalty": choose.choice([0.0, 0.0, 0.4]),
            "logit_bias": choose.choice([None, None, {str(choose.randrange(VOCABULARY)): 5.0}]),
            "max_new_tokens": choose.randint(4, 8),
            "ignore_eos": True,
        }
        prompt = [choose.randrange(3, VOCABULARY) for _ in range(choose.randint(1, 6))]
        asked.append({"input_ids": prompt, "sampling_params": params, "return_logprob": index % 2 == 0})
        asked[-1]["return_sampling_mask"] = params["top_k"] > 0  # SGLang takes no other
    return asked


def strangers(count: int) -> list[dict[str, Any]]:
    """Requests without seeds."""
    return [
        {"input_ids": [5 + i], "sampling_params": {"temperature": 1.0, "top_p": 0.5, "max_new_tokens": 5}}
        for i in range(count)
    ]


def preempting(target: Path) -> Path:
    """The file that is there while every third step is to preempt requests, if it has more than one."""
    return target.with_suffix(".preempt")


def murmur(seed: Any, positions: Any, columns: Any) -> Any:
    """[B, V] uint32: MurmurHash3 (x86, 32 bits, seed 0) of a row's seed and position and a column, 16 bytes each."""
    import numpy as np
    import torch

    def turned(x: Any, by: int) -> Any:
        return x << np.uint32(by) | x >> np.uint32(32 - by)

    seeds = seed.numpy().view(np.uint32).reshape(-1, 2)
    blocks = [*seeds.T[:, :, None], positions.numpy().astype(np.uint32)[:, None], columns.numpy().astype(np.uint32)]
    h = np.zeros((), np.uint32)
    for block in blocks:
        h = turned(h ^ turned(block * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593), 13)
        h = h * np.uint32(5) + np.uint32(0xE6546B64)
    h ^= np.uint32(16)
    for by, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = (h ^ h >> np.uint32(by)) * np.uint32(factor)
    return torch.from_numpy(h ^ h >> np.uint32(16))


def record(target: Path) -> None:
    """Have every row that a sampler draws noted in a file, with the token that its logits give alone."""
    import sgl_kernel.utils
    import torch

    # No mock, which would be a constant of SGLang's kernels.
    sgl_kernel.utils.is_arch_support_pdl = lambda: False
    from sglang.srt.layers import sampler as theirs
    from sglang.srt.layers.dual_gemm import DualGemm
    from sglang.srt.managers import scheduler
    from sglang.srt.mem_cache import memory_pool
    from sglang.srt.model_executor.model_runner import ModelRunner
    from sglang.srt.runtime_context import get_exec
    from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo
    from sglang.srt.sampling.sampling_params import SamplingParams

    from detsample.integrations.sglang import DetsampleSampler
    from detsample.integrations.sglang.sampler import ORDER

    def own() -> bool:
        return get_exec().kernel.sampling_backend == OWN

    def known(seed: int) -> dict[str, Any] | None:
        return next((p for p in asked[own()] if p["sampling_seed"] == seed), None)

    device = os.environ[DEVICE]
    asked = [[one["sampling_params"] for one in requests(64, way)] for way in (False, True)]

    def of_one(params: dict[str, Any]) -> Any:
        request = types.SimpleNamespace(
            sampling_params=SamplingParams(**params), custom_logit_processor=None, return_sampling_mask=False,
            sampling_logprobs_mode=None,
        )  # fmt: skip
        request.sampling_params.normalize(None)
        batch = type("Batch", (), {"reqs": [request], "device": device})  # referred to weakly
        info = SamplingBatchInfo.from_schedule_batch(batch, VOCABULARY)
        info.kept_alive = batch
        return info

    def due(forward: Any, self: Any, row: Any, params: dict[str, Any], position: Any) -> tuple[int, list[int] | None]:
        if own():
            output = types.SimpleNamespace(next_token_logits=row.clone())
            return int(forward(self, output, of_one(params), False, [0], [None], position)), None
        out = detsample.sample(
            row.cpu().numpy(), params["sampling_seed"], position=int(position) + 1, temperature=params["temperature"],
            top_k=max(params["top_k"], 0), top_p=params["top_p"], min_p=params["min_p"], filter_order=ORDER,
            return_mask="bool",
        )  # fmt: skip
        return int(out.token_ids[0]), out.mask[0].nonzero()[0].tolist()

    def noting(forward: Any) -> Any:
        def noted(self: Any, output: Any, info: Any, *told: Any, **more: Any) -> Any:
            positions = told[3]
            scheduler.TEST_RETRACT = preempting(target).exists()
            before = output.next_token_logits.clone()
            tokens = forward(self, output, info, *told, **more)
            lines = [{"backend": get_exec().kernel.sampling_backend, "rows": len(before)}]
            for i, seed in enumerate(info.sampling_seed.tolist()):
                if params := known(seed):
                    token, kept = due(forward, self, before[i : i + 1], params, positions[i : i + 1])
                    logprobs = torch.log_softmax(before[i : i + 1] / info.temperatures[i], -1)[0]
                    lines.append({
                        "key": [seed, int(positions[i]) + 1], "due": token, "kept": kept,
                        "logits": hashlib.blake2b(before[i].cpu().numpy().tobytes(), digest_size=16).hexdigest(),
                        "logprob": float(logprobs[tokens[i]]),
                    })  # fmt: skip
            with target.open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
            return tokens

        return noted

    def by_rows(product: Any) -> Any:
        def rows(x: Any, *rest: Any) -> Any:
            return torch.cat([product(row, *rest) for row in x.split(1)]) if x.dim() == 2 else product(x, *rest)

        return rows

    theirs.Sampler.forward, DetsampleSampler.forward = map(noting, (theirs.Sampler.forward, DetsampleSampler.forward))
    memory_pool.can_use_store_cache = lambda *_: False  # a kernel that would be compiled first
    DualGemm._select_mode = lambda *_: None  # needs CuTe
    if device != "cpu":
        return
    torch.library.define("sgl_kernel::murmur_hash32_cpu", "(Tensor seed, Tensor positions, Tensor columns) -> Tensor")
    torch.library.impl("sgl_kernel::murmur_hash32_cpu", "CPU", murmur)
    # SGLang's own way to it needs a GPU.
    ModelRunner.maybe_enable_batch_invariant_mode = lambda _: None
    torch.nn.functional.linear, torch.matmul = by_rows(torch.nn.functional.linear), by_rows(torch.matmul)


def start(model: str, own: bool) -> Any:
    """An engine whose processes are this program again, each recording."""
    try:
        from sglang.srt import server_args
        from sglang.srt.entrypoints.engine import Engine
    except ImportError as error:
        print(f"SGLang's engine is NOT here: {error}")
        sys.exit(ABSENT)
    on_cpu = os.environ[DEVICE] == "cpu"
    if on_cpu:  # deterministic inference asks for an attention of a GPU
        server_args.DETERMINISTIC_ATTENTION_BACKEND_CHOICES.append("torch_native")
    return Engine(
        model_path=model, device=os.environ[DEVICE], dtype="float32", skip_tokenizer_init=True,
        attention_backend="torch_native" if on_cpu else "triton", disable_cuda_graph=True, disable_radix_cache=True,
        sampling_backend=OWN if own else "detsample", enable_deterministic_inference=True,
        max_total_tokens=4096, max_running_requests=64, context_length=128, log_level="warning",
    )  # fmt: skip


def serve(engine: Any, asked: list[dict[str, Any]], target: Path) -> dict[str, Any]:
    """One serving: its outputs, and what was noted of their rows."""
    from sglang.srt.managers.io_struct import GenerateReqInput

    target.write_text("")
    batch = GenerateReqInput(**{name: [a.get(name, False) for a in asked] for name in asked[0]})
    outputs = engine.loop.run_until_complete(anext(engine.tokenizer_manager.generate_request(batch, None)))
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    return {
        "outputs": outputs,
        "rows": {tuple(line["key"]): line for line in lines if "key" in line},
        "steps": [line for line in lines if "rows" in line],
    }


def compare(asked: list[dict[str, Any]], alone: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A serving against that of each request alone, and against what each row gives alone."""
    found = {"tokens": 0, "tokens_with_the_same_logits": 0, "logprobs_wrong": 0, "kept_sets_wrong": 0, "preemptions": 0}
    differ, wrong = set(), 0
    for index, request in enumerate(asked):
        first, second = (s["outputs"][index] for s in (alone, other))
        seed, start = request["sampling_params"]["sampling_seed"], len(request["input_ids"])
        found["preemptions"] += second["meta_info"]["num_retractions"]
        for i, (a, b) in enumerate(zip(first["output_ids"], second["output_ids"], strict=True)):
            one, row = (s["rows"][seed, start + i] for s in (alone, other))
            found["tokens"] += 1
            wrong += b != row["due"]
            if request["return_logprob"]:
                found["logprobs_wrong"] += second["meta_info"]["output_token_logprobs"][i][0] != row["logprob"]
            if request["return_sampling_mask"] and row["kept"] is not None:
                told = second["meta_info"]["output_token_sampling_mask"][i]
                found["kept_sets_wrong"] += sorted(told) != row["kept"]
            if index not in differ and one["logits"] == row["logits"]:
                found["tokens_with_the_same_logits"] += 1
                if a != b:
                    differ.add(index)
    return {
        "largest_batch": max(step["rows"] for step in other["steps"]), **found,
        "tokens_not_those_of_their_logits_alone": wrong,
        "requests_that_differ_with_the_same_logits": len(differ),
    }  # fmt: skip


def trial(model: str, own: bool, count: int, target: Path) -> dict[str, Any]:
    """The whole trial and its report."""
    import torch

    device = os.environ[DEVICE]
    asked, engine = requests(count, own), start(model, own)
    lonely = [serve(engine, [request], target) for request in asked]
    alone = {
        "outputs": [one["outputs"][0] for one in lonely],
        "rows": {key: row for one in lonely for key, row in one["rows"].items()},
        "steps": [step for one in lonely for step in one["steps"]],
    }
    servings = {"alone": alone, "together": serve(engine, asked, target)}
    servings["among requests without seeds"] = serve(engine, [*asked, *strangers(count)], target)
    preempting(target).touch()
    servings["preempted"] = serve(engine, asked, target)
    report = {
        "what": f"SGLang's engine, {count} requests with seeds",
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "backend": sorted({step["backend"] for one in servings.values() for step in one["steps"]}),
        "servings": {name: compare(asked, alone, serving) for name, serving in servings.items()},
        "contract": detsample.CONTRACT_VERSION,
        "mocked": sorted(MISSING),
        "versions": {name: metadata.version(name) for name in ("sglang", "torch", "transformers")},
        "python": platform.python_version(),
    }  # fmt: skip
    engine.shutdown()
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--backend", choices=["detsample", OWN], default="detsample")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    os.environ |= {
        DEVICE: given.device, "SGLANG_USE_CPU_ENGINE": str(int(given.device == "cpu")), "TORCHDYNAMO_DISABLE": "1",
        "SGLANG_FORCE_FUSED_OP_BACKEND": "torch", "SGLANG_SKIP_SGL_KERNEL_VERSION_CHECK": "1",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        os.environ[RECORD] = str(Path(folder) / "rows.jsonl")
        report = json.dumps(trial(given.model, given.backend == OWN, given.requests, Path(os.environ[RECORD])))
    print(report)
    if given.out:
        given.out.write_text(json.dumps(json.loads(report), indent=2) + "\n")


if __name__ == "__main__":
    main()
elif RECORD in os.environ:
    record(Path(os.environ[RECORD]))
