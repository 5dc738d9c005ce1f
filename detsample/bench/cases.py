"""What is timed: settings of the sampler, and rows built against it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from detsample.data import load_real_logits
from detsample.kernels.sampling.boundary.guess import RUN, SPREAD
from detsample.kernels.sampling.rows import RETRIES

Rows = Callable[[int, int], Any]
"""Makes fp32 logits [B, V] on the GPU, for a B and a V."""

TOKEN_ONLY = {"return_logprobs": False, "return_num_kept": False, "return_log_z": False}

FILTERS: dict[str, dict[str, Any]] = {
    "no filter": {"return_log_z": True},
    "k=50 p=.95": {"top_k": 50, "top_p": 0.95},
    "k=50 p=.95 min_p=.05": {"top_k": 50, "top_p": 0.95, "min_p": 0.05},
    "p=.95": {"top_p": 0.95},
    "min_p=.1": {"min_p": 0.1},
    "mixed": {"mixed": True},
    "greedy": {"temperature": 0.0},
}

SETTINGS: dict[str, dict[str, Any]] = {
    name + end: given | fewer
    for name, given in FILTERS.items()
    for end, fewer in (("", {}), (", token only", TOKEN_ONLY))
}
"""Each with log probabilities and `num_kept`, and then without."""

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
    mixed = {name: [kinds[i % 5] for i in range(rows)] for name, kinds in MIX.items()} if "mixed" in setting else {}
    numbers = OFF | {k: v for k, v in setting.items() if not isinstance(v, bool)}
    columns = {k: [v] * rows for k, v in numbers.items()} | mixed
    flags = {k: v for k, v in setting.items() if isinstance(v, bool) and k != "mixed"}
    made = {
        name: torch.tensor(values, device="cuda", dtype=torch.int64 if name == "top_k" else torch.float32)
        for name, values in columns.items()
    }
    return made | flags | {"position": torch.arange(rows, device="cuda")}


def normal(scale: float) -> Rows:
    """Rows of plain randn times a scale."""
    return lambda rows, vocab: torch.randn(rows, vocab, device="cuda") * scale


def llm(rows: int, vocab: int) -> Any:
    """Rows as language models make them: rank n has the logit ``-s ln(n)`` and a little noise, with an `s` of 1.3 to 3
    for each row and the ranks in no order. With ``top_p=0.95`` they keep one to some thousand tokens, the median 9.
    """
    slope = torch.rand(rows, 1, device="cuda") * 1.7 + 1.3
    rank = torch.arange(1, vocab + 1, device="cuda")
    sorted_rows = torch.randn(rows, vocab, device="cuda") * 0.25 - slope * torch.log(rank)
    return sorted_rows.gather(1, torch.rand(rows, vocab, device="cuda").argsort(dim=1))


def real(temperature: float) -> Rows:
    """Rows of a real model (SmolLM2-135M, V = 49,152) over a temperature, at random, each moved along at random."""
    found = torch.from_numpy(load_real_logits().logits) / temperature

    def make(rows: int, vocab: int) -> Any:
        which, by = torch.randint(len(found), (rows, 1)), torch.randint(vocab, (rows, 1))
        return found[which, (torch.arange(vocab) + by) % vocab].cuda()

    return make


def equal(rows: int, vocab: int) -> Any:
    """Rows of one value."""
    return torch.full((rows, vocab), 1.5, device="cuda")


def plateaus(rows: int, vocab: int) -> Any:
    """Rows of some dozen values, each of which thousands of tokens have."""
    return torch.round(torch.randn(rows, vocab, device="cuda") * 4.0) / 2.0


def clusters(rows: int, vocab: int) -> Any:
    """Rows of two clusters: one token in a hundred lies around 7.5, and these weigh 0.95; the others lie around 0."""
    return torch.randn(rows, vocab, device="cuda") + 7.5 * (torch.rand(rows, vocab, device="cuda") < 0.01)


def misleading(rows: int, vocab: int) -> Any:
    """Rows in which the tokens that the kernels sample, in runs at equal distances and in each attempt behind those of
    the last, have a value that no other token has. All guesses are wrong there, and one program searches the row.
    """
    x = torch.randn(rows, vocab, device="cuda")
    runs, run = int(SPREAD.value) // int(RUN.value), int(RUN.value) * (1 + int(RETRIES.value))
    first = torch.arange(runs, device="cuda") * vocab // runs
    x[:, (first[:, None] + torch.arange(run, device="cuda")).flatten()] = 2.5
    return x


def others() -> dict[str, tuple[Rows, dict[str, Any], int, str]]:
    """Rows of other laws, those built against the sampler first: rows, setting, V and dtype."""
    p95, wide, small = FILTERS["p=.95"], (151936, "float32"), (49152, "float32")
    return {
        "all samples mislead, p=.95": (misleading, p95, *wide),
        "all equal, p=.95": (equal, p95, *wide),
        "all equal, k=50": (equal, {"top_k": 50}, *wide),
        "plateaus, p=.95": (plateaus, p95, *wide),
        "two clusters, p=.95": (clusters, p95, *wide),
        "randn x 1, p=.999": (normal(1.0), {"top_p": 0.999}, *wide),
        "randn x 1, k=1000 p=.9": (normal(1.0), {"top_k": 1000, "top_p": 0.9}, *wide),
        "randn x 1, V=262144, p=.95": (normal(1.0), p95, 262144, "float32"),
        "randn x 3, p=.95": (normal(3.0), p95, *wide),
        "randn x 1, bf16, p=.95": (normal(1.0), p95, 151936, "bfloat16"),
        **{f"SmolLM2-135M, T={t}, p=.95": (real(t), p95, *small) for t in (0.3, 0.7, 1.5)},
    }
