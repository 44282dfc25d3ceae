"""The whole configuration as pydantic models, composed of the settings that stand beside the code that uses them."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field

from persona.audit.settings import Allowances
from persona.entries.settings import ALL_ENTRIES, HistorySettings
from persona.evaluation.settings import Contrast, GenerationSettings
from persona.ingestion.settings import Options
from persona.modeling.settings import TinyModel
from persona.planning.settings import Hardware
from persona.settings import Count, Day, Name, Positive, Ratio, Seed, Settings, Share, Text
from persona.tokenization.settings import FitSettings
from persona.training.settings import Lora, Optimization, ScheduleSettings

History = Annotated[int, Field(ge=0)]


class Synthetic(Settings):
    """A raw file of synthetic reviews, written at `path`, which is then a file below `results_dir`."""

    users: Count
    """Number of users."""
    seed: Seed = 42
    """Seed of everything that is drawn."""
    habits: Literal["own", "independent"] = "own"
    """`own`: each user has habits of writing. `independent`: nothing in a review depends on its user."""
    min_reviews: Annotated[int, Field(ge=1, le=28)] = 1
    """Reviews of each user at least, of the 28 films. Most users of the release have one or two."""


class Dataset(Options):
    """A raw data set."""

    format: Literal["dmsc_csv", "dmsc_v2", "twin_json", "cornell", "jsonl"]
    """Format of the raw data; see the README."""
    path: Text
    """The raw file, or the folder (or zip archive) with its files."""
    max_reject_share: Share = 0.1
    """Share of rows that may be rejected; more stop the run. Of the targets of each sample and cohort, as large a share
    may be too long for a model (and one in any case)."""
    min_reviews_per_user: Count = 1
    """Users with fewer usable texts are in none of train, val and test. They stay in the tables of the ingestion, and
    `split.parquet` lists them as `left_out`."""
    task: Text = "预测用户会写的影评"
    """Text of the `[TASK]` section of the prompt. The training script's was `预测用户对电影的评分`, which asks for a
    rating above a `cue` that asks for the review; set it to compare."""
    cue: Text = "预测用户的影评："
    """Last line of the prompt."""
    rating_cue: Text | None = "预测用户的评分："
    """Last line of the prompt that asks for the stars instead of the text; `null` never asks. A prompt style that
    trains the stars does not need it."""
    synthetic: Synthetic | None = None
    """Write the raw file instead of expecting it."""


class Split(Settings):
    """How texts are divided into train, val and test."""

    by: Literal["user", "item", "time"] = "user"
    """`user`: all texts of a user are in one split. `item`: all texts on an item are, such as the lines of a film's
    characters, and prompts show no text of a later split. `time`: train on what was written before `val_from`; a user
    may be in all three. See [evaluation.md](../docs/evaluation.md#splits)."""
    val_ratio: Ratio = 0.1
    """Share of users (or items) in val; without effect by time, and refused there."""
    test_ratio: Ratio = 0.1
    """Share of users (or items) in test; likewise."""
    seed: Seed = 42
    """Seed of the division; likewise."""
    val_from: Day | None = None
    """First day of val, such as `2015-01-01`; by time only, and required there."""
    test_from: Day | None = None
    """First day of test; likewise."""


class Sample(Settings):
    """A seeded sample of the training users' texts."""

    max_users: Count | None = None
    """Training users at most; `null` for all."""
    max_samples_per_user: Count | None
    """Training targets per user at most; `null` for all."""
    min_history: History = 0
    """Only texts with at least so many texts of the user from earlier days (in dialogue: earlier conversations) are
    targets. Users without such a text do not count for `max_users`."""
    sample_seed: Seed = 42
    """Samples with the same seed and `min_history` are nested: 2 per user are among 5 per user, and 1,000 users are
    among 10,000. Where they are not, a note at the start says so."""


class Cohort(Settings):
    """The targets of val or of test, the same ones for all stages."""

    max_users: Count | None = 2000
    """Users at most; `null` for all. Early stopping looks at val, so a change of val retrains every stage; a change of
    test retrains none."""
    max_samples_per_user: Count | None = 2
    """Targets per user at most; `null` for all."""
    min_history: History = 0
    """As `samples.*.min_history`; see [evaluation.md](../docs/evaluation.md#users-without-history)."""


class Cohorts(Settings):
    """The val and test targets."""

    val: Cohort = Cohort()
    """The targets that early stopping looks at."""
    test: Cohort = Cohort()
    """The targets that stages are compared on."""
    sample_seed: Seed = 42
    """Seed of the choice of both."""


class Ablation(Settings):
    """What a prompt shows."""

    use_profile: bool
    """Show the user's profile."""
    use_history: bool
    """Show the user's earlier texts."""
    use_context: bool
    """Show the conversation before the target."""
    history: HistorySettings = ALL_ENTRIES
    """Which of the earlier texts are shown, with `use_history: true`."""
    prompt_style: Name = "simple"
    """A file of `config/prompts/`, by its name without `.yaml`."""


class Tiny(TinyModel):
    """A tiny model that the workflow makes."""

    corpus_sample: Name
    """Its tokenizer is trained on the prompts of this sample ..."""
    corpus_ablation: Name
    """... and this ablation."""


class LanguageModel(FitSettings):
    """A base model: `path` or `tiny`."""

    path: str | None = None
    """A local folder or a hub id."""
    revision: Text | None = None
    """Of a hub id: the commit, tag or branch to load; `null` for the newest."""
    tiny: Tiny | None = None
    """A model that the workflow makes, for trying things out."""


class Adapter(Lora):
    """Adapters, and what becomes of them."""

    merge: bool = False
    """Make the result an ordinary model; without it `model/` holds the adapter."""


class Recipe(Optimization, ScheduleSettings):
    """How a stage is trained."""

    model: Name
    """A name of `models`."""
    deepspeed: Name
    """A file of `config/deepspeed/`, by its name without `.json`."""
    nodes: Count = 1
    """Machines; more than one need Slurm, see [cluster.md](../docs/cluster.md)."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs per machine, each with a process; or `cpu_processes`."""
    cpu_processes: Count | None = None
    """CPU processes per machine."""
    batch_size: Count = 1
    """Samples per process; times `gradient_accumulation_steps` and all processes it is the number of samples of an
    optimizer step. (With `batch_by: user` it varies by at most the targets of the largest user.)"""
    gradient_accumulation_steps: Count = 8
    """See `batch_size`. Samples are packed into rows, so it is not the number of micro-steps."""
    lora: Adapter | None = None
    """Train adapters instead of the weights; `null` trains the weights."""
    keep_training_state: bool = False
    """Keep the last checkpoint of a finished training."""
    version: Count = 1
    """A higher version trains again, in a folder of its own."""

    @property
    def shares_prefixes(self) -> bool:
        """Whether prefixes are shared: where that is exact. Dropout of adapters differs between samples."""
        return self.prefix_sharing and not (self.lora and self.lora.dropout)

    def optimization(self) -> dict[str, Any]:
        """The arguments of `Optimization`."""
        return self.model_dump(include=set(Optimization.model_fields), exclude={"lora": {"merge"}})

    def schedule(self) -> dict[str, Any]:
        """The arguments of `Schedule`."""
        return {
            **self.model_dump(include=set(ScheduleSettings.model_fields)),
            "prefix_sharing": self.shares_prefixes,
            "samples_per_step": self.samples_per_step,
        }

    def export(self) -> dict[str, Any]:
        """The arguments of `ExportSettings`."""
        return {
            "merge_adapter": bool(self.lora and self.lora.merge),
            "keep_training_state": self.keep_training_state,
        }

    @property
    def bytes_per_weight(self) -> int:
        """Bytes of a weight in the model, without what the optimizer keeps."""
        return 2 if self.gpus or self.cpu_dtype == "bfloat16" else 4

    @property
    def processes_per_node(self) -> int:
        """Processes per machine."""
        return self.gpus or self.cpu_processes or 1

    @property
    def processes(self) -> int:
        """Processes of all machines."""
        return self.nodes * self.processes_per_node

    @property
    def samples_per_step(self) -> int:
        """Samples of an optimizer step."""
        return self.batch_size * self.gradient_accumulation_steps * self.processes


class Tracking(Settings):
    """What experiment trackers are told of each training, besides its figures."""

    project: Text = "persona"
    """The project (in MLflow the experiment)."""
    run_name: str = "{sample}-{ablation}-{recipe}"
    """Name of a run, with the placeholders `{sample}`, `{ablation}`, `{recipe}`."""
    mode: Literal["online", "offline"] = "offline"
    """Whether W&B and SwanLab send runs to their service. `offline` keeps them in the run folder, to be sent later
    (`wandb sync`, `swanlab sync`). TensorBoard's files are in the run folders (`tensorboard --logdir results`); MLflow
    writes to `runs/mlflow.db` of the data set, or to the server that the
    environment variable `MLFLOW_TRACKING_URI` names."""


class Evaluation(Settings):
    """How stages are evaluated and compared."""

    candidates: Annotated[int, Field(ge=2, le=100)] = 10
    """Users among whom the author of a text is picked out."""
    seed: Seed = 42
    """Seed of the matching of users and of the baselines."""
    together: bool = False
    """Evaluate all stages in one job, which saves process starts where models are tiny. Then a change of one stage
    evaluates all of them again."""
    assumed_sd: Positive = 0.1
    """Standard deviation of the users' effects, in nats per character, from which the plan says how small a gap the
    test users can show. An assumption: in the demo on synthetic reviews it is 0.04 to 0.06 for differences between
    stages and 0.11 for the swap gap; see [evaluation.md](../docs/evaluation.md#how-many-users)."""
    contrasts: list[Contrast] = Field(default_factory=list)
    """Comparisons planned before training. The first is the primary one; the p-values of the others are adjusted for
    their number."""


class Stage(Settings):
    """One training of the study."""

    sample: Name
    """A name of `samples`."""
    ablation: Name
    """A name of `ablations`."""
    recipe: Name
    """A name of `recipes`."""
    seeds: list[Seed] = Field(default_factory=list)
    """Further seeds of the recipe. Each is trained as well, and the scores are averaged. (The plan shows the cost of
    one.)"""


class Config(Settings):
    """The whole configuration."""

    results_dir: Text = "results"
    """Folder of all results, below the folder in which the workflow runs. Nothing is written outside of it."""
    buckets: Annotated[int, Field(ge=1, le=4096)] = 1
    """Jobs over which each data step is spread, each with its part of the users. The bytes are the same."""
    dataset: Name
    """The data set in use, a name of `datasets`."""
    datasets: dict[Name, Dataset]
    """Raw data sets."""
    split: Split = Split()
    """Division into train, val and test."""
    cohorts: Cohorts = Cohorts()
    """Val and test targets."""
    samples: dict[Name, Sample]
    """Training samples."""
    ablations: dict[Name, Ablation]
    """What prompts show."""
    models: dict[Name, LanguageModel]
    """Base models."""
    recipes: dict[Name, Recipe]
    """Ways of training."""
    generation: GenerationSettings = GenerationSettings()
    """Texts that models write."""
    evaluation: Evaluation = Evaluation()
    """Evaluation and comparisons."""
    audit: Allowances = Allowances()
    """What the leak audit allows."""
    hardware: Hardware | None = None
    """What `snakemake plan` assumes of one GPU or CPU process; `python -m persona calibrate` measures it. With `null`
    an H100 is assumed where recipes use GPUs, and where one uses CPUs the plan names no times."""
    log_to: list[Literal["wandb", "tensorboard", "mlflow", "swanlab"]] = Field(default_factory=list)
    """Experiment trackers that get the figures of each training, besides its own logs. Their packages are not needed
    otherwise."""
    tracking: Tracking = Tracking()
    """Project, name and mode of the runs in experiment trackers."""
    stages: Annotated[dict[Name, Stage], Field(min_length=1)]
    """The stages of the study."""

    @property
    def max_history_characters(self) -> int:
        """Characters of history in a prompt at most: 12 for each token that a model reads.

        Prompts serve the models of all stages, and another model should not change them. So the longest one counts,
        rounded up to a power of two, or 2,048 tokens if that is more.
        """
        used = {self.recipes[stage.recipe].model for stage in self.stages.values()}
        longest = max(2048, *(self.models[name].max_length for name in used))
        return 12 * int(2 ** math.ceil(math.log2(longest)))
