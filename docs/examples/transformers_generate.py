"""transformers: three prompts in one batch with seeds of their own, one of them alone, and four samples of one prompt.

python docs/examples/transformers_generate.py
"""

import smollm2

from detsample.integrations.transformers import sampling

tokenizer, model = smollm2.load()
prompts = ["The capital of France is", "Once upon a time, in a small village by the sea,", "My favourite food is"]
how = {"temperature": 0.9, "top_k": 50, "top_p": 0.95}


def generate(prompts, seeds, samples=1):
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    arguments = sampling(seeds, attention_mask=inputs["attention_mask"], num_return_sequences=samples, **how)
    tokens = model.generate(**inputs, **arguments, max_new_tokens=12)
    return tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


for seed, text in zip([11, 12, 13], generate(prompts, [11, 12, 13]), strict=True):
    print(f"batch   seed {seed}: {text!r}")
print(f"alone   seed 13: {generate(prompts[2:], 13)[0]!r}")
for i, text in enumerate(generate(prompts[2:], 13, samples=4)):
    print(f"sample  {i} of seed 13: {text!r}")
