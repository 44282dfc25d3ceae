"""`make laptop` on the real slice, with a random model of SmolLM2's structure and one stage."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml
from benchmarks.corpus import gpt2_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from tests.conftest import REAL_DATA
from tests.workflow.conftest import ROOT, environment


def one_small_stage(folder: Path) -> Path:
    """The shipped configuration with one stage and few users."""
    config = yaml.safe_load((ROOT / "config" / "laptop.yaml").read_text(encoding="utf-8"))
    config["cohorts"]["val"]["max_users"], config["cohorts"]["test"]["max_users"] = 8, 20
    config["samples"]["two_per_user"]["max_users"] = 20
    config["generation"] = {"n_targets": 4, "max_new_tokens": 8}
    config["evaluation"]["contrasts"] = []
    config["stages"] = {"full": config["stages"]["full"]}
    (folder / "laptop.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder / "laptop.yaml"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Llama layers, tied embeddings, a tokenizer of GPT-2's kind."""
    if not (REAL_DATA / "chameleons").exists():
        pytest.skip("the real slice chameleons/ is not beside this repository")
    lines = (REAL_DATA / "chameleons" / "movie_lines.txt").read_text(encoding="iso-8859-1").splitlines()[:2000]
    tokenizer = gpt2_tokenizer([line.split(" +++$+++ ")[-1] for line in lines], 1000)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "smollm2")
    tokenizer.save_pretrained(tmp_path / "smollm2")
    return tmp_path / "smollm2"


def laptop(model: Path, data: Path) -> list[str]:
    """The command of the Makefile's target, without what comes before it."""
    made = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "laptop", f"MODEL={model}", f"DATA={data}"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.replace("\\\n", " ")  # fmt: skip
    words = shlex.split(made[made.index("snakemake --cores") :])
    return words


@pytest.mark.long  # tests/unit/training/test_structures.py trains the same structure
def test_a_model_of_smollm2s_structure_learns_real_dialogue(model: Path, tmp_path: Path) -> None:
    words = laptop(model, REAL_DATA / "chameleons")
    words[words.index("config/laptop.yaml")] = str(one_small_stage(tmp_path))
    words[1:1] = ["--snakefile", str(ROOT / "Snakefile")]
    run = subprocess.run(
        words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    results = tmp_path / "results" / "chameleons"
    manifest = json.loads((results / "models/two_per_user/full/laptop/manifest.json").read_text(encoding="utf-8"))
    assert manifest["parameters"]["cpu_dtype"] == "bfloat16"
    learned = pl.read_csv(results / "report" / "stages.csv")
    assert learned["stage"].to_list() == ["full"]
    assert learned["test_nll"].item() < learned["untrained_test_nll"].item()


def test_where_the_data_is_not_there_it_says_what_to_get(tmp_path: Path) -> None:
    command = ["make", "--old-file", "install", "laptop", f"DATA={tmp_path}"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert f"error: {tmp_path}/movie_lines.txt: no such file; get the Cornell Movie-Dialogs Corpus" in run.stdout
