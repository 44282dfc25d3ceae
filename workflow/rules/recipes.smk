"""Arguments and resources of a training, from its recipe."""


def recipe_named(run):
    """A recipe of the configuration; `full_seed43` is `full` with another seed."""
    name, _, seed = run.partition(SEED_MARK)
    recipe = CONFIG.recipes[name]
    return recipe.model_copy(update={"seed": int(seed)}) if seed else recipe


def used_recipes():
    """The recipes of all stages."""
    return [CONFIG.recipes[stage.recipe] for stage in CONFIG.stages.values()]


def largest_recipe(model=None):
    """The recipe of most processes among those of a model, or among those of all stages."""
    recipes = [r for r in CONFIG.recipes.values() if r.model == model]
    return max(recipes or used_recipes(), key=lambda recipe: recipe.processes_per_node)


def largest_degree(model):
    """Processes over which stages spread the experts of a model, at most: it may be too large for one GPU."""
    return max(r.expert_parallel for r in used_recipes() if r.model == model)


def recipe_of(wildcards):
    """The recipe of a job; where it evaluates untrained models or several models, the largest of theirs."""
    if "recipe" in wildcards.keys():
        return recipe_named(wildcards.recipe)
    return largest_recipe(wildcards.get("model"))


def recipe_tokens(sample=None):
    def path(wildcards):
        model = recipe_of(wildcards).model
        return f"{RESULTS}/tokens/{sample or wildcards.sample}/{wildcards.ablation}/{model}.parquet"

    return path


def cores_of_job(recipe):
    """Cores that the processes of a job share: on this machine's CPU all of the run. Threads would not make a tiny model
    faster, and with one its results are the same on every machine."""
    processes = recipe.processes_per_node
    is_on_cluster = workflow.remote_exec or not workflow.local_exec
    if recipe.gpus or CONFIG.models[recipe.model].tiny or is_on_cluster:
        return processes
    return max(processes, workflow.cores)


def host_memory(recipe):
    """MB per node: all that CPU processes need; with GPUs, what loading and exporting takes. A guess."""
    return recipe.processes_per_node * (64 if recipe.gpus else 4) * 1024


def gpus_of_each_node(recipe):
    """GPUs of each node for Slurm, which would divide the sum of several nodes as it likes."""
    return f"gpu:{recipe.gpus}" if recipe.gpus and recipe.nodes > 1 else None


def deepspeed_path(recipe):
    return str(ROOT / "config" / "deepspeed" / f"{recipe.deepspeed}.json")


def stages_to_plan():
    """What the training of each stage will be started with."""
    plans = {}
    for name, stage in CONFIG.stages.items():
        recipe = CONFIG.recipes[stage.recipe]
        plans[name] = {
            "tokens": tokens_path(stage.sample, stage),
            "val_tokens": tokens_path("val", stage),
            "test_tokens": tokens_path("test", stage),
            "empty_tokens": empty_tokens(stage.ablation, recipe.model),
            "impostor_tokens": impostor_tokens(stage.ablation, recipe.model),
            "model": model_path(recipe.model),
            "deepspeed": deepspeed_path(recipe),
            "optimization": recipe.optimization(),
            "schedule": recipe.schedule(),
            "processes": recipe.processes,
            "processes_per_node": recipe.processes_per_node,
            "candidates": CONFIG.evaluation.candidates,
            "generation": CONFIG.generation.model_dump(),
            "evaluated_together": CONFIG.evaluation.together,
            "bytes_per_weight": recipe.bytes_per_weight,
        }
    return plans


def hardware_to_plan():
    """What the plan computes with; None where it is not configured and recipes use CPUs, which are no H100."""
    on_gpus = all(recipe.gpus for recipe in used_recipes())
    hardware = CONFIG.hardware or (Hardware() if on_gpus else None)
    return hardware and hardware.model_dump()


STAGES_TO_PLAN = stages_to_plan()


def run_folder(wildcards):
    """The run folder; a higher version of the recipe has a folder of its own."""
    factors = f"{wildcards.sample}/{wildcards.ablation}/{wildcards.recipe}"
    return f"{RESULTS}/runs/{factors}/v{recipe_of(wildcards).version}"
