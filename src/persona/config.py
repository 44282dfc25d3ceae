"""The whole configuration as pydantic models. Only the Snakefile imports this module."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from persona.errors import PersonaError
from persona.prompts import load_style

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$")]
Ratio = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Text = Annotated[str, StringConstraints(min_length=1)]
WITHOUT_USER = "without_user_"
SEED_MARK, MEAN_MARK = "_seed", "_mean"
RESERVED_SAMPLES = {"val", "test", "untrained"}


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


class Synthetic(Model):
    users: Count
    seed: Seed = 42
    habits: Literal["own", "independent"] = "own"


class Dataset(Model):
    format: Literal["dmsc_csv", "dmsc_v2", "twin_json", "cornell", "jsonl"]
    path: Text
    max_reject_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    pseudonymise: bool = False
    max_context_turns: Count = 15
    mask_names: bool = False
    task: Text = "预测用户对电影的评分"
    cue: Text = "预测用户的影评："
    rating_cue: Text | None = "预测用户的评分："
    synthetic: Synthetic | None = None


class Split(Model):
    by: Literal["user", "item"] = "user"
    val_ratio: Ratio = 0.1
    test_ratio: Ratio = 0.1
    seed: Seed = 42


class Sample(Model):
    max_samples_per_user: Count | None
    sample_seed: Seed = 42


class Cohorts(Model):
    max_users: Count | None = 2000
    max_samples_per_user: Count | None = 2
    sample_seed: Seed = 42


class Generation(Model):
    n_targets: Count = 200
    n_samples: Count = 1
    max_new_tokens: Count = 128
    temperature: Annotated[float, Field(gt=0)] = 1.0
    seed: Seed = 42


class Ablation(Model):
    use_profile: bool
    use_history: bool
    use_context: bool
    prompt_style: Name = "simple"


class Tiny(Model):
    vocab_size: Count = 2048
    hidden_size: Annotated[int, Field(ge=32, multiple_of=32)] = 64
    num_hidden_layers: Count = 1
    num_experts: Annotated[int, Field(ge=2)] = 8
    seed: Seed = 0
    corpus_sample: Name
    corpus_ablation: Name


class LanguageModel(Model):
    path: str | None = None
    tiny: Tiny | None = None
    max_length: Count
    history_window: Literal["anchored", "recent"] = "anchored"


class Lora(Model):
    r: Count = 64
    alpha: Count = 128
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    target_modules: Annotated[list[Text], Field(min_length=1)]
    merge: bool = False


class Recipe(Model):
    model: Name
    deepspeed: Name
    nodes: Count = 1
    gpus: Annotated[int, Field(ge=0)] = 0
    cpu_processes: Count | None = None
    batch_size: Count = 1
    gradient_accumulation_steps: Count = 8
    max_tokens_per_gpu: Count = 8192
    batch_by: Literal["user", "sample"] = "sample"
    prefix_sharing: bool = True
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    lr_scheduler_type: Literal["constant_with_warmup", "cosine", "linear"] = "constant_with_warmup"
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    gradient_checkpointing: bool = False
    lora: Lora | None = None
    max_epochs: Count = 50
    early_stopping_patience: Count = 3
    early_stopping_threshold: Annotated[float, Field(ge=0)] = 0.0
    checkpoint_every_steps: Count | None = None
    keep_training_state: bool = False
    seed: Seed = 42
    version: Count = 1

    @property
    def shares_prefixes(self) -> bool:
        """Where it is exact: adapters with dropout drop other values in each sample."""
        return self.prefix_sharing and not (self.lora and self.lora.dropout)

    @property
    def processes_per_node(self) -> int:
        return self.gpus or self.cpu_processes or 1

    @property
    def processes(self) -> int:
        return self.nodes * self.processes_per_node


class Wandb(Model):
    project: str
    mode: Literal["online", "offline", "disabled"] = "offline"
    run_name: str = "{sample}-{ablation}-{recipe}"


class Hardware(Model):
    """Of one GPU, or of one CPU process. The defaults are an H100's data sheet and a guess at its use."""

    memory_gib: Annotated[float, Field(gt=0)] = 79.0
    peak_tflops: Annotated[float, Field(gt=0)] = 989.0
    utilisation: Annotated[float, Field(gt=0, le=1)] = 0.2
    interconnect_gb_s: Annotated[float, Field(gt=0)] = 450.0
    micro_step_overhead_s: Annotated[float, Field(ge=0)] = 0.0


class Contrast(Model):
    stage: Name
    against: Name
    metric: Literal["nll", "swap_gap"] = "nll"


class Evaluation(Model):
    candidates: Annotated[int, Field(ge=2, le=100)] = 10
    seed: Seed = 42
    # All models of the configuration in one job, for models that are evaluated faster than processes start.
    together: bool = False
    contrasts: list[Contrast] = []


