"""A wrong configuration is one line with the key's path and what is allowed."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from persona.config.checks import load_config, notes
from persona.config.models import Config, Dataset, Recipe, Stage
from persona.config.reference import schema_text, with_settings_table
from persona.errors import PersonaError
from persona.prompts import load_style

ROOT = Path(__file__).parents[2]
BY_TIME = {"by": "time", "val_from": "2015-01-01", "test_from": "2016-01-01"}


def test_the_conda_environment_has_the_pins_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    environment = yaml.safe_load((ROOT / "workflow" / "envs" / "persona.yaml").read_text(encoding="utf-8"))
    pins = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    assert environment["dependencies"][-1]["pip"] == sorted(pins)


def test_the_schema_for_editors_is_that_of_the_configuration() -> None:
    schema = (ROOT / "workflow" / "schemas" / "config.schema.json").read_text(encoding="utf-8")
    assert schema == schema_text(), "renew it with `make schema`"


def test_the_table_of_the_configuration_page_is_that_of_the_settings() -> None:
    page = (ROOT / "config" / "README.md").read_text(encoding="utf-8")
    assert page == with_settings_table(page), "renew it with `make schema`"


def test_every_setting_has_a_description() -> None:
    schema = Config.model_json_schema()
    models = [schema, *schema["$defs"].values()]
    without = [
        f"{m['title']}.{key}" for m in models for key, field in m["properties"].items() if "description" not in field
    ]
    assert not without


def test_prefixes_are_shared_by_default_where_that_is_exact() -> None:
    recipe = {"model": "m", "deepspeed": "d", "gpus": 8}
    assert Recipe.model_validate(recipe).shares_prefixes
    for dropout, shares in ((0.05, False), (0.0, True)):
        lora = {"target_modules": ["q_proj"], "dropout": dropout}
        assert Recipe.model_validate(recipe | {"lora": lora}).shares_prefixes is shares


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "config").glob("*.yaml")))
def test_the_shipped_configurations_are_right(name: str) -> None:
    load_config(yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text(encoding="utf-8")), ROOT)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "recipes.tiny.lerning_rate",
            1.0,
            r"recipes\.tiny\.lerning_rate: unknown key \(did you mean learning_rate\?\)",
        ),
        ("stages.quick.sample", "two_per_usr", r"stages\.quick\.sample: got 'two_per_usr' \(did you mean two_per_user"),
        ("stages.quick.ablation", "nothing", r"stages\.quick\.ablation: got 'nothing'.*allowed are none, profile"),
        (
            "recipes.tiny",
            {
                "model": "tiny_qwen3_moe",
                "deepspeed": "zero3_cpu",
                "cpu_processes": 1,
                "lora": {"target_modules": ["q_proj"]},
                "prefix_sharing": True,
            },
            r"recipes\.tiny\.prefix_sharing: got true.*what lora\.dropout drops; allowed is false, or lora\.dropout: 0",
        ),
        *[
            (
                "recipes.tiny",
                {"model": "tiny_qwen3_moe", "deepspeed": "zero1_cpu", "cpu_processes": 4} | changes,
                message,
            )
            for changes, message in (
                (
                    {"expert_parallel": 6, "cpu_processes": 6},
                    r"recipes\.tiny\.expert_parallel: got 6, but the model tiny_qwen3_moe has 8 experts in a layer",
                ),
                ({"expert_parallel": 3}, r"recipes\.tiny\.expert_parallel: got 3, allowed are divisors of its 4 proc"),
                (
                    {"expert_parallel": 2, "lora": {"target_modules": ["q_proj"]}},
                    r"recipes\.tiny\.expert_parallel: got 2, but with lora the weights are frozen and whole on each",
                ),
                (
                    {"expert_parallel": 2, "deepspeed": "zero3_cpu"},
                    r"recipes\.tiny\.deepspeed: got zero3_cpu; with expert_parallel allowed are zero1 and zero2",
                ),
            )
        ],
        (
            "recipes.tiny.lora",
            {"target_modules": ["q_proj"], "rank": 8},
            r"lora\.rank: unknown key; allowed are r, alpha",
        ),
        (
            "models.tiny_qwen3_moe",
            {"path": "/nowhere", "max_length": 256},
            "got '/nowhere', and there is no such folder",
        ),
        (
            "stages.again",
            {"sample": "two_per_user", "ablation": "profile_and_context", "recipe": "tiny"},
            r"stages\.again: has the sample, ablation, recipe and seeds of stages\.quick; drop one of them",
        ),
        ("evaluation.assumed_sd", float("inf"), r"evaluation\.assumed_sd: got inf: Input should be a finite number"),
        ("stages.quick.recipe", "huge", r"stages\.quick\.recipe: got 'huge'; allowed are tiny"),
        ("split.val_ratio", 1.5, r"split\.val_ratio: got 1\.5: Input should be less than 1"),
        ("split", {"val_ratio": 0.5, "test_ratio": 0.5}, r"split: val_ratio \+ test_ratio must be under 1"),
        (
            "split",
            {"by": "time", "val_from": "2015-01-01"},
            r"split\.test_from: is missing; by: time needs",
        ),
        ("split", {"val_from": "2015-01-01"}, r"split\.val_from: has no effect with by: user; leave it out"),
        ("split", BY_TIME | {"seed": 1}, r"split\.seed: has no effect with by: time; leave it out"),
        (
            "split",
            BY_TIME | {"val_from": "2016-01-01"},
            r"split\.val_from: got 2016-01-01, allowed is a day before",
        ),
        ("split", BY_TIME | {"test_from": "soon"}, r"split\.test_from: got 'soon': .*isoformat"),
        ("split", BY_TIME | {"test_from": 2016}, r"split\.test_from: got 2016: Input should be a valid date"),
        (
            "recipes.tiny.learning_rate",
            "1e-3 ",
            r"recipes\.tiny\.learning_rate: got '1e-3 ': Input should be a valid number",
        ),
        ("recipes.tiny.max_epochs", "010", r"recipes\.tiny\.max_epochs: got '010': Input should be a valid integer"),
        ("recipes.tiny.max_epochs", "1.5", r"recipes\.tiny\.max_epochs: got '1\.5': Input should be a valid integer"),
        ("recipes.tiny.prefix_sharing", "yes", r"prefix_sharing: got 'yes': Input should be a valid boolean"),
        ("recipes.tiny.learning_rate", 4.0, r"recipes\.tiny\.learning_rate: got 4, allowed is below 1"),
        ("recipes.tiny.gpus", 2, r"recipes\.tiny: give either gpus \(1 or more\) or cpu_processes"),
        ("recipes.tiny.max_tokens_per_gpu", 100, r"max_tokens_per_gpu: got 100, allowed is at least .* 256"),
        ("recipes.tiny.deepspeed", "zero33", r"recipes\.tiny\.deepspeed: got 'zero33' \(did you mean zero3\?\)"),
        (
            "ablations.profile_and_history.prompt_style",
            "detailed_with_stars",
            r"evaluation\.contrasts\.0: the texts of history are scored given their stars, those of quick are not",
        ),
        ("models.tiny_qwen3_moe.completion_reserve", 256, r"completion_reserve: got 256, allowed is below max_length"),
        ("evaluation.contrasts", [{"stage": "quick", "against": "quick"}], r"contrasts\.0: compares quick with itself"),
        ("evaluation.contrasts", [{"stage": "quick", "against": "history"}] * 2, r"contrasts\.1: is asked twice"),
        ("ablations.none.history", {"max_entries": 2}, r"ablations\.none\.history: use_history is false"),
        ("ablations.history.history", {"select": "random"}, r"history\.max_entries: got None, .* 1 or more"),
        ("ablations.history.history", {"select": "other_user", "max_entries": 0}, r"max_entries: got 0, .* or null"),
        ("ablations.history.history", {"max_entries": -1}, r"ablations\.history\.history\.max_entries: got -1"),
        ("ablations.history.history", {"select": "newest"}, r"history\.select: got 'newest': Input should be 'recent'"),
        ("ablations.none.prompt_style", "simpel", r"prompt_style: got 'simpel' \(did you mean simple\?\)"),
        (
            "cohorts.max_users",
            100,
            r"^cohorts\.max_users: is no longer a key; set cohorts\.val\.max_users and cohorts\.test\.max_users$",
        ),
        (
            "samples.everything.min_history",
            -1,
            r"samples\.everything\.min_history: got -1: .* greater than or equal to 0",
        ),
        ("samples.val", {"max_samples_per_user": 2}, r"samples\.val: this name is reserved"),
        ("samples.impostors", {"max_samples_per_user": 2}, r"samples\.impostors: this name is reserved"),
        ("samples.Two", {"max_samples_per_user": 2}, r"samples\.Two: got 'Two'"),
        ("tracking.run_name", "{smaple}", r"tracking\.run_name: got '\{smaple\}'; allowed placeholders are \{sample\}"),
        ("log_to", ["wandb", "wandb"], r"log_to: got \['wandb', 'wandb'\], allowed is to name each tracker once"),
        ("log_to", ["tensorbord"], r"log_to\.0: got 'tensorbord': Input should be 'wandb', 'tensorboard', 'mlflow' or"),
        ("wandb", {"project": "x"}, r"wandb: is no longer a key; set log_to: \[wandb\], and its project"),
        ("dataset", "dmcs", r"dataset: got 'dmcs' \(did you mean dmsc\?\)"),
        ("results_dir", "results/{user}", r"results_dir: got 'results/\{user\}', allowed is a path without \{ and \}"),
        ("datasets.dmsc.path", "results/{a}.csv", r"datasets\.dmsc\.path: got .*, allowed is a path without \{ and \}"),
        ("results_dir", "../elsewhere", r"results_dir: got '\.\./elsewhere', allowed is a folder below"),
        ("results_dir", "/tmp/results", r"results_dir: got '/tmp/results', allowed is a folder below"),
        ("datasets.dmsc.path", "results/../x.csv", r"datasets\.dmsc\.path: got .*, allowed for synthetic data"),
        ("datasets.dmsc.path", "data/DMSC.csv", r"allowed for synthetic data, .* such as results/dmsc/raw/DMSC\.csv"),
        ("datasets.dmsc.mask_names", True, r"mask_names: got true, but format dmsc_csv has no names to mask"),
        ("datasets.dmsc.format", "dmsc_v3", r"datasets\.dmsc\.format: got 'dmsc_v3': Input should be 'dmsc_csv'"),
        ("dataset", "../x", r"dataset: got '\.\./x': String should match pattern"),
        ("models.tiny_qwen3_moe.tiny.corpus_sample", "a/b", r"corpus_sample: got 'a/b': String should match pattern"),
    ],
)
def test_a_mistake_is_explained(path: str, value: Any, message: str) -> None:
    data = copy.deepcopy(yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8")))
    *parents, last = path.split(".")
    place = data
    for key in parents:
        place = place[key]
    place[last] = value
    with pytest.raises(PersonaError, match=message) as error:
        load_config(data, ROOT)
    assert "\n" not in str(error.value)


def test_the_default_task_asks_for_what_the_cue_asks() -> None:
    dataset = Dataset(format="dmsc_csv", path="a.csv")
    assert "影评" in dataset.task and "影评" in dataset.cue


@pytest.mark.parametrize("name", ["dmsc_30b", "dmsc_30b_full"])
def test_the_history_of_the_real_run_has_texts(name: str) -> None:
    config = load_config(yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text(encoding="utf-8")), ROOT)
    styles = {config.ablations[stage.ablation].prompt_style for stage in config.stages.values()}
    for style in styles:
        sections = load_style(ROOT / "config" / "prompts" / f"{style}.yaml").sections
        assert "{text}" in "".join(next(section.entry for section in sections if section.part == "history"))


@pytest.mark.parametrize(
    ("key", "given", "meant"),
    [
        ("learning_rate", "1e-5", 1e-5),
        ("max_epochs", "7", 7),
        ("gradient_checkpointing", "true", True),
        ("validate_every_steps", "null", None),
        ("lora", {"target_modules": ["12"], "r": "8"}, {"target_modules": ["12"], "r": 8}),
    ],
)
def test_what_snakemake_hands_over_as_text_is_read(key: str, given: Any, meant: Any) -> None:
    recipe = {"model": "1", "deepspeed": "2"}
    read, typed = Recipe.model_validate(recipe | {key: given}), Recipe.model_validate(recipe | {key: meant})
    assert read == typed and (read.model, read.deepspeed) == ("1", "2")


def test_numbers_in_lists_may_be_text() -> None:
    stage = {"sample": "a", "ablation": "b", "recipe": "c"}
    assert Stage.model_validate(stage | {"seeds": ["43", "44"]}).seeds == [43, 44]


def test_samples_that_are_not_nested_are_named() -> None:
    data = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    assert not notes(load_config(data, ROOT))
    data["samples"]["five_per_user"]["sample_seed"] = 7
    (note,) = notes(load_config(data, ROOT))
    assert note.startswith("sample_seed differs (samples.everything: 42, samples.five_per_user: 7, ")


def test_dialogue_has_no_days_to_split_by() -> None:
    data = yaml.safe_load((ROOT / "config" / "chameleons.yaml").read_text(encoding="utf-8"))
    with pytest.raises(PersonaError, match=r"split\.by: got 'time', but format cornell has no days; allowed are user"):
        load_config(data | {"split": BY_TIME}, ROOT)


@pytest.mark.parametrize("data", [None, 5, "abc", [1], {"split": {"a\nb": 1}}, {"stages": {}}, {"split": {"seed": -1}}])
def test_anything_else_is_one_line_too(data: Any) -> None:
    base = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    with pytest.raises(PersonaError) as error:
        load_config(base | data if isinstance(data, dict) else data, ROOT)
    assert "\n" not in str(error.value)
