"""Ray Data audits a record of rollouts, a file a task: each token must be the one that its seed draws.

    python docs/recipes/ray_audit.py

On one machine Ray starts itself. On a cluster the workers must see the files under the same names.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import ray

from detsample import rollout

VOCAB, SEQUENCES, LENGTH, FILES = 512, 64, 16, 4


def logits(sequence: np.ndarray, position: np.ndarray) -> np.ndarray:
    """The model: here noise that depends on the sequence and the position. A real one is asked for the texts so far."""
    rows = [np.random.default_rng(pair) for pair in zip(sequence.tolist(), position.tolist(), strict=True)]
    return np.stack([row.standard_normal(VOCAB, np.float32) * np.float32(3) for row in rows])


def logits_of(record: rollout.Record) -> np.ndarray:
    """What `audit` asks for: the logits of a record's tokens."""
    return logits(record.sequence, record.position)


def record(folder: Path, sequence: np.ndarray) -> None:
    """Draw some sequences and write them into one file."""
    with rollout.Writer(folder) as writer:
        for position in range(LENGTH):
            x = logits(sequence, np.full_like(sequence, position))
            drawn = rollout.draw(x, sequence, position=position, temperature=0.9, top_p=0.9)
            writer.append(drawn, sequence=sequence)


def audited(row: dict[str, str]) -> dict[str, object]:
    """The task: Ray has the processes already, so the audit runs in this one."""
    with ThreadPoolExecutor(1) as here:
        (found,) = rollout.audit(row["file"], logits_of, executor=here).files
    return {"file": found.path.name, "tokens": found.replay.tokens, "same": found.same, "found": str(found)}


def main() -> None:
    """Record, audit, flip one bit of one file, and audit again."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    with tempfile.TemporaryDirectory() as folder:
        for part in np.array_split(np.arange(SEQUENCES), FILES):
            record(Path(folder), part)
        files = [{"file": str(file)} for file in rollout.files(folder)]
        rows = ray.data.from_items(files).map(audited).take_all()
        print(f"{sum(row['tokens'] for row in rows):,} tokens in {len(rows)} files")
        print("not as recorded:", [row["found"] for row in rows if not row["same"]])
        damaged = Path(files[2]["file"])
        content = bytearray(damaged.read_bytes())
        content[len(content) // 2] ^= 1
        damaged.write_bytes(content)
        rows = ray.data.from_items(files).map(audited).take_all()
        print("after one bit has flipped:", *(row["found"].rpartition("/")[2] for row in rows if not row["same"]))
    ray.shutdown()


if __name__ == "__main__":
    main()
