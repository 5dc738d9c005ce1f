"""``detsample demo``: samples the logits of a real model in many ways, and checks that the bits are the same here as
everywhere.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

import detsample
from detsample.cli import gpu
from detsample.cli.digest import Digest, host_fields, row_bytes
from detsample.cli.failure import Failure
from detsample.cli.tables import clipped, line, token_text
from detsample.data import RealLogits, load_real_logits

Fields = dict[str, np.ndarray]
GOLDEN = "golden_demo.json"
DRAWS = 3
"""How many seeds each prompt is drawn with; no two prompts have one in common."""
STEPS = 5
"""How many positions, and how many samples, of a prompt are shown."""
PROMPT, TOKEN = 27, 12
"""Widths of columns."""


@dataclass(frozen=True)
class Setting:
    """One way to sample every prompt."""

    title: str
    parameters: dict[str, float]
    draws: int = DRAWS


SETTINGS = (
    Setting("greedy", {"temperature": 0.0}, 1),
    Setting("temperature 1", {}),
    Setting("temperature 0.7, top_p 0.95", {"temperature": 0.7, "top_p": 0.95}),
    Setting("top_k 50, top_p 0.95, min_p 0.05", {"top_k": 50, "top_p": 0.95, "min_p": 0.05}),
    Setting("min_p 0.1", {"min_p": 0.1}),
)
CONTINUED = {"top_p": 0.95}
"""The filter with which single prompts are drawn many times."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """The arguments of this command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "demo",
        help="sample from a real model's logits and compare all bits with those stored in the package",
        description="Sample the logits of SmolLM2-135M-Instruct for eight prompts in several ways, and "
        "compare every bit of every result with what is stored in the package.",
        epilog="Exit status: 0, every bit is as stored; 1, some are not; 2, the demo could not be run.",
    )
    gpu.add_device(parser)
    # For maintainers, after a change of the demo itself: no change of the library may need it.
    parser.add_argument("--write-golden", action="store_true", help=argparse.SUPPRESS)
    return parser


def run(options: argparse.Namespace) -> int:
    """Sample, print and compare; return 1 if a bit differs from the stored ones."""
    started = time.monotonic()
    show = Demo(load_real_logits(), gpu.mover(options), None if options.write_golden else golden())
    where = "the GPU" if options.device == "gpu" else "the CPU"
    print(f"detsample {detsample.__version__}, contract {detsample.CONTRACT_VERSION}, on {where}")
    prompts, vocab = show.real.logits.shape
    print(f"logits of SmolLM2-135M-Instruct: {prompts} prompts, {vocab:,} tokens")
    for setting in SETTINGS:
        show.setting(setting)
    show.steps()
    show.samples()
    show.surroundings()
    return show.end(time.monotonic() - started, options.write_golden)


def golden_file() -> Any:
    """The stored digests."""
    return files("detsample.data").joinpath(GOLDEN)


