"""The checked configuration, and the paths that depend on it."""

import json
import os
import shlex
import sys
from pathlib import Path

from persona.config.checks import (
    CONTEXT_ALONE,
    MEAN_MARK,
    SEED_MARK,
    WITHOUT_USER,
    load_config,
    notes,
)
from persona.config.models import Ablation
from persona.code_digest import code_digest
from persona.errors import PersonaError
from persona.ingestion.formats import FORMATS
from persona.ingestion.settings import Options
from persona.ingestion.sources import raw_files
from persona.modeling.settings import TinyModel
from persona.planning.settings import Hardware
from persona.prompts import PARTS
from persona.tokenization.settings import FitSettings
from persona.yaml_files import read_yaml

# Relative, so that a moved folder reruns nothing.
ROOT = Path(os.path.relpath(workflow.basedir))
SCRIPTS = ROOT / "workflow" / "scripts"
COHORTS = ["val", "test"]
# A tiny model is declared by its files: a folder has no checksum, so a copy of it would count as changed.
TINY_MODEL = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
]

try:
    # Snakemake has read them already, and keeps the last of two equal keys.
    for path in workflow.configfiles:
        read_yaml(Path(path))
    CONFIG = load_config(config, ROOT)
except PersonaError as error:
    sys.exit(f"configuration: {error}")

ENVIRONMENT = "../envs/persona.yaml"
# Environment variables of all commands. Changing them reruns nothing: scripts and library (their code is hashed into
# the rules' params), and where trackers get the figures.
EXPORTS = {
    "SCRIPTS": str(SCRIPTS),
    "PYTHONUTF8": "1",  # whatever the locale
    "LOG_TO": json.dumps(
        {"to": CONFIG.log_to, **CONFIG.tracking.model_dump()} if CONFIG.log_to else {}
    ),
}
LIBRARY = shlex.quote(str(ROOT.resolve() / "src"))
shell.prefix(
    (
        "set -euo pipefail; "
        # What the modules of a cluster added stays.
        f'export PYTHONPATH={LIBRARY}"${{PYTHONPATH:+:$PYTHONPATH}}"; '
        + "".join(
            f"export {name}={shlex.quote(value)}; " for name, value in EXPORTS.items()
        )
    )
    .replace("{", "{{")
    .replace("}", "}}")
)

DATASET = CONFIG.datasets[CONFIG.dataset]
RESULTS = f"{CONFIG.results_dir}/{CONFIG.dataset}"

# Texts are given to commands in ASCII, but paths and names as they are.
NAMES = [os.getcwd(), *EXPORTS.values(), DATASET.path, RESULTS]
NAMES += [model.path for model in CONFIG.models.values() if model.path]
if sys.getfilesystemencoding() != "utf-8":
    for name in NAMES:
        if not name.isascii():
            sys.exit(
                f"error: {ascii(name)} is not ASCII, and the encoding of this locale is {sys.getfilesystemencoding()}; "
                "start again after: export LC_ALL=C.UTF-8"
            )


wildcard_constraints:
    sample="[a-z0-9_]+",
    ablation="[a-z0-9_]+",
    model="[a-z0-9_]+",
    recipe="[a-z0-9_]+",


def memory(gib):
    """MB of a job; each further attempt gets twice as much."""
    return lambda wildcards, attempt: gib * 1024 * 2 ** (attempt - 1)


def raw_inputs():
    """The raw file of the data set, or the files of its folder."""
    return [
        str(f) for f in raw_files(Path(DATASET.path), FORMATS[DATASET.format].files)
    ]


def digest(name):
    return code_digest(SCRIPTS / f"{name}.py")


def ablation_of(name):
    """An ablation of the configuration, or a prompt style without anything about the user."""
    for prefix in [WITHOUT_USER, CONTEXT_ALONE]:
        if name.startswith(prefix):
            return Ablation(
                use_profile=False,
                use_history=False,
                use_context=prefix == CONTEXT_ALONE,
                prompt_style=name.removeprefix(prefix),
            )
    return CONFIG.ablations[name]


def parts_of_ablation(ablation):
    return {part: getattr(ablation, f"use_{part}") for part in PARTS}


def prompt_settings(ablation, is_user_shown=True):
    """What a prompt is made of, besides its style."""
    return {
        "parts": {**parts_of_ablation(ablation), "user": is_user_shown},
        "task": DATASET.task,
        "cue": DATASET.cue,
        "history": ablation.history.model_dump(),
        "max_history_characters": CONFIG.max_history_characters,
    }


def prompt_of(wildcards):
    is_user_shown = wildcards.ablation in CONFIG.ablations
    return as_json(prompt_settings(ablation_of(wildcards.ablation), is_user_shown))


