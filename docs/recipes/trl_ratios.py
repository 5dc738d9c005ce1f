"""TRL's GRPOTrainer with importance ratios of exactly 1: detsample draws, and the trainer weighs over the kept sets.

    python docs/recipes/trl_ratios.py

A small Llama of random weights learns to say "seven" on the CPU, in a minute. The ratio of a token is its probability
in the trainer over the one that it was drawn with. Nothing has been learned between the two, so it ought to be 1.
"""

from __future__ import annotations

import os
import tempfile

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

import detsample
from detsample import rollout

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
SAMPLES, LENGTH = 16, 8
HOW = {"temperature": 0.9, "top_p": 0.8}


@torch.no_grad()
def draw(prompts: list[str], trainer: KeptTrainer) -> dict[str, list[list[float]]]:
    """A rollout function of TRL's: the drawn tokens, and the log probability that each was drawn with.

    Each step has the shape that the trainer's has, so that its logits have the same bits: another shape is another
    order in which a matrix product adds.
    """
    prompt = trainer.processing_class(prompts, return_tensors="pt")["input_ids"]
    start, samples = prompt.shape[1], len(prompts)
    tokens = torch.nn.functional.pad(prompt, (0, LENGTH))
    # A seed for each sequence that is ever drawn, from the number of the step and its own.
    seeds = detsample.fold_in(detsample.fold_in(1, trainer.state.global_step), torch.arange(samples))
    kept, logprobs = [], []
    for position in range(start, start + LENGTH):
        logits = trainer.model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[:, position - 1]
        drawn = rollout.draw(logits, seeds, position=position, **HOW)
        tokens[:, position] = drawn.token_ids
        weighed = rollout.kept_logprobs(logits, drawn.kept, drawn.token_ids, temperature=HOW["temperature"])
        kept.append(drawn.kept)
        logprobs.append(weighed.logprobs)
    trainer.kept = torch.stack(kept, dim=1)  # [samples, LENGTH, words of 32 bits]
    drawn_with = torch.stack(logprobs, dim=1).tolist()
    return {"prompt_ids": prompt.tolist(), "completion_ids": tokens[:, start:].tolist(), "logprobs": drawn_with}


class KeptTrainer(GRPOTrainer):
    """Weighs each token over the set that it was drawn from."""

    over = "kept sets"

    def _generate_and_score_completions(self, inputs):
        made = super()._generate_and_score_completions(inputs)
        # The clipped objective starts from what the tokens were drawn with. What is added here is shuffled with it.
        return made | {"kept": self.kept, "old_per_token_logps": made["sampling_per_token_logps"]}

    def _compute_loss(self, model, inputs):
        self.kept = inputs["kept"]
        self.old = inputs["old_per_token_logps"]
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *_, **how):
        logits = model(input_ids=input_ids, attention_mask=attention_mask).logits[:, -logits_to_keep - 1 : -1]
        logits, tokens = logits.flatten(0, 1), input_ids[:, -logits_to_keep:].flatten()
        found = rollout.kept_logprobs(logits, self.kept.flatten(0, 1), tokens, temperature=HOW["temperature"])
        return self.compared(found.logprobs.view_as(self.old)), torch.zeros_like(self.old), None

    def compared(self, logps):
        """The same numbers, and a note of how far their ratios to the rollout's are from 1."""
        ratio = (logps.detach() - self.old).exp()
        self._metrics["train"]["ratio/least"].append(ratio.min().item())
        self._metrics["train"]["ratio/most"].append(ratio.max().item())
        return logps


class WholeTrainer(KeptTrainer):
    """TRL as it is: weighs each token over the whole vocabulary, whatever it was drawn from."""

    over = "whole vocabulary"

    def _get_per_token_logps_and_entropies(self, *given, **how):
        logps, *rest = GRPOTrainer._get_per_token_logps_and_entropies(self, *given, **how)
        return self.compared(logps), *rest


def policy() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The model and its tokenizer of a few words."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*WORDS, "pad", "end"])}, unk_token="pad"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(WORDS) + 2, pad_token_id=len(WORDS), eos_token_id=len(WORDS) + 1, **size)
    return LlamaForCausalLM(config), PreTrainedTokenizerFast(tokenizer_object=words, pad_token="pad", eos_token="end")


def seven(completions: list[str], **_: object) -> list[float]:
    """The reward: how many words are the right one."""
    return [text.split().count("seven") / LENGTH for text in completions]


def train(trainer_class: type[KeptTrainer], steps: int, folder: str) -> None:
    """Train, and print the ratios before anything is learned from a rollout, and the rewards."""
    model, tokenizer = policy()
    config = GRPOConfig(
        output_dir=folder, max_steps=steps, learning_rate=0.01, per_device_train_batch_size=SAMPLES,
        num_generations=SAMPLES, max_completion_length=LENGTH, **HOW, top_k=0, use_cpu=True, bf16=False, seed=0,
        logging_steps=1, report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    prompts = Dataset.from_dict({"prompt": ["one two three"] * SAMPLES})
    trainer = trainer_class(
        model, reward_funcs=seven, args=config, train_dataset=prompts,
        processing_class=tokenizer, rollout_func=draw,
    )  # fmt: skip
    trainer.train()
    log = [line for line in trainer.state.log_history if "reward" in line]
    least, most = min(line["ratio/least"] for line in log), max(line["ratio/most"] for line in log)
    print(f"weighed over the {trainer.over}: ratios from {least!r} to {most!r}")
    print(f"  {len(log)} steps, reward {log[0]['reward']:.2f} -> {log[-1]['reward']:.2f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for kind in (KeptTrainer, WholeTrainer):
            train(kind, 20, folder)
