"""How a recipe becomes the arguments of a training."""

OPTIMIZATION = {
    "learning_rate",
    "lr_scheduler_type",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "gradient_checkpointing",
}
SCHEDULE = {
    "max_tokens_per_gpu",
    "max_epochs",
    "early_stopping_patience",
    "early_stopping_threshold",
    "checkpoint_every_steps",
    "seed",
}


def optimization(recipe):
    settings = recipe.model_dump(include=OPTIMIZATION)
    if recipe.lora:
        settings["lora"] = recipe.lora.model_dump(exclude={"merge"})
    return as_json(settings)


def hand_over(recipe):
    return as_json(
        {
            "merge_adapter": bool(recipe.lora and recipe.lora.merge),
            "keep_training_state": recipe.keep_training_state,
        }
    )


def schedule(recipe):
    samples = recipe.batch_size * recipe.gradient_accumulation_steps * recipe.processes
    return as_json({"samples_per_step": samples, **recipe.model_dump(include=SCHEDULE)})


def run_folder(wildcards):
    """A training of a higher recipe version starts in a folder of its own."""
    factors = f"{wildcards.sample}/{wildcards.ablation}/{wildcards.recipe}"
    return f"{RESULTS}/runs/{factors}/v{recipe_of(wildcards).version}"
