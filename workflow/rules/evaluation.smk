"""Trained models -> scores and texts, one row a target -> metrics -> report."""


rule build_targets:
    input:
        val=f"{RESULTS}/samples/val.parquet",
        test=f"{RESULTS}/samples/test.parquet",
        interactions=f"{RESULTS}/interactions.parquet",
        split=f"{RESULTS}/split.parquet",
        # All stages leave out the same targets, so one stage's are enough, and a further stage changes nothing.
        overlong=[
            overlong_path(cohort, next(iter(CONFIG.stages.values())))
            for cohort in COHORTS
        ],
    output:
        f"{RESULTS}/targets.parquet",
    log:
        f"{RESULTS}/logs/build_targets.log",
    benchmark:
        f"{RESULTS}/benchmarks/build_targets.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(4),
        runtime=60,
    params:
        candidates=CONFIG.evaluation.candidates,
        seed=CONFIG.evaluation.seed,
        code=digest("build_targets"),
    shell:
        'python "$SCRIPTS/build_targets.py"'
        " {output:q} --val {input.val:q} --test {input.test:q} --interactions {input.interactions:q}"
        " --split {input.split:q} --candidates {params.candidates} --seed {params.seed} --overlong {input.overlong:q}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?; grep "^note: " {log:q} >&2 || true'


ruleorder: render_impostors > render


if CONFIG.buckets > 1:

    ruleorder: render_impostors > gather_prompts


# Prompts of the test targets with each impostor as their user. They are tokenized like those of a sample.
rule render_impostors:
    input:
        targets=f"{RESULTS}/targets.parquet",
        interactions=f"{RESULTS}/interactions.parquet",
        split=f"{RESULTS}/split.parquet",
        users=f"{RESULTS}/users.parquet",
        item_table=f"{RESULTS}/items.parquet",
        style=style_path,
    output:
        f"{RESULTS}/prompts/impostors/{{ablation}}.parquet",
    log:
        f"{RESULTS}/logs/render_impostors/{{ablation}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/render_impostors/{{ablation}}.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(4),
        runtime=60,
    params:
        prompt=prompt_of,
        code=digest("render_impostors"),
    shell:
        'python "$SCRIPTS/render_impostors.py"'
        " {output:q} --targets {input.targets:q} --interactions {input.interactions:q} --split {input.split:q}"
        " --users {input.users:q} --items {input.item_table:q} --style {input.style:q} --prompt {params.prompt:q}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'


rule baselines:
    input:
        interactions=f"{RESULTS}/interactions.parquet",
        split=f"{RESULTS}/split.parquet",
        targets=f"{RESULTS}/targets.parquet",
    output:
        [
            f"{RESULTS}/baselines/{table}.parquet"
            for table in ["ratings", "texts", "authors", "ngram"]
        ],
    log:
        f"{RESULTS}/logs/baselines.log",
    benchmark:
        f"{RESULTS}/benchmarks/baselines.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(8),
        runtime=60,
    params:
        folder=lambda wildcards, output: Path(output[0]).parent,
        seed=CONFIG.evaluation.seed,
        code=digest("baselines"),
    shell:
        'python "$SCRIPTS/baselines.py"'
        " {params.folder:q} --interactions {input.interactions:q} --split {input.split:q}"
        " --targets {input.targets:q} --seed {params.seed}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'


EVALUATE = (
    'bash "$SCRIPTS/launch.sh" 1 {params.processes} "$SCRIPTS/evaluate.py" --gpus {params.gpus}'
    " --evaluations {params.evaluations:q} --targets {input.targets:q} --cues {params.cues:q}"
    " --generation {params.generation:q}"
    ' 3>&2 > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'
)


rule evaluate:
    input:
        # Of the model's folder Snakemake has no checksum; what it was trained on and how is in the manifest.
        model=ancient(f"{RESULTS}/models/{{sample}}/{{ablation}}/{{recipe}}/model"),
        manifest=f"{RESULTS}/models/{{sample}}/{{ablation}}/{{recipe}}/manifest.json",
        targets=f"{RESULTS}/targets.parquet",
        audits=[
            f"{RESULTS}/audit/{{sample}}.json",
            f"{RESULTS}/audit/test/{{ablation}}.json",
        ],
        tokens=lambda wildcards: tokens_to_evaluate([evaluation_of(**dict(wildcards))]),
    output:
        scores=f"{RESULTS}/evaluation/{{sample}}/{{ablation}}/{{recipe}}/scores.parquet",
        generations=f"{RESULTS}/evaluation/{{sample}}/{{ablation}}/{{recipe}}/generations.parquet",
        seconds=f"{RESULTS}/evaluation/{{sample}}/{{ablation}}/{{recipe}}/seconds.json",
    log:
        f"{RESULTS}/logs/evaluate/{{sample}}/{{ablation}}/{{recipe}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{{sample}}/{{ablation}}/{{recipe}}.tsv"
    conda:
        ENVIRONMENT
    threads: lambda wildcards: cores_of_job(recipe_of(wildcards))
    resources:
        mem_mb=lambda wildcards: host_memory(recipe_of(wildcards)),
        runtime=lambda wildcards, attempt: attempt * 12 * 60,
        nodes=1,
        gpu=lambda wildcards: recipe_of(wildcards).gpus,
        tasks_per_gpu=0,
    params:
        evaluations=evaluations_of,
        processes=lambda wildcards: recipe_of(wildcards).processes_per_node,
        gpus=lambda wildcards: recipe_of(wildcards).gpus,
        cues=as_written(as_json([DATASET.cue, DATASET.rating_cue])),
        generation=as_json(CONFIG.generation.model_dump()),
        code=digest("evaluate"),
    shell:
        EVALUATE