class Audit(Model):
    near_duplicate: Annotated[float, Field(ge=0, le=1)] = 0.05
    star_named: Annotated[float, Field(ge=0, le=1)] = 0.1


class Stage(Model):
    sample: Name
    ablation: Name
    recipe: Name
    seeds: list[Seed] = []


class Config(Model):
    results_dir: Text = "results"
    buckets: Annotated[int, Field(ge=1, le=4096)] = 1
    dataset: Name
    datasets: dict[Name, Dataset]
    split: Split = Split()
    cohorts: Cohorts = Cohorts()
    samples: dict[Name, Sample]
    ablations: dict[Name, Ablation]
    models: dict[Name, LanguageModel]
    recipes: dict[Name, Recipe]
    generation: Generation = Generation()
    evaluation: Evaluation = Evaluation()
    audit: Audit = Audit()
    hardware: Hardware = Hardware()
    wandb: Wandb | None = None
    stages: Annotated[dict[Name, Stage], Field(min_length=1)]


def load_config(data: Mapping[str, Any], root: Path) -> Config:
    """Check the whole configuration.

    Args:
        root: the folder of the Snakefile, where `config/prompts` and `config/deepspeed` are.

    Raises:
        PersonaError: one line with the key's path, what was given, and what is allowed.
    """
    if not isinstance(data, Mapping):
        raise PersonaError(f"the configuration is a mapping of keys, got {data!r}")
    try:
        config = Config.model_validate(dict(data))
    except ValidationError as error:
        raise PersonaError("; ".join(_explain(details) for details in error.errors())) from error
    for problem in _problems(config, root):
        raise PersonaError(problem)
    return config


def _explain(details: Any) -> str:
    where = " ".join(".".join(str(part) for part in details["loc"] if part != "[key]").split())
    if details["type"] == "extra_forbidden":
        known = _keys_at(details["loc"][:-1])
        return f"{where}: unknown key{_nearest(str(details['loc'][-1]), known)}; allowed are {', '.join(known)}"
    if details["type"] == "missing":
        return f"{where}: is missing"
    return f"{where}: got {details['input']!r}: {details['msg']}"


def _keys_at(location: tuple[Any, ...]) -> list[str]:
    """The keys of the model at a place of the configuration."""
    tables: dict[str, type[Model]] = {
        "datasets": Dataset,
        "samples": Sample,
        "ablations": Ablation,
        "models": LanguageModel,
        "recipes": Recipe,
        "stages": Stage,
    }
    sections: dict[str, type[Model]] = {
        "split": Split,
        "cohorts": Cohorts,
        "generation": Generation,
        "evaluation": Evaluation,
        "audit": Audit,
        "hardware": Hardware,
        "wandb": Wandb,
    }
    if not location:
        return list(Config.model_fields)
    if location[:2] == ("evaluation", "contrasts") and len(location) == 3:
        return list(Contrast.model_fields)
    if len(location) == 3 and location[-1] in ("synthetic", "tiny", "lora"):
        nested: dict[str, type[Model]] = {"synthetic": Synthetic, "tiny": Tiny, "lora": Lora}
        return list(nested[location[-1]].model_fields)
    model: type[Model] = (tables | sections)[location[0]]
    return list(model.model_fields)


