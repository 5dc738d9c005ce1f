"""Plain and speculative decoding give one stream of tokens: over whole generations, for every kind of drafter."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import processing_cases
import pytest
import speculative_path
from kernel_path import GPU, bits
from levels import amount
from toy_model import ToyModel

from detsample import reference
from detsample.processing import Processing, apply

MODEL = ToyModel(vocab=31)
PROMPT = 5
Guess = Callable[[np.random.Generator, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Requests:
    """What requests are made of."""

    prompts: np.ndarray
    how: dict[str, np.ndarray]
    asked: dict[str, np.ndarray] | None = None
    """Penalties, and a grammar with them: which tokens may follow is a function of the token before."""

    def processed(
        self, some: np.ndarray, logits: np.ndarray, tokens: np.ndarray, done: np.ndarray, drafts: Any, by: Any
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(logits as some of the requests ask, behind their tokens so far and drafts; the sets of allowed tokens)."""
        if self.asked is None:
            return logits, {}
        output = np.where(np.arange(tokens.shape[1]) < done[some, None], tokens[some], -1)
        asked = Processing(prompt=self.prompts[some], output=output, **{n: x[some] for n, x in self.asked.items()})
        before = np.append(self.prompts[:, -1:], tokens, axis=1)[some, done[some]]
        if drafts is not None:
            before = np.append(before[:, None], drafts, axis=1)
        return by(logits, asked, {} if drafts is None else {"draft_tokens": drafts}), {"allowed": GRAMMAR[before]}

    @property
    def count(self) -> int:
        return len(self.prompts)


def by_reference(logits: np.ndarray, asked: Processing, how: dict[str, Any]) -> np.ndarray:
    return apply(logits, asked, **how)


GRAMMAR = np.random.default_rng(6).integers(-(2**31), 2**31, (MODEL.vocab, 1)).astype(np.int32)
"""For each token, which ones may follow."""


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
    state, every = MODEL.start(requests.prompts), np.arange(requests.count)
    tokens = np.zeros((requests.count, length), np.int64)
    logprobs = np.zeros((requests.count, length), np.float32)
    for step in range(length):
        done = np.full(requests.count, step)
        logits, sets = requests.processed(every, MODEL.logits(state), tokens, done, None, by_reference)
        out = reference.sample(logits, position=PROMPT + step, **sets, **requests.how)
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
    rng: np.random.Generator, logits: np.ndarray, lengths: np.ndarray, sets: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Logits padded, or ragged with their offsets and some rows of nobody; NaN wherever nobody may look. The sets of
    allowed tokens alike.
    """
    slots = np.arange(logits.shape[1]) <= lengths[:, None]
    if rng.random() < 0.5:
        return np.where(slots[..., None], logits, np.float32(np.nan)), sets
    beyond = np.full((int(rng.integers(0, 3)), MODEL.vocab), np.nan, np.float32)
    sets = {name: np.concatenate([x[slots], np.zeros((len(beyond), 1), x.dtype)]) for name, x in sets.items()}
    return np.concatenate([logits[slots], beyond]), {"row_offsets": np.append(0, np.cumsum(lengths + 1)), **sets}


def speculative(
    rng: np.random.Generator, requests: Requests, truth: np.ndarray, drafter: Guess, most: int, verify: Any,
    by: Any = by_reference,
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
        logits, sets = requests.processed(
            batch, MODEL.logits(np.stack(states, axis=1)), running.tokens, running.done, drafts, by
        )
        logits, more = laid_out(rng, logits, lengths, sets)
        out = verify(
            logits, drafts, lengths, position=PROMPT + running.done[batch], **more,
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


@functools.cache
def processed_streams(count: int, length: int) -> tuple[Requests, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count + 1)
    asked = {
        "repetition_penalty": rng.choice(np.float32([1, 1.2, 0.8]), count),
        "frequency_penalty": rng.choice(np.float32([0, 0.3]), count),
        "presence_penalty": rng.choice(np.float32([0, 0.5, -0.5]), count),
        "min_length": rng.integers(0, length, count), "stop": rng.integers(0, MODEL.vocab, (count, 2)),
        "bad_words": rng.integers(0, MODEL.vocab, (count, 8, 2)),
    }  # fmt: skip
    requests = replace(make_requests(rng, count), asked=asked)
    return requests, *plain(requests, length)


@pytest.mark.full("more drafters", every=3)
@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("path", ["reference", "kernels"])
def test_streams_with_penalties_and_a_grammar_are_the_plain_ones(path: str, drafter: str) -> None:
    """Catches a row that counts a token of its own or of a draft behind it, or one draft less; another row's grammar:
    over 20,000 tokens for each drafter.
    """
    short = path == "kernels" and GPU is None
    requests, tokens, logprobs = processed_streams(*((6, 8) if short else (250, amount(80, 8))))
    kernels = (speculative_path.verify, processing_cases.by_kernel)
    verify, by = kernels if path == "kernels" else (reference.verify, by_reference)
    running = speculative(np.random.default_rng(5), requests, tokens, DRAFTERS[drafter], 5, verify, by)
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
        logits, more = laid_out(rng, MODEL.logits(states), sizes - 1, {})
        out = verify(
            logits, drafts, parents, position=PROMPT + running.done[batch], num_nodes=sizes, **more,
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