def golden() -> dict[str, str]:
    """The stored digests by section, of this contract."""
    try:
        stored = json.loads(golden_file().read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise Failure(f"{GOLDEN} is missing from the package") from error
    contract = stored["contract_version"]
    if contract != detsample.CONTRACT_VERSION:
        raise Failure(f"{GOLDEN} is of contract {contract}, this is contract {detsample.CONTRACT_VERSION}")
    return dict(stored["digests"])


class Demo:
    """Samples and prints section by section, comparing digests as it goes."""

    def __init__(self, real: RealLogits, tensor: Callable[[np.ndarray], Any], stored: dict[str, str] | None) -> None:
        self.real = real
        self._tensor, self._stored = tensor, stored
        self._digests: dict[str, str] = {"logits": sha256(real.logits.astype("<f4").tobytes()).hexdigest()}
        self._same = True

    def sample(self, logits: np.ndarray, seed: Any, position: Any = 0, **parameters: Any) -> Fields:
        """All results of a call, on the host."""
        given = {"topp_seed": seed, "position": position, **parameters}
        given = {key: self._tensor(x) if isinstance(x, np.ndarray) else x for key, x in given.items()}
        return host_fields(detsample.sample(self._tensor(logits), **given, return_log_z=True, return_mask="bits"))

    def setting(self, setting: Setting) -> None:
        """Every prompt, with a few seeds of its own."""
        logits, rows = self.real.logits, len(self.real.logits)
        starts = range(0, setting.draws * rows, rows)
        seeds = [np.arange(start, start + rows) for start in starts]
        drawn = [self.sample(logits, of_rows, **setting.parameters) for of_rows in seeds]
        self._head(setting.title, drawn)
        widths = [-PROMPT, 5, *([-TOKEN, 6] * len(drawn))]
        heads = [(f"seeds {start}-{start + rows - 1}", "logp") for start in starts]
        print(line(["prompt", "kept", *sum(heads, ())], widths))
        for row, prompt in enumerate(self.real.prompts):
            cells = [shown_prompt(prompt), int(drawn[0]["num_kept"][row])]
            for one in drawn:
                cells += [self._text(one["token_ids"][row]), f"{one['logprobs'][row]:.2f}"]
            print(line(cells, widths))

    def steps(self) -> None:
        """One row of logits at several positions. Only the position decides which noise is used."""
        positions = np.arange(STEPS)
        drawn = [
            self.sample(np.repeat(row[None], STEPS, axis=0), seed, positions, **CONTINUED)
            for seed, row in enumerate(self.real.logits)
        ]
        self._many(f"one seed a prompt, positions 0 to {STEPS - 1}; top_p 0.95", drawn)

    def samples(self) -> None:
        """Several samples of one prompt: `fold_in` makes a seed for each."""
        drawn = []
        for seed, row in enumerate(self.real.logits):
            seeds = np.array([detsample.fold_in(seed, i) for i in range(STEPS)], np.int64)
            drawn.append(self.sample(np.repeat(row[None], STEPS, axis=0), seeds, **CONTINUED))
        seeds_made = f"fold_in(seed, 0) to fold_in(seed, {STEPS - 1})"
        self._many(f"{STEPS} samples of one seed: {seeds_made}; top_p 0.95", drawn)

    def surroundings(self) -> None:
        """The same rows alone, in other slots, among other rows and in a wider tensor: the same bits."""
        logits, rows = self.real.logits, len(self.real.logits)
        mixed: dict[str, np.ndarray] = {
            "seed": np.arange(rows),
            "temperature": np.array([0, 1, 0.7, 1, 1, 1.3, 1, 0.7], np.float32),
            "top_k": np.array([0, 0, 0, 50, 0, 9, 1, 5]),
            "top_p": np.array([1, 1, 0.95, 0.95, 1, 0.9, 1, 0.5], np.float32),
            "min_p": np.array([0, 0, 0, 0.05, 0.1, 0, 0, 0], np.float32),
        }

        def batch(order: np.ndarray, x: np.ndarray = logits) -> np.ndarray:
            """The results of these rows as a batch, as bytes; but for the mask, as wide as the tensor."""
            found = self.sample(x[order], **{name: value[order] for name, value in mixed.items()})
            return row_bytes({name: value for name, value in found.items() if name != "mask"})

        in_order = np.arange(rows)
        among = np.concatenate([in_order[::-1], in_order, in_order[::-1]])
        padding = np.full((rows, 1000), -np.inf, np.float32)
        whole = batch(in_order)
        checks = {
            "each row alone": np.concatenate([batch(in_order[b : b + 1]) for b in range(rows)]),
            "the batch reversed": batch(in_order[::-1])[::-1],
            "among 16 other rows": batch(among)[rows : 2 * rows],
            "1,000 columns of -inf added": batch(in_order, np.concatenate([logits, padding], axis=1)),
        }
        same = {name: np.array_equal(found, whole) for name, found in checks.items()}
        print("\nthe same bits in other surroundings")
        print("  ".join(f"{tick(ok)} {name}" for name, ok in same.items()))
        self._same &= all(same.values())

    def end(self, seconds: float, write: bool) -> int:
        """The verdict, or a new golden file."""
        total = sha256("".join(self._digests.values()).encode()).hexdigest()
        print(f"\ndigest of all result bits\n{total}")
        if write:
            stored = {"contract_version": detsample.CONTRACT_VERSION, "digests": self._digests}
            path = Path(str(golden_file()))
            path.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
            print(f"written to {path.name}")
            return int(not self._same)
        wrong = [name for name, digest in self._digests.items() if (self._stored or {}).get(name) != digest]
        same = self._same and self._digests == self._stored
        print(f"{'equal to' if same else 'NOT'} the golden one stored in the package ({seconds:.1f} s)")
        for name in wrong:
            print(f"{tick(False)} {name}")
        return int(not same)

    def _many(self, title: str, drawn: list[Fields]) -> None:
        """A line a prompt, with the tokens of several draws."""
        self._head(title, drawn)
        widths = [-PROMPT, *([-TOKEN] * STEPS)]
        for prompt, one in zip(self.real.prompts, drawn, strict=True):
            print(line([shown_prompt(prompt), *(self._text(token) for token in one["token_ids"])], widths))

    def _head(self, title: str, drawn: list[Fields]) -> None:
        """The title of a section, and whether its bits are as stored."""
        digest = Digest()
        for one in drawn:
            digest.add(one)
        self._digests[title] = found = digest.hex()
        verdict = "" if self._stored is None else " " + tick(self._stored.get(title) == found)
        print(f"\n{title}  [{found[:16]}{verdict}]")

    def _text(self, token: Any) -> str:
        known = 0 <= int(token) < self.real.logits.shape[1]  # -1, of an invalid row, is none
        return token_text(self.real.token_text(int(token)), TOKEN) if known else str(token)


def tick(same: bool) -> str:
    """A tick or a cross."""
    return "✓" if same else "✗"


def shown_prompt(prompt: str) -> str:
    """The end of a prompt, or of what the user said in a chat."""
    _, chat, said = prompt.partition("<|im_start|>user\n")
    return clipped(said.partition("<|im_end|>")[0] if chat else prompt, PROMPT)
