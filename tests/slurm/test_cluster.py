"""Trainings on a cluster: where they run, over several nodes, and what is the same as on one machine."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from persona.training.logs import read_log
from tests.slurm.conftest import clients, on_slurm
from tests.workflow.conftest import ROOT, snakemake

pytestmark = pytest.mark.slow

RESULTS = Path("results") / "dmsc"
QUICK = RESULTS / "models" / "two_per_user" / "profile_and_context" / "tiny"


def losses(folder: Path, model: Path = QUICK) -> list[float]:
    return [record["loss"] for record in read_log(folder / model / "train_log.jsonl") if record["type"] == "step"]


@pytest.fixture
def my_cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The profile of `docs/cluster.md`: the project's, with the page's lines for one's own cluster.

    A training takes eight pretended GPUs, though it runs on CPU processes.
    """
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    own = next(block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "slurm_partition" in block)
    own = own.replace("train: {mem_mb", "train: {gpu: 8, mem_mb")
    folder = tmp_path_factory.mktemp("profiles") / "my_cluster"
    folder.mkdir()
    profile = (ROOT / "profiles" / "slurm" / "config.yaml").read_text(encoding="utf-8")
    (folder / "config.yaml").write_text(f"{profile}\n{own}", encoding="utf-8")
    return folder


def test_a_cluster_makes_what_one_machine_makes(
    local: Path, tmp_path: Path, config: dict[str, Any], my_cluster: Path
) -> None:
    run = on_slurm(tmp_path, config, "train_all", profile=str(my_cluster))
    assert run.returncode == 0, run.stdout + run.stderr
    files = [file.relative_to(local) for file in (local / RESULTS).rglob("*.parquet")]
    files += [QUICK / "model" / "model.safetensors", QUICK / "model" / "tokenizer.json"]
    assert len(files) > 10
    for file in files:
        assert (tmp_path / file).read_bytes() == (local / file).read_bytes(), file

    assert {job["Partition"] for job in jobs()} == {"gpu"}
    trainings = [job for job in jobs() if "rule_train" in job["Comment"]]
    assert {job["NodeList"] for job in trainings} == {"n1", "n2"}  # eight GPUs each: one stage a node
    assert {job["TimeLimit"] for job in trainings} == {"02:00:00"}
    starts, ends = ([job[name] for job in trainings] for name in ("StartTime", "EndTime"))
    assert max(starts) < min(ends)  # side by side
    small = [job["Comment"] for job in jobs() if "group" in job["Comment"] or "samples" in job["Comment"]]
    assert len(small) == 1  # split, samples and their audits are one job

    again = snakemake(tmp_path, config, "train_all", "--dry-run")
    assert "Nothing to be done" in again.stdout + again.stderr


def jobs() -> list[dict[str, str]]:
    """What the cluster remembers of its jobs."""
    records = clients("scontrol", "show", "job").split("\n\n")
    return [dict(re.findall(r"(\w+)=(\S*)", record)) for record in records if "JobId=" in record]


def test_a_cluster_goes_on_with_what_one_machine_made(prepared: Path, config: dict[str, Any]) -> None:
    run = on_slurm(prepared, config, "train_quick", "--dry-run")
    assert re.search(r"train +1\n", run.stdout)
    assert re.search(r"total +3\n", run.stdout)  # with the stage's description


@pytest.fixture
def over_four_processes(config: dict[str, Any]) -> dict[str, Any]:
    config = copy.deepcopy(config)
    config["recipes"]["tiny"] |= {"cpu_processes": 4, "gradient_accumulation_steps": 4}
    config["recipes"]["nodes"] = config["recipes"]["tiny"] | {"nodes": 2, "cpu_processes": 2}
    config["stages"]["slow"] = config["stages"]["quick"] | {"recipe": "nodes"}
    return config


@pytest.mark.long
def test_two_nodes_of_two_processes_learn_as_one_of_four(prepared: Path, over_four_processes: dict[str, Any]) -> None:
    # GPUs are pretended, but asked for on each node as a training on GPUs would.
    run = on_slurm(prepared, over_four_processes, "train_all", "--set-resources", "train:gres=gpu:2")
    assert run.returncode == 0, run.stdout + run.stderr
    one, two = losses(prepared), losses(prepared, QUICK.parent / "nodes")
    assert len(one) > 5
    assert two == pytest.approx(one, rel=1e-6)
    assert any(job["NodeList"] == "n[1-2]" for job in jobs())


def test_several_nodes_without_a_cluster_are_refused(prepared: Path, over_four_processes: dict[str, Any]) -> None:
    run = snakemake(prepared, over_four_processes, "train_slow")
    assert run.returncode != 0
    assert "recipes.nodes asks for nodes: 2" in run.stderr
    assert "rule train:" not in run.stderr
