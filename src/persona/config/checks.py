"""Check the configuration; each problem is explained in one line."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from persona.base_model import cannot_be_spread, incomplete_file, n_experts
from persona.config.models import Ablation, Config, Dataset, LanguageModel, Recipe, Split
from persona.config.reference import settings_of
from persona.errors import PersonaError
from persona.evaluation.settings import UNTRAINED
from persona.prompts import PARTS, load_style

# Ablations that the evaluation adds: with nothing about the user, and with the conversation alone.
WITHOUT_USER, CONTEXT_ALONE = "without_user_", "context_alone_"
SEED_MARK, MEAN_MARK = "_seed", "_mean"
RESERVED_SAMPLES = {"val", "test", "impostors", "untrained"}
# Keys that are no more, and what replaced them.
REPLACED = {
    f"cohorts.{key}": f"cohorts.val.{key} and cohorts.test.{key}" for key in ("max_users", "max_samples_per_user")
} | {"wandb": "log_to: [wandb], and its project, run_name and mode as tracking: {...}"}


def load_config(data: Mapping[str, Any], root: Path) -> Config:
    """Check the whole configuration.

    Args:
        data: the configuration as YAML gives it.
        root: the folder of the Snakefile, where `config/prompts` and `config/deepspeed` are.

    Raises:
        PersonaError: one line with the key's path, what was given, and what is allowed.
    """
    if not isinstance(data, Mapping):
        raise PersonaError(f"the configuration must be a mapping of keys, got {data!r}")
    try:
        config = Config.model_validate(dict(data))
    except ValidationError as error:
        raise PersonaError("; ".join(_explain(details) for details in error.errors())) from error
    problem = next(_problems(config, root), None)
    if problem:
        raise PersonaError(problem)
    return config


def _explain(details: Any) -> str:
    where = " ".join(".".join(str(part) for part in details["loc"] if part != "[key]").split())
    if where in REPLACED:
        return f"{where}: is no longer a key; set {REPLACED[where]}"
    if details["type"] == "extra_forbidden":
        known = _keys_at(details["loc"][:-1])
        return f"{where}: unknown key{_nearest(str(details['loc'][-1]), known)}; allowed are {', '.join(known)}"
    if details["type"] == "missing":
        return f"{where}: is missing"
    return f"{where}: got {details['input']!r}: {details['msg']}"


def _keys_at(location: tuple[Any, ...]) -> list[str]:
    """The keys of the settings at a place of the configuration."""
    annotation: Any = Config
    for key in location:
        model = settings_of(annotation)
        if model is not None and key in model.model_fields:
            annotation = model.model_fields[key].annotation
    model = settings_of(annotation)
    return list(model.model_fields) if model else []


def _nearest(given: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(given, known, n=1)
    return f" (did you mean {nearest[0]}?)" if nearest else ""


def _problems(config: Config, root: Path) -> Iterator[str]:
    """What the types cannot express: names that do not exist, values that exclude each other."""
    yield from _reference("dataset", config.dataset, config.datasets)
    yield from _path_problems(config)
    yield from _stage_problems(config)
    yield from _run_name_problems(config)
    for name in sorted(RESERVED_SAMPLES & set(config.samples)):
        yield f"samples.{name}: this name is reserved; allowed is any other"
    yield from _split_problems(config.split, config.datasets.get(config.dataset))
    for name, model in config.models.items():
        yield from _model_problems(config, name, model)
    for name, recipe in config.recipes.items():
        yield from _recipe_problems(config, root, name, recipe)
    for name, ablation in config.ablations.items():
        yield from _ablation_problems(root, name, ablation, config.split.by)
    yield from _contrast_problems(config, root)


def _split_problems(split: Split, dataset: Dataset | None) -> Iterator[str]:
    by_time = split.by == "time"
    dates = {key: getattr(split, key) for key in ("val_from", "test_from")}
    drawn = split.model_fields_set & {"val_ratio", "test_ratio", "seed"}
    for key in sorted(drawn) if by_time else [key for key, day in dates.items() if day]:
        yield f"split.{key}: has no effect with by: {split.by}; leave it out"
    if not by_time and split.val_ratio + split.test_ratio >= 1:
        yield "split: val_ratio + test_ratio must be under 1, or nobody is left to train on"
    for key in [key for key, day in dates.items() if by_time and not day]:
        yield f"split.{key}: is missing; by: time needs the first day of val and of test, such as 2015-01-01"
    if split.val_from and split.test_from and split.val_from >= split.test_from:
        yield f"split.val_from: got {split.val_from}, allowed is a day before test_from, {split.test_from}"
    if by_time and dataset and dataset.format == "cornell":
        yield "split.by: got 'time', but format cornell has no days; allowed are user, item"


def _stage_problems(config: Config) -> Iterator[str]:
    for name, stage in config.stages.items():
        yield from _reference(f"stages.{name}.sample", stage.sample, config.samples)
        yield from _reference(f"stages.{name}.ablation", stage.ablation, config.ablations)
        yield from _reference(f"stages.{name}.recipe", stage.recipe, config.recipes)
        own = config.recipes[stage.recipe].seed if stage.recipe in config.recipes else None
        if len({own, *stage.seeds}) != 1 + len(stage.seeds):
            yield (
                f"stages.{name}.seeds: got {stage.seeds}, allowed are seeds other than the recipe's {own}, each once"
            )
    yield from _equal_stages(config)
    if UNTRAINED in config.stages:
        yield f"stages.{UNTRAINED}: this name is reserved for models before any training; allowed is any other"
    if "all" in config.stages:
        yield "stages.all: this name is reserved, because train_all trains every stage; allowed is any other"


def _equal_stages(config: Config) -> Iterator[str]:
    """Stages that are the same training, by whatever names; differences between them would say nothing."""
    factors: list[tuple[str, Any]] = []
    for name, stage in config.stages.items():
        of_stage = (
            config.samples.get(stage.sample),
            config.ablations.get(stage.ablation),
            config.recipes.get(stage.recipe),
            sorted(stage.seeds),
        )
        for other, of_other in factors:
            if None not in of_stage and of_stage == of_other:
                yield f"stages.{name}: has the sample, ablation, recipe and seeds of stages.{other}; drop one of them"
        factors.append((name, of_stage))


def notes(config: Config) -> list[str]:
    """What is allowed and seldom meant, one line each."""
    used = sorted({stage.sample for stage in config.stages.values()})
    found = []
    for key in ("sample_seed", "min_history"):
        values = {name: getattr(config.samples[name], key) for name in used}
        if len(set(values.values())) > 1:
            given = ", ".join(f"samples.{name}: {value}" for name, value in values.items())
            found.append(
                f"{key} differs ({given}), so a smaller sample is not part of a larger one, and stages that are "
                f"compared are trained on other texts; give all the same {key} unless this is meant"
            )
    return found


def _model_problems(config: Config, name: str, model: LanguageModel) -> Iterator[str]:
    if (model.path is None) == (model.tiny is None):
        yield f"models.{name}: give either path or tiny"
    if model.path and model.path[0] in "/.~" and not Path(model.path).is_dir():
        yield f"models.{name}.path: got {model.path!r}, and there is no such folder"
    if model.path and Path(model.path).is_dir() and (problem := incomplete_file(Path(model.path))):
        yield f"models.{name}.path: {problem}"
    if model.reserve >= model.max_length:
        yield (
            f"models.{name}.completion_reserve: got {model.reserve}, allowed is below max_length, {model.max_length}"
        )
    if model.tiny:
        yield from _reference(f"models.{name}.tiny.corpus_sample", model.tiny.corpus_sample, config.samples)
        yield from _reference(f"models.{name}.tiny.corpus_ablation", model.tiny.corpus_ablation, config.ablations)


def _ablation_problems(root: Path, name: str, ablation: Ablation, by: str) -> Iterator[str]:
    for prefix in (WITHOUT_USER, CONTEXT_ALONE):
        if name.startswith(prefix):
            yield f"ablations.{name}: names that begin with {prefix} are reserved; allowed is any other"
    yield from _history_problems(name, ablation, by)
    path = _style_file(root, ablation.prompt_style)
    known = sorted(file.stem for file in path.parent.glob("*.yaml"))
    yield from _reference(f"ablations.{name}.prompt_style", ablation.prompt_style, known)
    parts = {section.part for section in load_style(path).sections} if path.exists() else set(PARTS)
    for part in PARTS:
        if getattr(ablation, f"use_{part}") and part not in parts:
            yield (
                f"ablations.{name}.use_{part}: got true, but prompt style {ablation.prompt_style} has no {part} section"
            )


def _history_problems(name: str, ablation: Ablation, by: str) -> Iterator[str]:
    """Settings of the history that mean nothing."""
    history, where = ablation.history, f"ablations.{name}.history"
    if not ablation.use_history and "history" in ablation.model_fields_set:
        yield f"{where}: use_history is false, so no entry is shown; drop this key, or set use_history: true"
    if history.select in ("relevant", "random") and not history.max_entries:
        yield (
            f"{where}.max_entries: got {history.max_entries}, allowed with select: {history.select} is 1 or more; "
            "with all entries or none there is nothing to choose"
        )
    if history.select == "other_user" and history.max_entries == 0:
        yield f"{where}.max_entries: got 0, allowed with select: other_user is 1 or more, or null"
    if history.select == "other_user" and by == "time":
        yield f"{where}.select: got other_user, which needs users of one split; with split.by: time they are of several"


def _contrast_problems(config: Config, root: Path) -> Iterator[str]:
    asked = [(contrast.stage, contrast.against, contrast.metric) for contrast in config.evaluation.contrasts]
    for n, contrast in enumerate(config.evaluation.contrasts):
        if contrast.stage == contrast.against:
            yield f"evaluation.contrasts.{n}: compares {contrast.stage} with itself; allowed are two stages"
        if asked[n] in asked[:n]:
            yield f"evaluation.contrasts.{n}: is asked twice; name it once, as p-values are adjusted for the number"
        yield from _reference(f"evaluation.contrasts.{n}.stage", contrast.stage, config.stages)
        yield from _reference(f"evaluation.contrasts.{n}.against", contrast.against, [*config.stages, UNTRAINED])
        # The untrained model gets the prompts of the stage.
        names = (contrast.stage, contrast.stage if contrast.against == UNTRAINED else contrast.against)
        styles = [config.ablations[config.stages[name].ablation].prompt_style for name in names]
        one, other = (load_style(_style_file(root, style)).trains_stars for style in styles)
        if one != other:
            yield (
                f"evaluation.contrasts.{n}: the texts of {names[one < other]} are scored given their stars, those of "
                f"{names[one > other]} are not; allowed are stages whose prompt styles have the same completion"
            )


def _style_file(root: Path, style: str) -> Path:
    return root / "config" / "prompts" / f"{style}.yaml"


def _path_problems(config: Config) -> Iterator[str]:
    """All outputs are below `results_dir`, which is below the folder in which the workflow runs."""
    results = PurePosixPath(config.results_dir)
    if results.is_absolute() or ".." in results.parts or not results.parts:
        yield (
            f"results_dir: got {config.results_dir!r}, allowed is a folder below the one in which the workflow runs; "
            "choose that one with snakemake --directory"
        )
    paths = {"results_dir": config.results_dir} | {f"datasets.{k}.path": d.path for k, d in config.datasets.items()}
    for where, given in {**paths, **{f"models.{name}.path": m.path or "" for name, m in config.models.items()}}.items():
        if set("{}") & set(given):
            yield f"{where}: got {given!r}, allowed is a path without {{ and }}, which Snakemake reads as wildcards"
    for name, dataset in config.datasets.items():
        path = PurePosixPath(dataset.path)
        if dataset.synthetic and (".." in path.parts or results not in path.parents):
            yield (
                f"datasets.{name}.path: got {dataset.path!r}, allowed for synthetic data, which is written there, is a "
                f"file below results_dir, such as {results / name / 'raw' / 'DMSC.csv'}"
            )
        if dataset.synthetic and dataset.format != "dmsc_csv":
            yield f"datasets.{name}.format: got {dataset.format!r}, allowed for synthetic data is dmsc_csv"
        if dataset.mask_names and dataset.format != "cornell":
            yield f"datasets.{name}.mask_names: got true, but format {dataset.format} has no names to mask"


def _run_name_problems(config: Config) -> Iterator[str]:
    factors = {"sample": "", "ablation": "", "recipe": ""}
    try:
        config.tracking.run_name.format(**factors)
    except (KeyError, ValueError, IndexError, AttributeError):
        allowed = ", ".join(f"{{{name}}}" for name in factors)
        yield f"tracking.run_name: got {config.tracking.run_name!r}; allowed placeholders are {allowed}"
    if len({*config.log_to}) < len(config.log_to):
        yield f"log_to: got {config.log_to}, allowed is to name each tracker once"


def _recipe_problems(config: Config, root: Path, name: str, recipe: Recipe) -> Iterator[str]:
    if SEED_MARK in name or MEAN_MARK in name:
        yield f"recipes.{name}: names with {SEED_MARK} or {MEAN_MARK} are reserved; allowed is any other"
    yield from _reference(f"recipes.{name}.model", recipe.model, config.models)
    if config.generation.backend == "vllm" and recipe.lora and not recipe.lora.merge:
        yield (
            f"generation.backend: got vllm, but recipes.{name} makes an adapter, which vLLM does not load as a model; "
            f"set recipes.{name}.lora.merge: true, or backend: transformers"
        )
    known = sorted(file.stem for file in (root / "config" / "deepspeed").glob("*.json"))
    yield from _reference(f"recipes.{name}.deepspeed", recipe.deepspeed, known)
    if recipe.expert_parallel > 1:
        yield from _expert_problems(root, name, recipe, config.models.get(recipe.model))
    if (recipe.gpus == 0) == (recipe.cpu_processes is None):
        yield f"recipes.{name}: give either gpus (1 or more) or cpu_processes"
    if recipe.gpus and recipe.cpu_dtype != "float32":
        yield f"recipes.{name}.cpu_dtype: got {recipe.cpu_dtype}, but the recipe uses GPUs; allowed is to leave it out"
    others = [
        name for name, other in config.recipes.items() if (other.model, other.gpus) == (recipe.model, recipe.gpus)
    ]
    if recipe.cpu_dtype != config.recipes[others[0]].cpu_dtype:
        yield (
            f"recipes.{name}.cpu_dtype: got {recipe.cpu_dtype}, but recipes.{others[0]} of the same model has "
            f"{config.recipes[others[0]].cpu_dtype}; stages are compared with the untrained model: use one for both"
        )
    if recipe.learning_rate >= 1:
        yield f"recipes.{name}.learning_rate: got {recipe.learning_rate:g}, allowed is below 1"
    if recipe.model in config.models and recipe.max_tokens_per_gpu < config.models[recipe.model].max_length:
        yield (
            f"recipes.{name}.max_tokens_per_gpu: got {recipe.max_tokens_per_gpu}, allowed is at least the model's "
            f"max_length, {config.models[recipe.model].max_length}"
        )
    if recipe.prefix_sharing != recipe.shares_prefixes and "prefix_sharing" in recipe.model_fields_set:
        yield (
            f"recipes.{name}.prefix_sharing: got true, but samples that share tokens would share what "
            "lora.dropout drops; allowed is false, or lora.dropout: 0"
        )


def _expert_problems(root: Path, name: str, recipe: Recipe, model: LanguageModel | None) -> Iterator[str]:
    """Problems of a recipe that spreads experts. How many a model of the hub has is seen later."""
    where, file = f"recipes.{name}.expert_parallel", root / "config" / "deepspeed" / f"{recipe.deepspeed}.json"
    if recipe.processes % recipe.expert_parallel:
        yield f"{where}: got {recipe.expert_parallel}, allowed are divisors of its {recipe.processes} processes"
    experts = _experts_of(model) if model else None
    if experts and (problem := cannot_be_spread(experts, recipe.expert_parallel)):
        yield f"{where}: got {recipe.expert_parallel}, but the model {recipe.model} {problem}"
    if recipe.lora:
        yield (
            f"{where}: got {recipe.expert_parallel}, but with lora the weights are frozen and whole on each process; "
            "leave out one of the two"
        )
    zero = json.loads(file.read_text(encoding="utf-8"))["zero_optimization"] if file.exists() else {"stage": 1}
    if zero["stage"] not in (1, 2) or "offload_optimizer" in zero:
        yield (
            f"recipes.{name}.deepspeed: got {recipe.deepspeed}; with expert_parallel allowed are zero1 and zero2 (on "
            "CPUs zero1_cpu and zero2_cpu), by which all other weights are whole in each process"
        )


def _experts_of(model: LanguageModel) -> int | None:
    """Experts of a layer of a tiny model or of one in a folder; None if nothing says it."""
    if model.tiny:
        return model.tiny.num_experts
    file = Path(model.path or "") / "config.json"
    return n_experts(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def _reference(where: str, given: str, known: Iterable[str]) -> Iterator[str]:
    """A problem if a name is not among the known ones."""
    names = list(known)
    if given not in names:
        yield f"{where}: got {given!r}{_nearest(given, names)}; allowed are {', '.join(names)}"
