"""Tokens -> trained models -> scores."""


rule make_tiny_model:
    input:
        lambda wildcards: corpus_path(CONFIG.models[wildcards.model].tiny),
    output:
        directory(f"{RESULTS}/base_models/{{model}}"),
    log:
        f"{RESULTS}/logs/make_tiny_model/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_tiny_model/{{model}}.tsv"
    conda:
        ENVIRONMENT
    params:
        tiny=lambda wildcards: as_json(
            CONFIG.models[wildcards.model].tiny.model_dump(
                exclude={"corpus_sample", "corpus_ablation"}
            )
        ),
        code=digest("make_tiny_model"),
    shell:
        'python "$SCRIPTS/make_tiny_model.py"'
        " {input:q} {output:q} --tiny {params.tiny:q}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q}'


rule plan:
    input:
        [stage["tokens"] for stage in STAGES_TO_PLAN.values()],
        [stage["val_tokens"] for stage in STAGES_TO_PLAN.values()],
        [stage["deepspeed"] for stage in STAGES_TO_PLAN.values()],
        [model_input(CONFIG.recipes[s.recipe].model) for s in CONFIG.stages.values()],
    output:
        table=f"{RESULTS}/plan/plan.md",
        figures=f"{RESULTS}/plan/plan.json",
    log:
        f"{RESULTS}/logs/plan.log",
    benchmark:
        f"{RESULTS}/benchmarks/plan.tsv"
    priority: 1  # before any training that could start as well
    conda:
        ENVIRONMENT
    params:
        stages=json.dumps(STAGES_TO_PLAN),
        hardware=as_json(CONFIG.hardware.model_dump()),
        code=digest("plan"),
    shell:
        'python "$SCRIPTS/plan.py"'
        " {output.table:q} {output.figures:q} --stages {params.stages:q} --hardware {params.hardware:q}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q}; cat {output.table:q}'


rule train:
    input:
        train=recipe_tokens(),
        val=recipe_tokens("val"),
        model=lambda wildcards: model_input(recipe_of(wildcards).model),
        deepspeed=lambda wildcards: deepspeed_path(recipe_of(wildcards)),
    output:
        model=directory(f"{RESULTS}/models/{{sample}}/{{ablation}}/{{recipe}}/model"),
        log=f"{RESULTS}/models/{{sample}}/{{ablation}}/{{recipe}}/train_log.jsonl",
        manifest=f"{RESULTS}/models/{{sample}}/{{ablation}}/{{recipe}}/manifest.json",
    log:
        f"{RESULTS}/logs/train/{{sample}}/{{ablation}}/{{recipe}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/{{sample}}/{{ablation}}/{{recipe}}.tsv"
    conda:
        ENVIRONMENT
    threads: lambda wildcards: recipe_of(wildcards).processes
    resources:
        gpu=lambda wildcards: recipe_of(wildcards).gpus,
    params:
        # Checkpoints and live logs; not an output, so that a killed training can go on from it.
        run=run_folder,
        base=lambda wildcards: model_path(recipe_of(wildcards).model),
        processes=lambda wildcards: recipe_of(wildcards).processes,
        optimization=lambda wildcards: as_json(optimization(recipe_of(wildcards))),
        schedule=lambda wildcards: as_json(schedule(recipe_of(wildcards))),
        hand_over=lambda wildcards: as_json(hand_over(recipe_of(wildcards))),
        factors=lambda wildcards: as_json(dict(wildcards)),
    shell:
        "OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore"
        ' torchrun --standalone --nproc-per-node {params.processes} "$SCRIPTS/train.py"'
        " --train-tokens {input.train:q} --val-tokens {input.val:q} --deepspeed {input.deepspeed:q}"
        " --gpus {resources.gpu} --base-model {params.base:q} --run-folder {params.run:q} --model {output.model:q}"
        " --train-log {output.log:q} --manifest {output.manifest:q} --optimization {params.optimization:q}"
        " --schedule {params.schedule:q} --hand-over {params.hand_over:q} --factors {params.factors:q}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q}'