def _nearest(given: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(given, known, n=1)
    return f" (did you mean {nearest[0]}?)" if nearest else ""


def _problems(config: Config, root: Path) -> list[str]:
    """What the types cannot see: names that name nothing, values that do not go together."""
    problems = _reference("dataset", config.dataset, config.datasets) + _path_problems(config)
    for name, stage in config.stages.items():
        problems += _reference(f"stages.{name}.sample", stage.sample, config.samples)
        problems += _reference(f"stages.{name}.ablation", stage.ablation, config.ablations)
        problems += _reference(f"stages.{name}.recipe", stage.recipe, config.recipes)
        own = config.recipes[stage.recipe].seed if stage.recipe in config.recipes else None
        if len({own, *stage.seeds}) != 1 + len(stage.seeds):
            problems.append(
                f"stages.{name}.seeds: got {stage.seeds}, allowed are others than the recipe's {own}, each once"
            )
    problems += _run_name_problems(config)
    for n, contrast in enumerate(config.evaluation.contrasts):
        problems += _reference(f"evaluation.contrasts.{n}.stage", contrast.stage, config.stages)
        problems += _reference(f"evaluation.contrasts.{n}.against", contrast.against, config.stages)
    if "all" in config.stages:
        problems.append("stages.all: this name is reserved, train_all trains every stage; allowed is any other")
    for name in RESERVED_SAMPLES & set(config.samples):
        problems.append(f"samples.{name}: this name is reserved; allowed is any other")
    if config.split.val_ratio + config.split.test_ratio >= 1:
        problems.append("split: val_ratio + test_ratio must be under 1, or nobody is left to train on")
    for name, model in config.models.items():
        if (model.path is None) == (model.tiny is None):
            problems.append(f"models.{name}: give either path or tiny")
        if model.path and model.path[0] in "/.~" and not Path(model.path).is_dir():
            problems.append(f"models.{name}.path: got {model.path!r}, and there is no such folder")
        if model.tiny:
            problems += _reference(f"models.{name}.tiny.corpus_sample", model.tiny.corpus_sample, config.samples)
            problems += _reference(f"models.{name}.tiny.corpus_ablation", model.tiny.corpus_ablation, config.ablations)
    for name, recipe in config.recipes.items():
        if SEED_MARK in name or MEAN_MARK in name:
            problems.append(f"recipes.{name}: names with {SEED_MARK} or {MEAN_MARK} are reserved; allowed is any other")
        problems += _recipe_problems(config, root, name, recipe)
    for name, ablation in config.ablations.items():
        if name.startswith(WITHOUT_USER):
            problems.append(
                f"ablations.{name}: names that begin with {WITHOUT_USER} are reserved; allowed is any other"
            )
        path = root / "config" / "prompts" / f"{ablation.prompt_style}.yaml"
        known = sorted(file.stem for file in path.parent.glob("*.yaml"))
        problems += _reference(f"ablations.{name}.prompt_style", ablation.prompt_style, known)
        if path.exists():
            parts = {section.part for section in load_style(path)}
            problems += [
                f"ablations.{name}.use_{part}: got true, but prompt style {ablation.prompt_style} has no {part} section"
                for part in ("profile", "history", "context")
                if getattr(ablation, f"use_{part}") and part not in parts
            ]
    return problems


def _path_problems(config: Config) -> list[str]:
    """Nothing is written but below `results_dir`, and that lies in the folder in which the workflow runs."""
    problems = []
    results = PurePosixPath(config.results_dir)
    if results.is_absolute() or ".." in results.parts or not results.parts:
        problems.append(
            f"results_dir: got {config.results_dir!r}, allowed is a folder below the one that the workflow runs in; "
            "snakemake --directory chooses that one"
        )
    for name, dataset in config.datasets.items():
        path = PurePosixPath(dataset.path)
        if dataset.synthetic and (".." in path.parts or results not in path.parents):
            problems.append(
                f"datasets.{name}.path: got {dataset.path!r}, allowed for synthetic data, which is written there, is a "
                f"file below results_dir, such as {results / name / 'raw' / 'DMSC.csv'}"
            )
        if dataset.synthetic and dataset.format != "dmsc_csv":
            problems.append(f"datasets.{name}.format: got {dataset.format!r}, allowed for synthetic data is dmsc_csv")
        if dataset.mask_names and dataset.format != "cornell":
            problems.append(f"datasets.{name}.mask_names: got true, but format {dataset.format} has no names to mask")
    return problems


def _run_name_problems(config: Config) -> list[str]:
    factors = {"sample": "", "ablation": "", "recipe": ""}
    if config.wandb is None:
        return []
    try:
        config.wandb.run_name.format(**factors)
    except (KeyError, ValueError, IndexError, AttributeError):
        allowed = ", ".join(f"{{{name}}}" for name in factors)
        return [f"wandb.run_name: got {config.wandb.run_name!r}; allowed placeholders are {allowed}"]
    return []


def _recipe_problems(config: Config, root: Path, name: str, recipe: Recipe) -> list[str]:
    problems = _reference(f"recipes.{name}.model", recipe.model, config.models)
    known = sorted(file.stem for file in (root / "config" / "deepspeed").glob("*.json"))
    problems += _reference(f"recipes.{name}.deepspeed", recipe.deepspeed, known)
    if (recipe.gpus == 0) == (recipe.cpu_processes is None):
        problems.append(f"recipes.{name}: give either gpus (1 or more) or cpu_processes")
    if recipe.model in config.models and recipe.max_tokens_per_gpu < config.models[recipe.model].max_length:
        problems.append(
            f"recipes.{name}.max_tokens_per_gpu: got {recipe.max_tokens_per_gpu}, allowed is at least the model's "
            f"max_length, {config.models[recipe.model].max_length}"
        )
    if recipe.prefix_sharing != recipe.shares_prefixes and "prefix_sharing" in recipe.model_fields_set:
        problems.append(
            f"recipes.{name}.prefix_sharing: got true, but samples that share tokens would share what "
            "lora.dropout drops; allowed is false, or lora.dropout: 0"
        )
    return problems


def _reference(where: str, given: str, known: Any) -> list[str]:
    if given in known:
        return []
    names = list(known)
    return [f"{where}: got {given!r}{_nearest(given, names)}; allowed are {', '.join(names)}"]