if CONFIG.evaluation.together:

    ruleorder: evaluate_together > evaluate

    # All models one after the other in the same processes: to start them takes longer than to evaluate a tiny model.
    use rule evaluate as evaluate_together with:
        input:
            models=ancient(
                [
                    run_path("models", stage, run, "model")
                    for stage in CONFIG.stages.values()
                    for run in runs_of(stage)
                ]
            ),
            manifests=[
                run_path("models", stage, run, "manifest.json")
                for stage in CONFIG.stages.values()
                for run in runs_of(stage)
            ],
            untrained=[model_input(model) for model in base_models()],
            targets=f"{RESULTS}/targets.parquet",
            audits=[
                f"{RESULTS}/audit/{audited}.json"
                for stage in CONFIG.stages.values()
                for audited in [stage.sample, f"test/{stage.ablation}"]
            ],
            tokens=tokens_to_evaluate(all_evaluations()),
        output:
            [
                f"{RESULTS}/{evaluation['name']}/{file}"
                for evaluation in all_evaluations()
                for file in EVALUATED
            ],
        log:
            f"{RESULTS}/logs/evaluate_together.log",
        benchmark:
            f"{RESULTS}/benchmarks/evaluate_together.tsv"

else:

    # One job for each model: it loads the model once for the prompts of all stages. `use rule` takes no computed name.
    for base in base_models():

        rule:
            name:
                f"evaluate_untrained_{base}"
            input:
                model=model_input(base),
                targets=f"{RESULTS}/targets.parquet",
                audits=[
                    f"{RESULTS}/audit/test/{ablation}.json"
                    for ablation in ablations_of(base)
                ],
                tokens=tokens_to_evaluate(untrained_evaluations(base)),
            output:
                [
                    f"{RESULTS}/untrained/{ablation}/{{model}}/{file}"
                    for ablation in ablations_of(base)
                    for file in EVALUATED
                ],
            log:
                f"{RESULTS}/logs/evaluate_untrained/{{model}}.log",
            benchmark:
                f"{RESULTS}/benchmarks/evaluate_untrained/{{model}}.tsv"
            wildcard_constraints:
                model=base,
            conda:
                ENVIRONMENT
            threads: lambda wildcards: cores_of_job(recipe_of(wildcards))
            resources:
                mem_mb=lambda wildcards: host_memory(recipe_of(wildcards)),
                runtime=lambda wildcards, attempt: attempt * 12 * 60,
                nodes=1,
                gpu=lambda wildcards: recipe_of(wildcards).gpus,
                tasks_per_gpu=0,
            params:
                evaluations=evaluations_of,
                processes=lambda wildcards: recipe_of(wildcards).processes_per_node,
                gpus=lambda wildcards: recipe_of(wildcards).gpus,
                cues=as_written(as_json([DATASET.cue, DATASET.rating_cue])),
                generation=as_json(CONFIG.generation.model_dump()),
                code=digest("evaluate"),
            shell:
                EVALUATE


rule measure:
    input:
        scores=scores_to_measure,
        generations=lambda wildcards: str(
            Path(scores_to_measure(wildcards)[0]).with_name("generations.parquet")
        ),
        targets=f"{RESULTS}/targets.parquet",
        prompts=f"{RESULTS}/prompts/test/{{ablation}}.parquet",
        interactions=f"{RESULTS}/interactions.parquet",
        trained_on=f"{RESULTS}/samples/{{sample}}.parquet",
    output:
        f"{RESULTS}/evaluation/{{sample}}/{{ablation}}/{{recipe}}/metrics.json",
    log:
        f"{RESULTS}/logs/measure/{{sample}}/{{ablation}}/{{recipe}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/measure/{{sample}}/{{ablation}}/{{recipe}}.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(8),
        runtime=60,
    params:
        candidates=CONFIG.evaluation.candidates,
        shows_user=lambda wildcards: as_json(shows_user(wildcards.ablation)),
        code=digest("measure"),
    shell:
        'python "$SCRIPTS/measure.py"'
        " {output:q} --scores {input.scores:q} --generations {input.generations:q} --targets {input.targets:q}"
        " --prompts {input.prompts:q} --interactions {input.interactions:q} --trained-on {input.trained_on:q}"
        " --candidates {params.candidates} --shows-user {params.shows_user}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'


