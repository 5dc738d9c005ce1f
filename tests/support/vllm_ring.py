"""The kernel behind a draw in vLLM, which counts draws on the device, beside NumPy: `python vllm_ring.py`, on a GPU."""

from __future__ import annotations

import numpy as np
import torch

from detsample.integrations.vllm.kernels import settle_tokens


def main() -> None:
    rng, wrong, calls = np.random.default_rng(0), 0, 0
    for slots, pitch, kind in ((8, 256, torch.int64), (8, 16, torch.int32), (3, 1024, torch.int64)):
        ring = torch.full((slots, pitch), 7, dtype=kind, device="cuda")
        invalid, due = torch.zeros(pitch, dtype=torch.int32, device="cuda"), np.zeros(pitch, np.int32)
        draws, expected = torch.zeros(1, dtype=torch.int64, device="cuda"), np.full((slots, pitch), 7)
        for number in range(50):
            rows = int(rng.integers(1, pitch + 1))
            tokens, status = rng.integers(-1, 1 << 18, rows), rng.integers(0, 16, rows) * (rng.random(rows) < 0.2)
            settle_tokens(
                torch.from_numpy(tokens).cuda(), torch.from_numpy(status.astype(np.int32)).cuda(), invalid, ring, draws
            )
            expected[number % slots, :rows] = np.maximum(tokens, 0)
            due[:rows] |= status.astype(np.int32)
            same = (ring.cpu().numpy() == expected).all() and (invalid.cpu().numpy() == due).all()
            calls, wrong = calls + 1, wrong + (not same or int(draws) != number + 1)
    print(f"{calls} calls, {wrong} wrong", flush=True)


if __name__ == "__main__":
    main()
