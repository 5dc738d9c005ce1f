"""Plain and speculative decoding give one stream of tokens: over whole generations, for every kind of drafter."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import speculative_path
from kernel_path import GPU, bits
from toy_model import ToyModel

from detsample import reference

MODEL = ToyModel(vocab=31)
PROMPT = 5
Guess = Callable[[np.random.Generator, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Requests:
    """What requests are made of."""

    prompts: np.ndarray
    how: dict[str, np.ndarray]

    @property
    def count(self) -> int:
        return len(self.prompts)


def make_requests(rng: np.random.Generator, count: int) -> Requests:
    how = {
        "topp_seed": rng.integers(-(2**63), 2**63, count),
        "temperature": rng.choice(np.float32([0, 0.3, 0.7, 1, 1.5]), count),
        "top_k": rng.choice([0, 3, 10], count),
        "top_p": rng.choice(np.float32([0.5, 0.9, 1]), count),
        "min_p": rng.choice(np.float32([0, 0.05]), count),
    }
    return Requests(rng.integers(0, MODEL.vocab, (count, PROMPT)), how)


def plain(requests: Requests, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, log probabilities) of plain decoding, [B, length] each."""
    state = MODEL.start(requests.prompts)
    tokens = np.zeros((requests.count, length), np.int64)
    logprobs = np.zeros((requests.count, length), np.float32)
    for step in range(length):
        out = reference.sample(MODEL.logits(state), position=PROMPT + step, **requests.how)
        tokens[:, step], logprobs[:, step] = out.token_ids, out.logprobs
        state = MODEL.extend(state, out.token_ids)
    return tokens, logprobs


# What a drafter proposes, given the K tokens that plain decoding would give next: (tokens [B, K], lengths [B]).