use rule measure as measure_untrained with:
    input:
        scores=f"{RESULTS}/untrained/{{ablation}}/{{model}}/scores.parquet",
        generations=f"{RESULTS}/untrained/{{ablation}}/{{model}}/generations.parquet",
        targets=f"{RESULTS}/targets.parquet",
        prompts=f"{RESULTS}/prompts/test/{{ablation}}.parquet",
        interactions=f"{RESULTS}/interactions.parquet",
        # It was trained on none of this data; what it has in common with texts it never saw is the zero of copying.
        trained_on=f"{RESULTS}/samples/val.parquet",
    output:
        f"{RESULTS}/untrained/{{ablation}}/{{model}}/metrics.json",
    log:
        f"{RESULTS}/logs/measure_untrained/{{ablation}}/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/measure_untrained/{{ablation}}/{{model}}.tsv"


rule measure_baselines:
    input:
        targets=f"{RESULTS}/targets.parquet",
        tables=rules.baselines.output,
    output:
        f"{RESULTS}/baselines/metrics.json",
    log:
        f"{RESULTS}/logs/measure_baselines.log",
    benchmark:
        f"{RESULTS}/benchmarks/measure_baselines.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(8),
        runtime=60,
    params:
        folder=lambda wildcards, input: Path(input.tables[0]).parent,
        n_targets=CONFIG.generation.n_targets,
        seed=CONFIG.generation.seed,
        candidates=CONFIG.evaluation.candidates,
        code=digest("measure_baselines"),
    shell:
        'python "$SCRIPTS/measure_baselines.py"'
        " {output:q} --targets {input.targets:q} --folder {params.folder:q} --candidates {params.candidates}"
        " --n-targets {params.n_targets} --seed {params.seed}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'


rule report:
    input:
        [stage["inputs"] for stage in report_stages().values()],
        plan=f"{RESULTS}/plan/plan.json",
        cohorts=f"{RESULTS}/audit/cohorts.json",
        described=[described(stage) for stage in CONFIG.stages.values()],
        ingested=f"{RESULTS}/ingest.json",
        split=f"{RESULTS}/split.parquet",
        item_table=f"{RESULTS}/items.parquet",
        targets=f"{RESULTS}/targets.parquet",
        baselines=[*rules.baselines.output, rules.measure_baselines.output],
        templates=[
            ROOT / "src" / "persona" / "reporting" / template
            for template in ["page.html.j2", "card.md.j2"]
        ],
    output:
        page=report(
            f"{RESULTS}/report/index.html",
            category="Report",
            caption="../report/index.rst",
        ),
        plots=report(
            directory(f"{RESULTS}/report/plots"),
            patterns=["{name}.svg"],
            category="Plots",
            caption="../report/plot.rst",
        ),
        tables=[
            f"{RESULTS}/report/{table}.{kind}"
            for table in ["stages", "methods", "phases"]
            for kind in ["csv", "md"]
        ],
        contrasts=f"{RESULTS}/report/contrasts.json",
        # Copies are in the models, which are folders of another rule.
        cards=[f"{RESULTS}/report/cards/{stage}.md" for stage in CONFIG.stages],
    log:
        f"{RESULTS}/logs/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(8),
        runtime=60,
    params:
        folder=lambda wildcards, output: Path(output.page).parent,
        baselines=lambda wildcards, input: Path(input.baselines[0]).parent,
        stages=as_written(json.dumps(report_stages())),
        contrasts=as_json([c.model_dump() for c in CONFIG.evaluation.contrasts]),
        candidates=CONFIG.evaluation.candidates,
        dataset=CONFIG.dataset,
        caution=as_json(
            [
                "The reviews are synthetic: the figures show that the workflow works, and say nothing about real users.",
                "影评是合成数据：这些数字只说明流程可用，与真实用户无关。",
            ]
            if DATASET.synthetic
            else None
        ),
        code=digest("report"),
    shell:
        'python "$SCRIPTS/report.py"'
        " {params.folder:q} --stages {params.stages:q} --targets {input.targets:q} --baselines {params.baselines:q}"
        " --plan {input.plan:q} --ingested {input.ingested:q} --split {input.split:q} --contrasts {params.contrasts:q} --candidates {params.candidates}"
        " --caution {params.caution:q} --items {input.item_table:q} --dataset {params.dataset}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'