def style_file(style):
    return ROOT / "config" / "prompts" / f"{style}.yaml"


def style_path(wildcards):
    return str(style_file(ablation_of(wildcards.ablation).prompt_style))


def model_path(name):
    """The folder of a tiny model, or the configured folder, or the hub id with its revision."""
    model = CONFIG.models[name]
    if model.tiny:
        return f"{RESULTS}/base_models/{name}"
    return f"{model.path}@{model.revision}" if model.revision else model.path


def model_input(name):
    """The files of a model on this disk, as inputs of the rules that read it; none for a hub id."""
    path = model_path(name)
    if CONFIG.models[name].tiny:
        return [f"{path}/{file}" for file in TINY_MODEL]
    return path if Path(path).is_dir() else []


def corpus_path(tiny):
    return f"{RESULTS}/prompts/{tiny.corpus_sample}/{tiny.corpus_ablation}.parquet"


def shows_user(ablation):
    """Whether prompts may show anything of the user but a hash."""
    shown = CONFIG.ablations[ablation]
    return shown.use_profile or (shown.use_history and shown.history.max_entries != 0)


def shows_context(ablation):
    """Whether prompts may hold a conversation, which impostors' prompts and those without the user then hold too."""
    return (
        FORMATS[DATASET.format].has_context and CONFIG.ablations[ablation].use_context
    )


def without_user(ablation):
    prefix = CONTEXT_ALONE if shows_context(ablation) else WITHOUT_USER
    return f"{prefix}{CONFIG.ablations[ablation].prompt_style}"


def empty_tokens(ablation, model):
    """The test cohort's prompts without the user."""
    return f"{RESULTS}/tokens/test/{without_user(ablation)}/{model}.parquet"


def impostor_tokens(ablation, model):
    """The test cohort's prompts with impostors as their users; None if the impostors' own prompts serve."""
    if shows_context(ablation):
        return f"{RESULTS}/tokens/impostors/{ablation}/{model}.parquet"
    return None


def tokens_path(sample, stage):
    model = CONFIG.recipes[stage.recipe].model
    return f"{RESULTS}/tokens/{sample}/{stage.ablation}/{model}.parquet"


def run_path(kind, stage, run, file):
    return f"{RESULTS}/{kind}/{stage.sample}/{stage.ablation}/{run}/{file}"


def runs_of(stage):
    """The trainings of a stage: one with its recipe, and one per further seed."""
    return [stage.recipe, *(f"{stage.recipe}{SEED_MARK}{seed}" for seed in stage.seeds)]


def trained(stage):
    return [
        run_path("models", stage, run, file)
        for run in runs_of(stage)
        for file in ["model", "manifest.json", "train_log.jsonl"]
    ]


def sample_settings(wildcards):
    """How the targets of a sample are chosen. The cohorts val and test are samples of their own splits."""
    if wildcards.sample in COHORTS:
        return {
            "split_name": wildcards.sample,
            "sample_seed": CONFIG.cohorts.sample_seed,
            **getattr(CONFIG.cohorts, wildcards.sample).model_dump(),
        }
    return {"split_name": "train", **CONFIG.samples[wildcards.sample].model_dump()}


def bucket_of(wildcards):
    """The option that names a job's part of the users; none in a job for all of them."""
    if "scatteritem" not in wildcards.keys():
        return []
    return ["--bucket", wildcards.scatteritem]


def settings_of_model(wildcards):
    """How prompts are made to fit a model."""
    model = CONFIG.models[wildcards.model]
    return as_json(model.model_dump(include=set(FitSettings.model_fields)))


def as_written(value):
    """A parameter as a function, whose result Snakemake does not format: braces of a text are no wildcards there."""
    return lambda wildcards: value


def outputs_beside(wildcards, input, output):
    """What is written beside tokens; a part of the users has none of its own."""
    if "overlong" not in output.keys():
        return []
    # An evaluation needs all impostors of a target.
    share = 0 if wildcards.sample == "impostors" else DATASET.max_reject_share
    files = {name: output[name] for name in ("overlong", "preview", "trimming")}
    return [
        "--outputs",
        as_json(
            {**files, "interactions": input.interactions, "max_reject_share": share}
        ),
    ]


def overlong_path(cohort, stage):
    return tokens_path(cohort, stage).replace(".parquet", ".overlong.parquet")


def overlong_tables(cohort):
    """For each kind of prompts and model of the stages, the targets of a cohort that do not fit."""
    return {
        f"ablation {stage.ablation} with model {CONFIG.recipes[stage.recipe].model}": overlong_path(
            cohort, stage
        )
        for stage in CONFIG.stages.values()
    }


def as_json(settings):
    """JSON in ASCII, which a command can be given in any locale."""
    return json.dumps(settings, sort_keys=True)