def perfect(rng: np.random.Generator, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return truth, np.full(len(truth), truth.shape[1])


def random(rng: np.random.Generator, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rng.integers(0, MODEL.vocab, truth.shape), np.full(len(truth), truth.shape[1])


def adversarial(rng: np.random.Generator, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wrong everywhere, or wrong first and right behind, where nobody may look."""
    wrong = (truth + rng.integers(1, MODEL.vocab, truth.shape)) % MODEL.vocab
    later = rng.random((len(truth), 1)) < 0.5
    return np.where(later & (np.arange(truth.shape[1]) > 0), truth, wrong), np.full(len(truth), truth.shape[1])


def empty(rng: np.random.Generator, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return truth, np.zeros(len(truth), np.int64)


def changing(rng: np.random.Generator, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of any length, and right in seven of ten tokens."""
    right = rng.random(truth.shape) < 0.7
    return np.where(right, truth, random(rng, truth)[0]), rng.integers(0, truth.shape[1] + 1, len(truth))


DRAFTERS = {f.__name__: f for f in (perfect, random, adversarial, empty, changing)}


@dataclass
class Running:
    """Generations under way."""

    requests: Requests
    tokens: np.ndarray
    logprobs: np.ndarray
    done: np.ndarray
    state: np.ndarray

    def append(self, request: int, tokens: np.ndarray, logprobs: np.ndarray) -> None:
        room = min(len(tokens), self.tokens.shape[1] - int(self.done[request]))
        place = slice(int(self.done[request]), int(self.done[request]) + room)
        self.tokens[request, place], self.logprobs[request, place] = tokens[:room], logprobs[:room]
        self.done[request] += room

    def resume(self, some: np.ndarray) -> None:
        """States anew from all tokens, as if nothing had been kept."""
        for b in some:
            whole = np.append(self.requests.prompts[b], self.tokens[b, : self.done[b]])
            self.state[b] = MODEL.start(whole[None])[0]


def laid_out(
    rng: np.random.Generator, logits: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Logits padded, or ragged with their offsets and some rows of nobody; NaN wherever nobody may look."""
    slots = np.arange(logits.shape[1]) <= lengths[:, None]
    if rng.random() < 0.5:
        return np.where(slots[..., None], logits, np.float32(np.nan)), None
    beyond = np.full((int(rng.integers(0, 3)), MODEL.vocab), np.nan, np.float32)
    return np.concatenate([logits[slots], beyond]), np.append(0, np.cumsum(lengths + 1))


def speculative(
    rng: np.random.Generator, requests: Requests, truth: np.ndarray, drafter: Guess, most: int, verify: Any
) -> Running:
    """Decode with drafts of at most `most` tokens; requests pause, lose their state and change places in the batch."""
    count, length = truth.shape
    running = Running(
        requests, np.full((count, length), -2), np.zeros((count, length), np.float32), np.zeros(count, np.int64),
        MODEL.start(requests.prompts),
    )  # fmt: skip
    ahead = np.concatenate([truth, np.zeros((count, most), np.int64)], axis=1)
    while (running.done < length).any():
        left = np.flatnonzero(running.done < length)
        batch = rng.permutation(left)[: max(1, int(len(left) * rng.uniform(0.6, 1)))]
        if rng.random() < 0.1:
            running.resume(batch[: len(batch) // 4])
        coming = np.stack([ahead[b, running.done[b] : running.done[b] + most] for b in batch])
        drafts, lengths = drafter(rng, coming)
        states = [running.state[batch]]
        for column in drafts.T:
            states.append(MODEL.extend(states[-1], column))
        logits, row_offsets = laid_out(rng, MODEL.logits(np.stack(states, axis=1)), lengths)
        out = verify(
            logits, drafts, lengths, position=PROMPT + running.done[batch], row_offsets=row_offsets,
            **{name: values[batch] for name, values in requests.how.items()},
        )  # fmt: skip
        assert not out.status.any()
        assert (out.num_accepted <= lengths).all()
        assert ((out.token_ids >= 0).sum(axis=1) == out.num_accepted + 1).all()
        for row, b in enumerate(batch):
            running.append(b, out.token_ids[row, : out.num_accepted[row] + 1], out.logprobs[row])
        states = np.stack(states, axis=1)[np.arange(len(batch)), out.num_accepted]
        last = out.token_ids[np.arange(len(batch)), out.num_accepted]
        running.state[batch] = MODEL.extend(states, last)
    return running


SIZES = {"reference": (256, 80), "kernels": (12, 12) if GPU is None else (256, 400), "long": (256, 400)}


@functools.cache
def reference_streams(count: int, length: int) -> tuple[Requests, np.ndarray, np.ndarray]:
    requests = make_requests(np.random.default_rng(count), count)
    return requests, *plain(requests, length)


LONG = pytest.mark.skipif("DETSAMPLE_LONG" not in os.environ, reason="takes minutes: DETSAMPLE_LONG=1 runs it")


@pytest.mark.full("more drafters", every=3)
@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("path", ["reference", "kernels", pytest.param("long", marks=LONG)])
def test_speculative_streams_are_the_plain_ones(path: str, drafter: str) -> None:
    """Catches any draft, length, layout, neighbour or interruption that changes a token or a log probability: over
    100,000 tokens for all drafters together, for each of them where DETSAMPLE_LONG is set, and by compiled kernels.
    """
    requests, tokens, logprobs = reference_streams(*SIZES[path])
    verify = speculative_path.verify if path == "kernels" else reference.verify
    rng = np.random.default_rng(sum(map(ord, drafter)))
    running = speculative(rng, requests, tokens, DRAFTERS[drafter], 5, verify)
    assert np.array_equal(running.tokens, tokens)
    assert np.array_equal(bits(running.logprobs), bits(logprobs))


# ---- trees


def trees(rng: np.random.Generator, truth: np.ndarray, nodes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tokens, parents, number of nodes): random shapes in random order, with right and wrong branches."""
    count = len(truth)
    parents, tokens = np.full((count, nodes), -1), rng.integers(0, MODEL.vocab, (count, nodes))
    sizes = rng.integers(1, nodes + 1, count)
    for b in range(count):
        names = np.append(0, rng.permutation(np.arange(1, sizes[b])))  # a parent may stand behind its child
        depth = {0: 0}
        for i in range(1, sizes[b]):
            parent = names[i - 1] if rng.random() < 0.6 else names[rng.integers(0, i)]
            node = names[i]
            parents[b, node], depth[node] = parent, depth[parent] + 1
            if rng.random() < 0.7:
                tokens[b, node] = truth[b, depth[parent]]
    return tokens, parents, sizes


def tree_states(state: np.ndarray, tokens: np.ndarray, parents: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The state at each node, uint64 [B, N]."""
    states = np.zeros(tokens.shape, np.uint64)
    states[:, 0] = state
    for b in range(len(tokens)):
        known, left = {0}, set(range(1, sizes[b]))
        while left:
            for node in [i for i in left if parents[b, i] in known]:
                states[b, node] = MODEL.extend(states[b, parents[b, node]], tokens[b, node])
                known.add(node)
            left -= known
    return states


@pytest.mark.parametrize("path", ["reference", "kernels"])
def test_streams_of_trees_are_the_plain_ones(path: str) -> None:
    """Catches a position that does not follow the depth, a parent looked up in another request, a path that is not
    one, and duplicates among siblings that break it.
    """
    many = path == "reference" or GPU is not None
    verify = reference.verify_tree if path == "reference" else speculative_path.verify_tree
    rng = np.random.default_rng(77)
    count, length, nodes = (64, 80, 9) if many else (6, 10, 5)
    requests = make_requests(rng, count)
    tokens, logprobs = plain(requests, length)
    running = Running(
        requests, np.full((count, length), -2), np.zeros((count, length), np.float32), np.zeros(count, np.int64),
        MODEL.start(requests.prompts),
    )  # fmt: skip
    ahead = np.concatenate([tokens, np.zeros((count, nodes), np.int64)], axis=1)
    several = 0
    while (running.done < length).any():
        batch = rng.permutation(np.flatnonzero(running.done < length))
        coming = np.stack([ahead[b, running.done[b] : running.done[b] + nodes] for b in batch])
        drafts, parents, sizes = trees(rng, coming, nodes)
        states = tree_states(running.state[batch], drafts, parents, sizes)
        logits, row_offsets = laid_out(rng, MODEL.logits(states), sizes - 1)
        out = verify(
            logits, drafts, parents, position=PROMPT + running.done[batch], num_nodes=sizes, row_offsets=row_offsets,
            **{name: values[batch] for name, values in requests.how.items()},
        )  # fmt: skip
        assert not out.status.any()
        several += (out.num_accepted > 1).sum()
        for row, b in enumerate(batch):
            said = out.num_accepted[row] + 1
            path_nodes = out.nodes[row, :said]
            assert path_nodes[0] == 0
            assert (parents[row, path_nodes[1:]] == path_nodes[:-1]).all()
            assert (drafts[row, path_nodes[1:]] == out.token_ids[row, : said - 1]).all()
            assert (out.nodes[row, said:] == -1).all()
            running.append(b, out.token_ids[row, :said], out.logprobs[row])
            running.state[b] = MODEL.extend(states[row, path_nodes[-1]], out.token_ids[row, said - 1])
    assert several >= count // 2  # the trees are such that paths are accepted
    assert np.array_equal(running.tokens, tokens)
    assert np.array_equal(bits(running.logprobs), bits(logprobs))
