"""What is evaluated of a stage, and what the report reads of it."""

EVALUATED = ["scores.parquet", "generations.parquet", "seconds.json"]


def evaluated(stage):
    """What the evaluations of all trainings of a stage give."""
    return [
        run_path("evaluation", stage, run, file)
        for run in runs_of(stage)
        for file in EVALUATED
    ]


def measured(stage):
    """The metrics of a stage; with several seeds those of the mean scores, `full_mean_43_44`."""
    run = "_".join([f"{stage.recipe}{MEAN_MARK}", *map(str, stage.seeds)])
    return run_path(
        "evaluation", stage, run if stage.seeds else stage.recipe, "metrics.json"
    )


def scores_to_measure(wildcards):
    """The scores of a training, or those of a recipe and its further seeds."""
    name, _, seeds = wildcards.recipe.partition(f"{MEAN_MARK}_")
    runs = (
        [name, *(f"{name}{SEED_MARK}{seed}" for seed in seeds.split("_"))]
        if seeds
        else [wildcards.recipe]
    )
    folder = f"{RESULTS}/evaluation/{wildcards.sample}/{wildcards.ablation}"
    return [f"{folder}/{run}/scores.parquet" for run in runs]


def evaluation_of(ablation, model=None, sample=None, recipe=None):
    """What `evaluate.py` is told of a training, or of a model before any training."""
    settings = recipe_named(recipe) if recipe else largest_recipe(model)
    run = f"{sample}/{ablation}/{recipe}"
    name = f"evaluation/{run}" if recipe else f"untrained/{ablation}/{model}"
    tokens = f"{RESULTS}/tokens/{{}}/{ablation}/{settings.model}.parquet"
    return {
        "name": name,
        "model": f"{RESULTS}/models/{run}/model" if recipe else model_path(model),
        "is_trained": recipe is not None,
        "cpu_dtype": settings.cpu_dtype,
        "expert_parallel": (
            settings.expert_parallel if recipe else largest_degree(model)
        ),
        "val_tokens": tokens.format("val"),
        "test_tokens": tokens.format("test"),
        "empty_tokens": empty_tokens(ablation, settings.model),
        "impostor_tokens": impostor_tokens(ablation, settings.model),
        "max_tokens": settings.max_tokens_per_gpu,
        "scores": f"{RESULTS}/{name}/scores.parquet",
        "generations": f"{RESULTS}/{name}/generations.parquet",
        "seconds": f"{RESULTS}/{name}/seconds.json",
    }


def base_models():
    """The models that stages start from."""
    return sorted(
        {CONFIG.recipes[stage.recipe].model for stage in CONFIG.stages.values()}
    )


def ablations_of(model):
    """Those of the stages that start from a model."""
    stages = CONFIG.stages.values()
    return sorted(
        {s.ablation for s in stages if CONFIG.recipes[s.recipe].model == model}
    )


def untrained_evaluations(model):
    """Those of a model before any training, with the prompts of all stages that start from it."""
    return [evaluation_of(ablation, model) for ablation in ablations_of(model)]


def all_evaluations():
    """Those of the models that stages start from, each model's together, and of all trainings."""
    untrained = [e for model in base_models() for e in untrained_evaluations(model)]
    trained = [
        evaluation_of(stage.ablation, sample=stage.sample, recipe=run)
        for stage in CONFIG.stages.values()
        for run in runs_of(stage)
    ]
    return list({each["name"]: each for each in [*untrained, *trained]}.values())


def evaluations_of(wildcards):
    """The evaluations of a job, in JSON: those of an untrained model, of a training, or all without wildcards."""
    if "model" in wildcards.keys():
        return as_json(untrained_evaluations(wildcards.model))
    if "recipe" in wildcards.keys():
        return as_json([evaluation_of(**dict(wildcards))])
    return as_json(all_evaluations())


def tokens_to_evaluate(evaluations):
    """What evaluations read."""
    names = ["val", "test", "empty", "impostor"]
    paths = [e[f"{name}_tokens"] for e in evaluations for name in names]
    return [path for path in paths if path]


def report_stages():
    """For each stage its settings and the files that its figures come from."""
    stages = {}
    for name, stage in CONFIG.stages.items():
        model = CONFIG.recipes[stage.recipe].model
        ablation = CONFIG.ablations[stage.ablation]
        untrained = f"{RESULTS}/untrained/{stage.ablation}/{model}"
        prompts = f"{RESULTS}/prompts/test/{stage.ablation}.parquet"
        stages[name] = {
            **stage.model_dump(),
            "parts": parts_of_ablation(ablation),
            "history": ablation.history.model_dump(),
            "shows_user": shows_user(stage.ablation),
            "model": model,
            "base_model": model_path(model),
            "prompt_style": ablation.prompt_style,
            "max_samples_per_user": CONFIG.samples[stage.sample].max_samples_per_user,
            "training": [run_path("models", stage, run, "") for run in runs_of(stage)],
            "scores": [
                run_path("evaluation", stage, run, "scores.parquet")
                for run in runs_of(stage)
            ],
            "generations": run_path(
                "evaluation", stage, stage.recipe, "generations.parquet"
            ),
            "evaluation_seconds": run_path(
                "evaluation", stage, stage.recipe, "seconds.json"
            ),
            "metrics": measured(stage),
            "untrained": untrained,
            "prompts": prompts,
            "inputs": [
                prompts,
                *(f"{untrained}/{file}" for file in [*EVALUATED, "metrics.json"]),
                measured(stage),
                *evaluated(stage),
                *(path for path in trained(stage) if Path(path).suffix),
            ],
        }
    return stages


def stage_named(wildcards):
    """The name of the stage with this sample, ablation and recipe."""
    factors = (wildcards.sample, wildcards.ablation, wildcards.recipe)
    return next(
        name
        for name, stage in CONFIG.stages.items()
        if (stage.sample, stage.ablation, stage.recipe) == factors
    )


def described(stage):
    """The file beside a stage's model that says how it was trained to be asked."""
    return run_path("models", stage, stage.recipe, "stage.json")


def description(name):
    """What the commands of `python -m persona` need to know of a stage; paths are below the data set's folder."""
    stage = CONFIG.stages[name]
    recipe = CONFIG.recipes[stage.recipe]
    model = CONFIG.models[recipe.model]
    ablation = CONFIG.ablations[stage.ablation]
    return {
        "name": name,
        "number": list(CONFIG.stages).index(name),
        **stage.model_dump(),
        "runs": runs_of(stage),
        "base_model": model_path(recipe.model),
        "is_tiny": model.tiny is not None,
        "model_name": recipe.model,
        "style": read_yaml(style_file(ablation.prompt_style)),
        "prompt": prompt_settings(ablation),
        "cues": [DATASET.cue, DATASET.rating_cue],
        "shows_user": shows_user(stage.ablation),
        "fit": model.model_dump(include=set(FitSettings.model_fields)),
        "generation": CONFIG.generation.model_dump(),
        "metrics": measured(stage).removeprefix(f"{RESULTS}/"),
        "data": {
            "name": CONFIG.dataset,
            "path": DATASET.path,
            "format": DATASET.format,
            "options": DATASET.model_dump(include=set(Options.model_fields)),
            "synthetic": DATASET.synthetic and DATASET.synthetic.model_dump(),
            "min_reviews_per_user": DATASET.min_reviews_per_user,
            "split": CONFIG.split.model_dump(mode="json"),
            "cohorts": CONFIG.cohorts.model_dump(mode="json"),
        },
    }
