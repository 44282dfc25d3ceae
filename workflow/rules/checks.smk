"""Checks at the start of a run, before its first job."""

import logging
import time
from difflib import get_close_matches

from snakemake.cli import get_argument_parser

from persona.base_model import missing_model
from persona.evaluation.vllm_backend import require_python
from persona.operations.terminal import JobLines
from persona.tables.parquet import rename_damaged
from persona.units import clock

if workflow.is_main_process:
    for note in notes(CONFIG):
        print(f"note: {note}", file=sys.stderr)
    for path in rename_damaged(Path(RESULTS)):
        print(
            f"{path} is cut off; it was renamed to {path.name}.damaged and is made again if it is needed",
            file=sys.stderr,
        )


def unknown_target():
    """A target that is neither a rule nor a path, with the nearest that there is, or None."""
    if not workflow.is_main_process or "snakemake" not in sys.argv[0]:
        return None
    # Snakemake tells a workflow its targets only after it has read all rules.
    arguments, _ = get_argument_parser().parse_known_args(sys.argv[1:])
    known = {each.name for each in workflow.rules}
    named = [each.name for each in workflow.rules if not each.has_wildcards()]
    for target in sorted({*arguments.targets} - known):
        if "/" not in target and not Path(target).exists():
            names = get_close_matches(target, named, n=1) or [
                name for name in named if name.endswith("_all")
            ]
            return (
                f"{target}: no such target; did you mean {' or '.join(names)}? "
                "A file is named with its folder, such as results/dmsc/targets.parquet"
            )
    return None


EVALUATING = [
    "evaluate",
    "evaluate_together",
    *(f"evaluate_untrained_{model}" for model in base_models()),
]


def recipes_to_run(*rules):
    """The recipes that the jobs of some rules use, by name."""
    names = set()
    for job in workflow.dag.needrun_jobs():
        if job.rule.name not in rules:
            continue
        if "recipe" in job.wildcards.keys():
            names.add(job.wildcards.recipe.partition(SEED_MARK)[0])
        else:
            largest = recipe_of(job.wildcards)
            names |= {name for name, r in CONFIG.recipes.items() if r == largest}
    return {name: CONFIG.recipes[name] for name in sorted(names)}


def missing_hardware():
    """Why this machine cannot run the jobs, or None. On a cluster the scheduler checks that."""
    if workflow.touch or not workflow.local_exec:
        return None
    for name, recipe in recipes_to_run("train").items():
        if recipe.nodes > 1:
            return (
                f"recipes.{name} asks for nodes: {recipe.nodes}, but this run has one machine; "
                "use --workflow-profile slurm, or set nodes: 1"
            )
    recipes = recipes_to_run("train", *EVALUATING)
    if not any(recipe.gpus for recipe in recipes.values()):
        return None
    import torch

    found = torch.cuda.device_count()
    limit = getattr(workflow.global_resources.get("gpu"), "value", None)
    for name, recipe in recipes.items():
        if recipe.gpus > found:
            return (
                f"recipes.{name} asks for gpus: {recipe.gpus}, and torch finds {found} here; lower it, "
                "set cpu_processes instead, install torch's CUDA build, or use --workflow-profile slurm"
            )
    if limit is None or limit > found:
        return (
            f"this run may use {limit or 'any number of'} GPUs at a time, and torch finds {found}; "
            f"give --resources gpu={found}, or jobs would share them"
        )
    return None


def missing_packages():
    """Which package the jobs need and this environment lacks, or None. A conda environment has them all."""
    from importlib.util import find_spec

    if (
        workflow.touch
        or not workflow.local_exec
        or workflow.deployment_settings.deployment_method
    ):
        return None
    rules = {"make_tiny_model", "plan", "train", *EVALUATING}
    needed = sorted(rules & {job.rule.name for job in workflow.dag.needrun_jobs()})
    if needed and find_spec("torch") is None:
        return f"torch is not installed, and {needed[0]} needs it; pip install -e '.[train]'"
    missing = [name for name in CONFIG.log_to if find_spec(name) is None]
    if missing and "train" in needed:
        return f"log_to: {missing[0]} is not installed; pip install {missing[0]}, or leave it out of log_to"
    return None


def missing_vllm():
    """Why vLLM cannot write texts, or None."""
    evaluates = {job.rule.name for job in workflow.dag.needrun_jobs()} & {*EVALUATING}
    if workflow.touch or CONFIG.generation.backend != "vllm" or not evaluates:
        return None
    try:
        require_python(CONFIG.generation.vllm_python)
    except PersonaError as error:
        return str(error)
    return None


def missing_base_model():
    """Which model the jobs read is neither on this disk nor on the hub, and how to get it, or None."""
    if workflow.touch:
        return None
    jobs = [set(job.wildcards.items()) for job in workflow.dag.needrun_jobs()]
    read = {name for job in jobs for key, name in job if key == "model"}
    read |= {
        recipe_named(run.partition(MEAN_MARK)[0]).model
        for job in jobs
        for key, run in job
        if key == "recipe"
    }
    paths = (model_path(name) for name in sorted(read) if not CONFIG.models[name].tiny)
    return next(filter(None, map(missing_model, paths)), None)


def date_of(path):
    """The date of a file or folder as Snakemake sees it."""
    marker = Path(path, ".snakemake_timestamp")
    return (marker if marker.exists() else Path(path)).lstat().st_mtime


def dated_in_the_future():
    """Which file or folder that a job reads has a date to come, or None.

    Snakemake compares dates after a job, and would delete what is older than its input.
    """
    jobs = [] if workflow.touch else list(workflow.dag.needrun_jobs())
    made = {path for job in jobs for path in job.output}
    read = {path for job in jobs for path in job.input} - made
    ahead = {p: date_of(p) - time.time() for p in sorted(read) if Path(p).exists()}
    later = [path for path, seconds in ahead.items() if seconds > 0]
    if not later:
        return None
    names = " ".join(shlex.quote(str(path)) for path in later)
    return (
        f"{later[0]} is dated in the future by {clock(ahead[later[0]])}, so all that is made of it would count as outdated; "
        f"give it today's date: touch {names}"
    )


def quiet_terminal():
    """A line for each job of a run instead of Snakemake's own words, which stay in `.snakemake/log`."""
    output = workflow.output_settings
    speaks = output.dryrun or output.verbose or output.printshellcmds
    if speaks or not workflow.is_main_process:
        return
    for handler in logging.getLogger("snakemake.logging").handlers:
        if handler.name == "DefaultStreamHandler":
            lines = JobLines(handler.formatter)
            handler.setFormatter(lines)
            handler.addFilter(lines)


quiet_terminal()


onstart:
    if problem := (
        missing_packages()
        or missing_hardware()
        or missing_base_model()
        or missing_vllm()
        or dated_in_the_future()
    ):
        sys.exit(f"error: {problem}")


onsuccess:
    if "report" in {job.rule.name for job in workflow.dag.jobs}:
        print(Path(f"{RESULTS}/logs/report.log").read_text(encoding="utf-8"))
        print(f"report: {RESULTS}/report/index.html", flush=True)
