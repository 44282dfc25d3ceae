"""Tokens -> trained models."""


rule make_tiny_model:
    input:
        lambda wildcards: corpus_path(CONFIG.models[wildcards.model].tiny),
    output:
        [f"{RESULTS}/base_models/{{model}}/{file}" for file in TINY_MODEL],
    log:
        f"{RESULTS}/logs/make_tiny_model/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_tiny_model/{{model}}.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(4),
        runtime=60,
    params:
        folder=lambda wildcards, output: Path(output[0]).parent,
        tiny=lambda wildcards: as_json(
            CONFIG.models[wildcards.model].tiny.model_dump(
                include=set(TinyModel.model_fields)
            )
        ),
        code=digest("make_tiny_model"),
    shell:
        'python "$SCRIPTS/make_tiny_model.py"'
        " {input:q} {params.folder:q} --tiny {params.tiny:q}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'


rule plan:
    input:
        [
            stage[f"{cohort}tokens"]
            for stage in STAGES_TO_PLAN.values()
            for cohort in ["", "val_", "test_", "empty_", "impostor_"]
            if stage[f"{cohort}tokens"]
        ],
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
    resources:
        mem_mb=memory(4),
        runtime=60,
    params:
        stages=as_written(json.dumps(STAGES_TO_PLAN)),
        hardware=as_written(as_json(hardware_to_plan())),
        assumed_sd=CONFIG.evaluation.assumed_sd,
        code=digest("plan"),
    shell:
        'python "$SCRIPTS/plan.py"'
        " {output.table:q} {output.figures:q} --stages {params.stages:q} --hardware {params.hardware:q}"
        " --assumed-sd {params.assumed_sd}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?; cat {output.table:q}'


rule train:
    input:
        train=recipe_tokens(),
        val=recipe_tokens("val"),
        audits=[
            # It reads the test cohort too, on which the training does not depend.
            ancient(f"{RESULTS}/audit/{{sample}}.json"),
            f"{RESULTS}/audit/{{sample}}/{{ablation}}.json",
            f"{RESULTS}/audit/val/{{ablation}}.json",
        ],
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
    threads: lambda wildcards: cores_of_job(recipe_of(wildcards))
    resources:
        mem_mb=lambda wildcards: host_memory(recipe_of(wildcards)),
        runtime=24 * 60,
        nodes=lambda wildcards: recipe_of(wildcards).nodes,
        gpu=lambda wildcards: recipe_of(wildcards).nodes * recipe_of(wildcards).gpus,
        # For Slurm: GPUs of each node, and one task a node that starts its processes by itself.
        gres=lambda wildcards: gpus_of_each_node(recipe_of(wildcards)),
        tasks=lambda wildcards: recipe_of(wildcards).nodes,
        tasks_per_gpu=0,
        mpi=lambda wildcards: "srun" if recipe_of(wildcards).nodes > 1 else None,
    params:
        # Checkpoints and live logs; not an output, so that a killed training can go on from it.
        run=run_folder,
        base=lambda wildcards: model_path(recipe_of(wildcards).model),
        nodes=lambda wildcards: recipe_of(wildcards).nodes,
        processes=lambda wildcards: recipe_of(wildcards).processes_per_node,
        gpus=lambda wildcards: recipe_of(wildcards).gpus,
        optimization=lambda wildcards: as_json(recipe_of(wildcards).optimization()),
        schedule=lambda wildcards: as_json(recipe_of(wildcards).schedule()),
        export=lambda wildcards: as_json(recipe_of(wildcards).export()),
        factors=lambda wildcards: as_json(dict(wildcards)),
    shell:
        'trap : TERM; bash "$SCRIPTS/launch.sh" {params.nodes} {params.processes} "$SCRIPTS/train.py"'
        " --train-tokens {input.train:q} --val-tokens {input.val:q} --deepspeed {input.deepspeed:q}"
        " --gpus {params.gpus} --base-model {params.base:q} --run-folder {params.run:q} --model {output.model:q}"
        " --train-log {output.log:q} --manifest {output.manifest:q} --optimization {params.optimization:q}"
        " --schedule {params.schedule:q} --export {params.export:q} --factors {params.factors:q}"
        ' 3>&2 > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'


# After the training, so that a model is asked as it was trained, whatever the configuration says by now.
rule describe_stage:
    input:
        f"{RESULTS}/models/{{sample}}/{{ablation}}/{{recipe}}/manifest.json",
    output:
        f"{RESULTS}/models/{{sample}}/{{ablation}}/{{recipe}}/stage.json",
    log:
        f"{RESULTS}/logs/describe_stage/{{sample}}/{{ablation}}/{{recipe}}.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(1),
        runtime=60,
    params:
        stage=lambda wildcards: as_json(description(stage_named(wildcards))),
    shell:
        "printf '%s\\n' {params.stage:q} > {output:q} 2> {log:q}"


localrules:
    describe_stage,
