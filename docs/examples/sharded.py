"""A tensor-parallel lm_head: two processes, each with half of the vocabulary, draw the tokens of the whole rows.

    python docs/examples/sharded.py

With GPUs, say "nccl" and put tensors on `torch.device("cuda", rank)`; nothing else changes.
"""

import numpy as np
import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing

import detsample
from detsample import sharded

VOCAB, HIDDEN, ROWS = 4096, 64, 4


def one_rank(rank: int, ranks: int, port: int) -> None:
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    everywhere = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, HIDDEN, generator=everywhere)
    weights = torch.randn(VOCAB, HIDDEN, generator=everywhere) / 3
    seeds = torch.tensor([detsample.fold_in(1234, request) for request in range(ROWS)])

    width = VOCAB // ranks
    local_head = weights[rank * width :][:width]  # what this rank would have loaded
    local_logits = hidden @ local_head.T
    out = sharded.sample(local_logits, seeds, vocab_start=rank * width, vocab=VOCAB, position=7, top_k=50, top_p=0.95)

    # A matrix product may round otherwise when it is cut, so the rows to compare with are made of the same shards.
    shards = [torch.empty_like(local_logits) for _ in range(ranks)]
    distributed.all_gather(shards, local_logits)
    whole = detsample.sample(torch.cat(shards, dim=1), seeds, position=7, top_k=50, top_p=0.95)
    assert np.array_equal(out.token_ids.numpy(), whole.token_ids.numpy())
    print(f"rank {rank}: tokens {out.token_ids.tolist()}, {VOCAB * 4} bytes a row not gathered")
    distributed.destroy_process_group()


if __name__ == "__main__":
    multiprocessing.spawn(one_rank, (2, 29541), 2)
