"""What is looked at when a run starts, before its first job."""

from persona.artefacts import set_aside_damaged

if workflow.is_main_process:
    for path in set_aside_damaged(Path(RESULTS)):
        print(
            f"{path} is cut off; it is now {path.name}.damaged, and made again if it is needed",
            file=sys.stderr,
        )


def jobs_on_processes():
    """Jobs to run that start processes, each with its recipe's name."""
    named = {}
    for job in workflow.dag.needrun_jobs():
        if job.rule.name in ("train", "evaluate"):
            named[job] = job.wildcards.recipe.partition(SEED_MARK)[0]
        elif job.rule.name == "evaluate_untrained":
            recipe = largest_recipe(job.wildcards)
            named[job] = next(n for n, r in CONFIG.recipes.items() if r == recipe)
    return named


def missing_hardware():
    """Why this machine cannot run the jobs, or None. Of a cluster's hardware its scheduler knows."""
    if not workflow.local_exec:
        return None
    named = jobs_on_processes()
    for job, recipe in named.items():
        if job.resources.get("nodes", 1) > 1:
            return (
                f"recipes.{recipe} asks for nodes: {job.resources.nodes}, and this run has this machine alone; "
                "use --workflow-profile slurm, or set nodes: 1"
            )
    if not any(job.resources.gpu for job in named):
        return None
    import torch

    found, limit = torch.cuda.device_count(), workflow.global_resources.get("gpu").value
    for job, recipe in named.items():
        if job.resources.gpu > found:
            return (
                f"recipes.{recipe} asks for gpus: {job.resources.gpu}, and torch finds {found} here; "
                "lower it, set cpu_processes instead, install torch's CUDA build, or use --workflow-profile slurm"
            )
    if limit and limit > found:
        return (
            f"the profile says that this machine has {limit} GPUs, and torch finds {found}; "
            f"give --resources gpu={found}, or jobs would share them"
        )
    return None


onstart:
    if problem := missing_hardware():
        sys.exit(f"error: {problem}")
