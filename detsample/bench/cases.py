"""What is timed: settings of the sampler, and rows built against it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TOKEN_ONLY = {"return_logprobs": False, "return_num_kept": False}

SETTINGS: dict[str, dict[str, Any]] = {
    "no filter, token only": TOKEN_ONLY,
    "no filter, logprobs and log_z": {"return_log_z": True},
    "k=50 p=.95 min_p=.05": {"top_k": 50, "top_p": 0.95, "min_p": 0.05},
    "p=.95": {"top_p": 0.95},
    "p=.95, token only": {"top_p": 0.95} | TOKEN_ONLY,
    "min_p=.1": {"min_p": 0.1},
    "min_p=.1, token only": {"min_p": 0.1} | TOKEN_ONLY,
    "mixed": {"mixed": True},
    "mixed, token only": {"mixed": True} | TOKEN_ONLY,
    "greedy": {"temperature": 0.0},
}

OFF: dict[str, float] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
"""Values of the parameters that a setting does not name. They are passed all the same, as a server does whose batches
mix requests.
"""

MIX: dict[str, list[Any]] = {
    "temperature": [1.0, 1.0, 1.0, 1.0, 0.0],
    "top_k": [0, 50, 0, 0, 0],
    "top_p": [1.0, 0.95, 0.95, 1.0, 1.0],
    "min_p": [0.0, 0.05, 0.0, 0.1, 0.0],
}


def arguments(setting: dict[str, Any], rows: int) -> dict[str, Any]:
    """The setting with every number as a tensor [B] on the GPU, rows of all kinds in turn for `mixed`."""
    import torch

    mixed = {name: [kinds[i % 5] for i in range(rows)] for name, kinds in MIX.items()} if "mixed" in setting else {}
    numbers = OFF | {k: v for k, v in setting.items() if not isinstance(v, bool)}
    columns = {k: [v] * rows for k, v in numbers.items()} | mixed
    flags = {k: v for k, v in setting.items() if isinstance(v, bool) and k != "mixed"}
    made = {
        name: torch.tensor(values, device="cuda", dtype=torch.int64 if name == "top_k" else torch.float32)
        for name, values in columns.items()
    }
    return made | flags | {"position": torch.arange(rows, device="cuda")}


def normal(scale: float) -> Callable[[int, int], Any]:
    """Rows of plain randn times a scale."""

    def make(rows: int, vocab: int) -> Any:
        import torch

        return torch.randn(rows, vocab, device="cuda") * scale

    return make


def llm(rows: int, vocab: int) -> Any:
    """Rows as language models make them: rank n has the logit ``-s ln(n)`` and a little noise, with an `s` of 1.3 to 3
    for each row and the ranks in no order. With ``top_p=0.95`` they keep one to some thousand tokens, the median 9.
    """
    import torch

    slope = torch.rand(rows, 1, device="cuda") * 1.7 + 1.3
    rank = torch.arange(1, vocab + 1, device="cuda")
    sorted_rows = torch.randn(rows, vocab, device="cuda") * 0.25 - slope * torch.log(rank)
    return sorted_rows.gather(1, torch.rand(rows, vocab, device="cuda").argsort(dim=1))


def real(rows: int, vocab: int) -> Any:
    """Rows of a real model (SmolLM2-135M), in turn, each moved along by a number of tokens of its own.

    `vocab` must be the model's own, 49,152: longer rows would not be the model's.
    """
    import torch

    from detsample.data import load_real_logits

    found = torch.from_numpy(load_real_logits().logits).cuda()
    if found.shape[1] != vocab:
        raise ValueError(f"vocab must be {found.shape[1]}, that of the model, got {vocab}")
    return torch.stack([torch.roll(found[i % len(found)], 997 * i) for i in range(rows)])


def equal(rows: int, vocab: int) -> Any:
    """Rows of one value."""
    import torch

    return torch.full((rows, vocab), 1.5, device="cuda")


def misleading(rows: int, vocab: int) -> Any:
    """Rows in which the tokens that the kernels sample, at equal distances, have values that no other token has. The
    first guesses are wrong there.
    """
    import torch

    from detsample.kernels.sampling.boundary.pivots import SAMPLE

    x = torch.randn(rows, vocab, device="cuda")
    sample = int(SAMPLE.value)
    sampled = (torch.arange(sample, device="cuda") * vocab) // sample
    x[:, sampled] = 8.0
    return x


WORST: dict[str, tuple[Callable[[int, int], Any], dict[str, Any], int]] = {
    "all equal, p=.95": (equal, {"top_p": 0.95}, 151936),
    "all equal, k=50": (equal, {"top_k": 50}, 151936),
    "sample misleads, p=.95": (misleading, {"top_p": 0.95}, 151936),
    "randn x 1, p=.999": (normal(1.0), {"top_p": 0.999}, 151936),
    "randn x 1, k=1000 p=.9": (normal(1.0), {"top_k": 1000, "top_p": 0.9}, 151936),
    "randn x 1, V=262144, p=.95": (normal(1.0), {"top_p": 0.95}, 262144),
}
