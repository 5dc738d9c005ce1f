"""vLLM: a request with a seed, alone and among neighbours with other parameters. No code of detsample's is called:
vLLM finds the plug-in by itself.

    python docs/examples/vllm_generate.py FOLDER

FOLDER is where the model is, or where docs/examples/smollm2.py shall put it.
"""

import sys
from pathlib import Path

import smollm2


def main() -> None:
    from vllm import LLM, SamplingParams

    llm = LLM(model=str(smollm2.save(Path(sys.argv[1]))), enforce_eager=True, dtype="float32", max_model_len=256)
    ours = SamplingParams(seed=13, temperature=0.9, top_k=50, top_p=0.95, max_tokens=12)
    others = [
        SamplingParams(seed=11, temperature=1.2, min_p=0.1, max_tokens=20),
        SamplingParams(temperature=1.0, top_k=5, max_tokens=7),
        SamplingParams(temperature=0.0, max_tokens=15),
    ]
    prompt = "My favourite food is"

    alone = llm.generate([prompt], [ours], use_tqdm=False)
    print(f"alone:            {alone[0].outputs[0].text!r}")
    among = llm.generate(["The capital of France is", "Once upon a time,", prompt, "1, 2, 3,"],
                         [*others[:2], ours, others[2]], use_tqdm=False)  # fmt: skip
    print(f"among neighbours: {among[2].outputs[0].text!r}")
    print(f"the same tokens:  {alone[0].outputs[0].token_ids == among[2].outputs[0].token_ids}")


if __name__ == "__main__":
    main()
