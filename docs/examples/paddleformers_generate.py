"""PaddleFormers: three prompts in one batch with seeds of their own, and one of them alone.

python docs/examples/paddleformers_generate.py

The model is a small Llama with random weights, so that nothing has to be downloaded.
"""

import numpy as np
import paddle
from paddleformers.transformers import LlamaConfig, LlamaForCausalLM

from detsample.integrations.paddleformers import generate

config = LlamaConfig(
    vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4, max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    fuse_rms_norm=False,  # Paddle's CPU has no such kernel
)  # fmt: skip
model = LlamaForCausalLM(config)
values = np.random.default_rng(1)
for name, weight in model.named_parameters():
    if "norm" not in name:
        weight.set_value(values.standard_normal(weight.shape).astype("float32") * 0.2)
model.eval()
prompts, seeds = [[5, 9, 12, 40, 8], [7, 300, 21], [66, 3, 19, 4]], [11, 12, 13]


def batch(prompts):
    width = max(map(len, prompts))
    return {
        "input_ids": paddle.to_tensor([[0] * (width - len(p)) + p for p in prompts]),
        "attention_mask": paddle.to_tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]),
    }


how = {"temperature": 0.8, "top_p": 0.9, "max_new_tokens": 8}
if __name__ == "__main__":
    for seed, tokens in zip(seeds, generate(model, seeds, **batch(prompts), **how).token_ids.tolist(), strict=True):
        print(f"batch   seed {seed}: {tokens}")
    tokens, logprobs = generate(model, 13, **batch(prompts[2:]), **how)
    print(f"alone   seed 13: {tokens[0].tolist()}")
    print(f"        log probabilities: {[round(x, 3) for x in logprobs[0].tolist()]}")
    for i, tokens in enumerate(generate(model, 13, **batch(prompts[2:]), **how, num_return_sequences=2).token_ids):
        print(f"sample  {i} of seed 13: {tokens.tolist()}")
