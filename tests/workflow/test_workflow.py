"""The workflow as a user runs it, on little data: real jobs, torchrun, DeepSpeed ZeRO-3."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from safetensors import safe_open

from persona.tables import schemas
from persona.tables.parquet import write_table
from persona.training.logs import read_log
from tests.workflow.conftest import command, environment, snakemake

ROOT = Path(__file__).parents[2]


def scheduled(run: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """The job counts that a dry run prints."""
    assert run.returncode == 0, run.stderr
    words = [line.split() for line in (run.stdout + run.stderr).splitlines()]
    return {
        w[0]: int(w[1]) for w in words if len(w) == 2 and w[1].isdigit() and w[0].isidentifier() and w[0] != "total"
    }


def test_all_stages_are_trained_and_scored_on_the_same_targets(finished: Path) -> None:
    files = sorted((finished / "results/dmsc/evaluation").rglob("scores.parquet"))
    assert len(files) == 4
    targets = [pl.read_parquet(file)["interaction_id"].to_list() for file in files]
    assert all(ids == targets[0] for ids in targets)
    trained = pl.read_parquet(finished / "results/dmsc/samples/everything.parquet")["user_id"]
    assert not set(trained) & set(pl.read_parquet(files[0])["user_id"])


def test_a_trained_model_loads_as_an_ordinary_one(finished: Path) -> None:
    from transformers import AutoModelForCausalLM

    run = finished / "results/dmsc/models/two_per_user/profile_and_context/tiny"
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    assert sum(p.numel() for p in model.parameters()) < 3_000_000
    # The names that transformers 4 and vLLM read: experts one by one, and the config's older keys.
    with safe_open(run / "model" / "model.safetensors", "pt") as weights:
        assert "model.layers.0.mlp.experts.7.down_proj.weight" in list(weights.keys())
    written = json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))
    assert written["architectures"] == ["Qwen3MoeForCausalLM"]
    assert written["num_experts"] == 8 and written["rope_theta"] > 0 and written["torch_dtype"] == "float32"
    tokenizer = json.loads((run / "model" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["counts"]["train_samples"] > 0
    assert manifest["parameters"]["processes"] == 1
    assert manifest["finished"].endswith("+00:00")
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    assert head.stdout.startswith((manifest["commit"] or "").removesuffix("-dirty"))


def test_transformers_4_reads_the_trained_model_and_computes_the_same(finished: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    library = Path(sys.prefix) / "transformers4"
    if not library.exists():
        pytest.skip("transformers 4 is not beside the environment: `make test` puts it there")
    folder = finished / "results/dmsc/models/two_per_user/profile_and_context/tiny/model"
    ids, text = [5, 77, 300, 9, 1000, 42, 7], "太好看了，推荐！😄"
    program = ROOT / "tests" / "workflow" / "load_with_transformers4.py"
    run = subprocess.run(
        [sys.executable, str(program), str(folder), json.dumps(ids), text],
        env=os.environ | {"PYTHONPATH": str(library)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["version"].startswith("4.") and found["problems"] == {}
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(folder)(input_ids=torch.tensor([ids])).logits[0]
    torch.testing.assert_close(torch.tensor(found["logits"]), logits, atol=1e-4, rtol=1e-4)
    assert found["ids"] == AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]


def test_the_report_of_a_finished_run_can_be_opened_alone(
    finished: Path, tmp_path: Path, small_config: dict[str, Any]
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    config = json.loads(json.dumps(small_config))
    config["stages"] = {"history": config["stages"]["history"]}
    config["evaluation"]["contrasts"] = []
    run = snakemake(tmp_path, config, "report")
    assert run.returncode == 0, run.stdout + run.stderr
    last, path = run.stdout.strip().replace("\n\n", "\n").splitlines()[-2:]
    assert path == "report: results/dmsc/report/index.html"
    assert last in (tmp_path / "results/dmsc/logs/report.log").read_text(encoding="utf-8")
    table = pl.read_csv(tmp_path / "results/dmsc/report/stages.csv")
    assert table["test_nll"].item() < table["untrained_test_nll"].item()
    page = (tmp_path / "results/dmsc/report/index.html").read_text(encoding="utf-8")
    assert "<svg" in page and 'src="http' not in page and 'href="http' not in page


def test_the_plan_counts_what_the_training_then_did(finished: Path, small_config: dict[str, Any]) -> None:
    run = snakemake(finished, small_config, "plan")
    assert run.returncode == 0, run.stderr
    assert "| all_data " in run.stdout and "Measured (2 x AMD EPYC, 2026-11-26): " in run.stdout
    plan = json.loads((finished / "results/dmsc/plan/plan.json").read_text(encoding="utf-8"))
    for name, stage in small_config["stages"].items():
        folder = finished / "results/dmsc/models" / stage["sample"] / stage["ablation"] / stage["recipe"]
        steps = [record for record in read_log(folder / "train_log.jsonl") if record["type"] == "step"]
        assert plan[name]["steps_per_epoch"] == len(steps)
        assert plan[name]["samples"] == sum(step["samples"] for step in steps)
        assert plan[name]["tokens_per_epoch"] == sum(step["tokens"] for step in steps)
        assert plan[name]["computed_tokens_per_epoch"] == sum(step["computed_tokens"] for step in steps)
        assert plan[name]["computed_tokens_per_epoch"] < plan[name]["tokens_per_epoch"] - plan[name]["samples"]
        assert plan[name]["loss_tokens_per_epoch"] == sum(step["loss_tokens"] for step in steps)
        assert plan[name]["micro_steps_per_step"] * len(steps) == pytest.approx(sum(s["micro_steps"] for s in steps))


def test_a_second_run_does_nothing(finished: Path, small_config: dict[str, Any]) -> None:
    assert scheduled(snakemake(finished, small_config, "-n", "train_all", "evaluate_all")) == {}


def test_a_stage_with_another_recipe_schedules_its_training_alone(finished: Path, small_config: dict[str, Any]) -> None:
    config = json.loads(json.dumps(small_config))
    config["recipes"]["slow"] = config["recipes"]["tiny"] | {"learning_rate": 1.0e-3}
    config["stages"]["fifth"] = config["stages"]["quick"] | {"recipe": "slow"}
    assert scheduled(snakemake(finished, config, "-n", "train_all", "evaluate_all")) == {
        "train": 1,
        "describe_stage": 1,
        "train_all": 1,
        "evaluate": 1,
        "measure": 1,
        "evaluate_all": 1,
    }


@pytest.mark.parametrize(("cohort", "trainings"), [("test", 0), ("val", 4)])
def test_only_the_size_of_val_decides_about_trainings(
    finished: Path, small_config: dict[str, Any], cohort: str, trainings: int
) -> None:
    config = json.loads(json.dumps(small_config))
    config["cohorts"][cohort]["max_users"] = 3
    jobs = scheduled(snakemake(finished, config, "-n", "train_all", "evaluate_all"))
    assert jobs.get("train", 0) == trainings
    # The new targets are audited and scored.
    assert jobs["sample"] == 1 and jobs["audit_sample"] == 3 and jobs["evaluate"] == 4


def test_a_wrong_configuration_is_one_line_before_any_job(tmp_path: Path, small_config: dict[str, Any]) -> None:
    run = snakemake(tmp_path, small_config | {"dataset": "dmcs"}, "train_all")
    assert run.returncode != 0
    assert "configuration: dataset: got 'dmcs' (did you mean dmsc?)" in run.stderr
    assert not (tmp_path / "results").exists()


def test_files_and_the_command_line_change_single_keys(tmp_path: Path, small_config: dict[str, Any]) -> None:
    (tmp_path / "longer.yaml").write_text("recipes: {tiny: {max_epochs: 9, warmup_ratio: 1e-2}}", encoding="utf-8")
    changes = ["recipes={tiny: {learning_rate: 1e-5, gradient_checkpointing: true}}", "split={seed: 7}", "log_to=[]"]
    start = command(tmp_path, small_config, "-n", "-p", "train_all", "--cores", "2", "--config", *changes)
    run = subprocess.run(
        [*start, "longer.yaml"], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    for setting in ('"max_epochs": 9', '"warmup_ratio": 0.01', '"learning_rate": 1e-05', '"seed": 7'):
        assert setting in run.stdout


def test_texts_of_the_configuration_reach_the_commands_as_they_were_written(
    tmp_path: Path, small_config: dict[str, Any]
) -> None:
    """Braces, which Snakemake formats, and what a shell reads: quotes, spaces, dollar signs, backquotes, new lines."""
    config = json.loads(json.dumps(small_config))
    task, path = 'What {user} of {{sample}} "wrote", it\'s $HOME `id` \\ %s {0}\n{ablation}', "re sults/it's $HOME"
    texts = {"task": task, "cue": '{model}\'s "$1":', "rating_cue": "{recipe} {stars}:"}
    config["datasets"]["dmsc"] |= texts | {"path": f'{path}/`raw` "$1".csv'}
    config |= {"results_dir": path, "hardware": {"measured": task}}
    config["stages"]["nothing"] = config["stages"]["quick"] | {"ablation": "none"}
    prompts = [f"{path}/dmsc/prompts/{sample}/profile.parquet" for sample in ("two_per_user", "test")]
    run = snakemake(tmp_path, config, *prompts)
    assert run.returncode == 0, run.stdout + run.stderr
    for file in prompts:
        lines = pl.read_parquet(tmp_path / file)["prompt"][0].splitlines()
        assert lines[-1] == texts["cue"] and lines[lines.index("[TASK]") + 1] == task.replace("\n", " ")
    planned = snakemake(tmp_path, config, "-n", "-p", "plan", "report").stdout
    assert planned.count("--shows-user true") == 6 and planned.count("--shows-user false") == 2
    for text in (task, texts["rating_cue"]):
        assert shlex.quote(json.dumps(text, ensure_ascii=False))[1:-1] in planned


def test_a_wrong_target_is_answered_with_the_nearest(tmp_path: Path, small_config: dict[str, Any]) -> None:
    run = snakemake(tmp_path, small_config, "train_al")
    assert run.returncode != 0
    assert "error: train_al: no such target; did you mean train_all?" in run.stderr
    assert "Traceback" not in run.stderr and "MissingRuleException" not in run.stderr


@pytest.mark.parametrize("name", ["dmsc_30b", "dmsc_30b_full"])
def test_a_dry_run_of_the_real_configuration_shows_all_stages(tmp_path: Path, name: str) -> None:
    config = yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert scheduled(snakemake(tmp_path, config, "-n", "train_all"))["train"] == 4


@pytest.mark.parametrize(
    ("name", "buckets", "rendered"), [("chameleons", 1, 3), ("chameleons", 2, 3), ("dmsc_30b", 1, 0)]
)
def test_impostors_have_prompts_of_their_own_where_prompts_show_a_conversation(
    tmp_path: Path, name: str, buckets: int, rendered: int
) -> None:
    config = yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text(encoding="utf-8")) | {"buckets": buckets}
    jobs = scheduled(snakemake(tmp_path, config, "-n", "evaluate_all", "plan"))
    assert jobs.get("render_impostors", 0) == rendered


def test_a_missing_raw_file_is_named(tmp_path: Path, small_config: dict[str, Any]) -> None:
    config = json.loads(json.dumps(small_config))
    config["datasets"]["dmsc"] = {"format": "dmsc_csv", "path": "data/nothing.csv"}
    run = snakemake(tmp_path, config, "train_all")
    assert run.returncode != 0
    assert "error: data/nothing.csv: no such file; put the raw data there or set datasets.dmsc.path" in run.stderr
    # Snakemake's own words are in its log.
    assert run.stderr.splitlines()[-1] == "failed: raw_data; its log: results/dmsc/logs/raw_data.log"
    assert not {"Select jobs to execute...", "Job stats:", "Building DAG of jobs..."} & set(run.stderr.splitlines())
    [log] = (tmp_path / ".snakemake" / "log").iterdir()
    assert {"Job stats:", "Building DAG of jobs..."} & set(log.read_text(encoding="utf-8").splitlines())


@pytest.mark.slow
def test_seeds_of_a_recipe_are_averaged(finished: Path, tmp_path: Path, small_config: dict[str, Any]) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    config = json.loads(json.dumps(small_config))
    config["stages"] = {"quick": config["stages"]["quick"] | {"seeds": [43]}}
    config["evaluation"]["contrasts"] = []
    run = snakemake(tmp_path, config, "evaluate_all")
    assert run.returncode == 0, run.stdout + run.stderr
    folder = tmp_path / "results/dmsc/evaluation/two_per_user/profile_and_context"
    both = [
        pl.read_parquet(folder / name / "scores.parquet").sort("interaction_id") for name in ("tiny", "tiny_seed43")
    ]
    nll = sum(table["nll"] for table in both) / 2
    assert not both[0]["nll"].equals(both[1]["nll"])
    test = both[0]["cohort"] == "test"
    metrics = json.loads((folder / "tiny_mean_43" / "metrics.json").read_text(encoding="utf-8"))
    expected = nll.filter(test).sum() / both[0]["n_characters"].filter(test).sum()
    assert metrics["likelihood"]["nll"]["value"] == pytest.approx(expected)


def test_a_planted_leak_ends_the_workflow_before_training(
    finished: Path, tmp_path: Path, small_config: dict[str, Any]
) -> None:
    """A prompt file of an earlier step in which a history entry is of the target's own day."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    for name in ("models", "runs"):
        shutil.rmtree(tmp_path / "results/dmsc" / name)
    path = tmp_path / "results/dmsc/prompts/two_per_user/profile_and_history.parquet"
    prompts = pl.read_parquet(path)
    first = prompts.filter(pl.col("history_ids").list.len() > 0)["interaction_id"][0]
    leaky = pl.when(pl.col("interaction_id") == first).then(pl.concat_list("history_ids", "interaction_id"))
    planted = prompts.with_columns(history_ids=leaky.otherwise("history_ids"))
    write_table(planted, path, schemas.PROMPTS)
    run = snakemake(tmp_path, small_config, "train_history", "--rerun-triggers", "mtime")
    assert run.returncode != 0
    assert (
        f"leak audit: history_not_earlier: 1 of {prompts.height} targets, none is ever allowed, "
        f"the first is interaction {first}" in run.stderr
    )
    findings = tmp_path / "results/dmsc/audit/two_per_user/profile_and_history.findings.csv"
    late = pl.read_csv(findings).filter(pl.col("check") == "history_not_earlier")
    assert late["interaction_id"].to_list() == [first]
    assert not (tmp_path / "results/dmsc/models").exists()