rule evaluate:
    input:
        model=f"{RESULTS}/models/{{sample}}/{{ablation}}/{{recipe}}/model",
        tokens=lambda wildcards: [
            recipe_tokens(cohort)(wildcards) for cohort in COHORTS
        ],
        prompts=[
            f"{RESULTS}/prompts/{cohort}/{{ablation}}.parquet" for cohort in COHORTS
        ],
    output:
        scores=f"{RESULTS}/evaluation/{{sample}}/{{ablation}}/{{recipe}}/scores.parquet",
        generations=f"{RESULTS}/evaluation/{{sample}}/{{ablation}}/{{recipe}}/generations.parquet",
        metrics=f"{RESULTS}/evaluation/{{sample}}/{{ablation}}/{{recipe}}/metrics.json",
    log:
        f"{RESULTS}/logs/evaluate/{{sample}}/{{ablation}}/{{recipe}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{{sample}}/{{ablation}}/{{recipe}}.tsv"
    conda:
        ENVIRONMENT
    resources:
        # One GPU works, but jobs do not share a node's GPUs: each would take the first.
        gpu=lambda wildcards: recipe_of(wildcards).gpus,
    params:
        model=lambda wildcards, input: input.model,
        max_tokens=lambda wildcards: CONFIG.models[
            recipe_of(wildcards).model
        ].max_length,
        cues=as_json([DATASET.cue, DATASET.rating_cue]),
        generation=as_json(CONFIG.generation.model_dump()),
        code=digest("evaluate"),
    shell:
        'python "$SCRIPTS/evaluate.py"'
        " --model {params.model:q} --tokens {input.tokens:q} --prompts {input.prompts:q}"
        " --max-tokens {params.max_tokens} --cues {params.cues:q} --generation {params.generation:q}"
        " --scores {output.scores:q} --generations {output.generations:q} --metrics {output.metrics:q}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q}'


use rule evaluate as evaluate_untrained with:
    input:
        model=lambda wildcards: model_input(wildcards.model),
        tokens=[
            f"{RESULTS}/tokens/{cohort}/{{ablation}}/{{model}}.parquet"
            for cohort in COHORTS
        ],
        prompts=[
            f"{RESULTS}/prompts/{cohort}/{{ablation}}.parquet" for cohort in COHORTS
        ],
    output:
        scores=f"{RESULTS}/untrained/{{ablation}}/{{model}}/scores.parquet",
        generations=f"{RESULTS}/untrained/{{ablation}}/{{model}}/generations.parquet",
        metrics=f"{RESULTS}/untrained/{{ablation}}/{{model}}/metrics.json",
    log:
        f"{RESULTS}/logs/evaluate_untrained/{{ablation}}/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate_untrained/{{ablation}}/{{model}}.tsv"
    resources:
        gpu=lambda wildcards: max(recipe.gpus for recipe in recipes_of(wildcards.model)),
    params:
        model=lambda wildcards: model_path(wildcards.model),
        max_tokens=lambda wildcards: CONFIG.models[wildcards.model].max_length,
        cues=as_json([DATASET.cue, DATASET.rating_cue]),
        generation=as_json(CONFIG.generation.model_dump()),
        code=digest("evaluate"),


rule report:
    input:
        [
            stage_path("models", stage, "manifest.json")
            for stage in CONFIG.stages.values()
        ],
        [
            stage_path("models", stage, "train_log.jsonl")
            for stage in CONFIG.stages.values()
        ],
        [
            stage_path("evaluation", stage, "scores.parquet")
            for stage in CONFIG.stages.values()
        ],
        [f"{stage['untrained']}scores.parquet" for stage in report_stages().values()],
    output:
        html=report(f"{RESULTS}/report/index.html", category="Report"),
        table=f"{RESULTS}/report/stages.tsv",
    log:
        f"{RESULTS}/logs/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report.tsv"
    conda:
        ENVIRONMENT
    params:
        stages=json.dumps(report_stages()),
        caution=(
            "The reviews are synthetic: the figures show that the workflow works, and say nothing about real users."
            if DATASET.synthetic
            else ""
        ),
        code=digest("report"),
    shell:
        'python "$SCRIPTS/report.py"'
        " {output.html:q} {output.table:q} --stages {params.stages:q} --caution={params.caution:q}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q}'
