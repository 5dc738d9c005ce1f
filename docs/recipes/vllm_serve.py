"""A vLLM server behind an OpenAI client: requests with a seed have the same tokens alone and in a crowd.

    VLLM_BATCH_INVARIANT=1 vllm serve FOLDER --port 8000   # beside it, detsample is installed; nothing else is said
    python docs/recipes/vllm_serve.py http://127.0.0.1:8000/v1

Batch invariance is vLLM's own setting. It gives a request the same logits whatever else is in the batch; detsample then
gives it the same tokens. vLLM has it on GPUs only; without it a token differs where the logits do.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from openai import AsyncOpenAI

PROMPTS = ["My favourite food is", "The capital of France is", "Once upon a time,", "1, 2, 3,"]
HOW: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "max_tokens": 16}


class Server:
    """The completions of a server's model."""

    def __init__(self, url: str) -> None:
        self.client = AsyncOpenAI(base_url=url, api_key="none")
        self.model = ""

    async def complete(self, prompt: str, seed: int, **how: Any) -> str:
        """The text of a request with a seed. What is not OpenAI's goes into extra_body."""
        if not self.model:
            self.model = (await self.client.models.list()).data[0].id
        extra = {"top_k": 50, "min_p": 0.02}
        made = await self.client.completions.create(
            model=self.model, prompt=prompt, seed=seed, **HOW | how, extra_body=extra
        )
        return made.choices[0].text


async def main(url: str) -> bool:
    """Each prompt alone, then all at once among others of other lengths; whether each has its text."""
    server, numbers = Server(url), range(8)
    alone = [await server.complete(PROMPTS[i % 4], seed=100 + i) for i in numbers]
    others = [server.complete(PROMPTS[i % 4], seed=200 + i, max_tokens=5 + i, temperature=1.3) for i in numbers]
    crowd = await asyncio.gather(*(server.complete(PROMPTS[i % 4], seed=100 + i) for i in numbers), *others)
    for i in range(4):
        print(f"seed {100 + i}: {PROMPTS[i]}{alone[i]!r}")
    same = sum(one == other for one, other in zip(alone, crowd, strict=False))
    print(f"the same text alone and among 15 others: {same} of {len(alone)}")
    print("another seed, another text:", await server.complete(PROMPTS[0], seed=7) != alone[0])
    return same == len(alone)


if __name__ == "__main__":
    sys.exit(not asyncio.run(main(sys.argv[1])))
