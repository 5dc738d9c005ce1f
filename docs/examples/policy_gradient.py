"""Policy gradients from recorded rollouts, with and without the kept sets: a toy task that learns in seconds.

    python docs/examples/policy_gradient.py --framework torch --out docs/results/policy-gradient-torch.json
    python docs/examples/policy_gradient.py --framework paddle --out docs/results/policy-gradient-paddle.json
    python docs/examples/policy_gradient.py --plot docs/policy-gradient.png docs/results/policy-gradient-*.json

The task: given a number d, go on from each token t with t + d, modulo the vocabulary. An actor draws sequences with
top-p and writes a record; a trainer reads the record and takes four clipped steps (PPO) on it. Before the first of
these the trainer's weights are the actor's, so every importance ratio must be 1. It is, to the rounding of fp32, if
the trainer normalises over the recorded kept sets; over the whole vocabulary it is the mass that top-p kept.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from detsample import rollout

VOCAB, LENGTH, SEQUENCES = 16, 8, 64
HOW = {"temperature": 0.9, "top_p": 0.8}
HEAD_START = 1.0
"""By how much right tokens are likelier at the start, as after pretraining. A trainer over kept sets moves the kept
logits alone: what the filters never keep is never learned."""
EPOCHS, CLIP, RATE = 4, 0.2, 0.05


class Policy:
    """A table of logits by d and the last token, in torch or Paddle."""

    def __init__(self, framework: str, seed: int) -> None:
        self.module = import_module(framework)
        self.is_torch = framework == "torch"
        rng = np.random.default_rng(seed)
        table = rng.standard_normal((VOCAB * VOCAB, VOCAB), np.float32) / 2
        state = np.arange(VOCAB * VOCAB)
        table[state, (state // VOCAB + state) % VOCAB] += HEAD_START
        self.table = self._parameter(table)
        if self.is_torch:
            self.optimizer = self.module.optim.Adam([self.table], lr=RATE)
        else:
            self.optimizer = self.module.optimizer.Adam(RATE, parameters=[self.table])

    def _parameter(self, array: np.ndarray) -> Any:
        tensor = self.tensor(array)
        if self.is_torch:
            return tensor.requires_grad_()
        tensor.stop_gradient = False
        return tensor

    def tensor(self, array: np.ndarray) -> Any:
        return self.module.from_numpy(array.copy()) if self.is_torch else self.module.to_tensor(array)

    def logits(self, d: np.ndarray, last: np.ndarray) -> Any:
        """[N, V] of N states."""
        return self.tensor(np.eye(VOCAB * VOCAB, dtype=np.float32)[d * VOCAB + last]) @ self.table

    def logprobs_of_all(self, logits: Any, tokens: np.ndarray) -> Any:
        """Log probabilities of tokens over the whole vocabulary, at the temperature of the draw."""
        every = self.module.nn.functional.log_softmax(logits * (1 / HOW["temperature"]), -1)
        picked = self.tensor(np.eye(VOCAB, dtype=np.float32)[tokens])
        return (every * picked).sum(-1)

    def step(self, loss: Any) -> None:
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad() if self.is_torch else self.optimizer.clear_grad()


def act(policy: Policy, writer: rollout.Writer, round_number: int) -> None:
    """Draw sequences and record them."""
    sequence = round_number * SEQUENCES + np.arange(SEQUENCES)
    last = np.zeros(SEQUENCES, np.int64)
    for position in range(LENGTH):
        logits = policy.logits(sequence % VOCAB, last).detach()
        drawn = rollout.draw(logits, policy.tensor(sequence), position=position, **HOW)
        writer.append(drawn, sequence=sequence)
        last = np.asarray(drawn.token_ids)
    writer.flush()


def states(record: rollout.Record) -> tuple[np.ndarray, np.ndarray]:
    """(d, last token) of each token of a record, which is in order of sequence and position."""
    tokens = record.token_ids.reshape(-1, LENGTH)
    last = np.concatenate([np.zeros((len(tokens), 1), np.int32), tokens[:, :-1]], axis=1)
    return record.sequence % VOCAB, last.reshape(-1)


def train(framework: str, over: str, rounds: int, seed: int) -> dict[str, list[float]]:
    """Rewards and ratios, round by round, of training that normalises over ``"kept"`` sets or over ``"all"``."""
    policy = Policy(framework, seed)
    seen: dict[str, list[float]] = {"reward": [], "largest": [], "mean": []}
    with tempfile.TemporaryDirectory() as folder, rollout.Writer(folder) as writer:
        for number in range(rounds):
            act(policy, writer, number)
            (record,) = rollout.read(rollout.files(folder)[-1])
            d, last = states(record)
            if number == 0:  # the same weights give the same logits, hence the same tokens
                assert rollout.replay(record, policy.logits(d, last).detach()).same
            reward = (record.token_ids == (last + d) % VOCAB).astype(np.float32)
            advantage = policy.tensor((reward - reward.mean()) / (reward.std() + np.float32(1e-6)))
            old = policy.tensor(record.logprobs)
            for epoch in range(EPOCHS):
                logits = policy.logits(d, last)
                if over == "kept":
                    now = rollout.kept_logprobs(logits, record.kept, record.token_ids, temperature=record.temperature)
                    new = now.logprobs
                else:
                    new = policy.logprobs_of_all(logits, record.token_ids)
                ratio = (new - old).exp()
                if epoch == 0:
                    off = np.asarray(ratio.detach()).astype(np.float64) - 1
                    seen["largest"].append(float(np.abs(off).max()))
                    seen["mean"].append(float(off.mean()))
                clipped = ratio.clip(1 - CLIP, 1 + CLIP)
                policy.step(-policy.module.minimum(ratio * advantage, clipped * advantage).mean())
            seen["reward"].append(float(reward.mean()))
    return seen


def plot(target: Path, sources: list[Path]) -> None:
    """Ratios and rewards of all runs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    colour = {"kept": "tab:blue", "all": "tab:red"}
    name = {"kept": "over the recorded kept sets", "all": "over the whole vocabulary"}
    for source, line in zip(sources, ("-", "--"), strict=False):
        found = json.loads(source.read_text())
        for over in ("kept", "all"):
            runs = found["runs"][over]
            label = f"{found['framework']}, {name[over]}"
            largest = np.maximum(np.max([run["largest"] for run in runs], axis=0), 3e-8)  # 0 has no logarithm
            left.plot(largest, line, color=colour[over], lw=1, label=label)
            right.plot(np.mean([run["reward"] for run in runs], axis=0), line, color=colour[over], lw=1, label=label)
    left.set(yscale="log", xlabel="round", title="largest |importance ratio - 1|, first step", ylim=(2e-8, 1))
    right.set(xlabel="round", title=f"mean reward ({len(runs)} seeds)", ylim=(0, 1.02))
    right.legend(fontsize=7, loc="lower right")
    figure.savefig(target, dpi=110)


def main() -> None:
    """Train both ways and write what was seen, or plot it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path, help="files to plot")
    parser.add_argument("--framework", choices=["torch", "paddle"], default="torch")
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    if options.plot:
        plot(options.plot, options.results)
        return
    runs = {
        over: [train(options.framework, over, options.rounds, seed) for seed in range(options.seeds)]
        for over in ("kept", "all")
    }
    for over, found in runs.items():
        largest = max(max(run["largest"]) for run in found)
        mean = np.mean([run["mean"] for run in found])
        first, last = (np.mean([run["reward"][at] for run in found]) for at in (slice(0, 5), slice(-20, None)))
        print(f"{over}: |ratio - 1| <= {largest:.2g}, mean {mean:.2g}; reward {first:.3f} -> {last:.3f}")
    if options.out:
        rounded = {
            over: [{key: [float(f"{x:.4g}") for x in values] for key, values in run.items()} for run in found]
            for over, found in runs.items()
        }
        version = import_module(options.framework).__version__
        found = {"framework": options.framework, "version": version, "rounds": options.rounds, "runs": rounded}
        options.out.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
