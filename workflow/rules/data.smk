"""Raw data -> tokens."""

if DATASET.synthetic:

    rule generate_data:
        output:
            DATASET.path,
        log:
            f"{RESULTS}/logs/generate_data.log",
        benchmark:
            f"{RESULTS}/benchmarks/generate_data.tsv"
        conda:
            ENVIRONMENT
        params:
            users=DATASET.synthetic.users,
            seed=DATASET.synthetic.seed,
            habits=DATASET.synthetic.habits,
            code=digest("generate_data"),
        shell:
            'python "$SCRIPTS/generate_data.py"'
            " {output:q} --users {params.users} --seed {params.seed} --habits {params.habits}"
            ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q}'

elif not Path(DATASET.path).exists():

    # Lets a dry run show the whole plan before the data is there; a real run ends here with a message.
    rule raw_data:
        output:
            DATASET.path,
        log:
            f"{RESULTS}/logs/raw_data.log",
        conda:
            ENVIRONMENT
        params:
            message=f"error: {DATASET.path}: no such file; put the raw data there or set datasets.{CONFIG.dataset}.path",
        shell:
            "echo {params.message:q} | tee {log:q} >&2; exit 1"


rule ingest:
    input:
        raw_inputs(),
    output:
        interactions=f"{RESULTS}/interactions.parquet",
        users=f"{RESULTS}/users.parquet",
        films=f"{RESULTS}/items.parquet",
        rejects=f"{RESULTS}/rejects.parquet",
        counts=f"{RESULTS}/ingest.json",
    log:
        f"{RESULTS}/logs/ingest.log",
    benchmark:
        f"{RESULTS}/benchmarks/ingest.tsv"
    conda:
        ENVIRONMENT
    params:
        raw=lambda wildcards: DATASET.path,
        format=DATASET.format,
        folder=lambda wildcards, output: Path(output.interactions).parent,
        options=as_json(DATASET.model_dump(include=INGEST_OPTIONS)),
        max_reject_share=DATASET.max_reject_share,
        code=digest("ingest"),
    shell:
        'python "$SCRIPTS/ingest.py"'
        " {params.raw:q} --format {params.format} --folder {params.folder:q} --options {params.options:q}"
        " --max-reject-share {params.max_reject_share}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q}'


rule split:
    input:
        f"{RESULTS}/interactions.parquet",
    output:
        f"{RESULTS}/split.parquet",
    log:
        f"{RESULTS}/logs/split.log",
    benchmark:
        f"{RESULTS}/benchmarks/split.tsv"
    conda:
        ENVIRONMENT
    params:
        by=CONFIG.split.by,
        val_ratio=CONFIG.split.val_ratio,
        test_ratio=CONFIG.split.test_ratio,
        seed=CONFIG.split.seed,
        code=digest("split"),
    shell:
        'python "$SCRIPTS/split.py"'
        " {input:q} {output:q} --by {params.by} --val-ratio {params.val_ratio}"
        " --test-ratio {params.test_ratio} --seed {params.seed}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q}'


rule sample:
    input:
        interactions=f"{RESULTS}/interactions.parquet",
        split=f"{RESULTS}/split.parquet",
    output:
        f"{RESULTS}/samples/{{sample}}.parquet",
    log:
        f"{RESULTS}/logs/sample/{{sample}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/sample/{{sample}}.tsv"
    conda:
        ENVIRONMENT
    params:
        settings=lambda wildcards: as_json(sample_settings(wildcards)),
        code=digest("sample"),
    shell:
        'python "$SCRIPTS/sample.py"'
        " {input.interactions:q} {input.split:q} {output:q}"
        " --settings {params.settings:q}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q}'


rule render:
    input:
        sample=f"{RESULTS}/samples/{{sample}}.parquet",
        interactions=f"{RESULTS}/interactions.parquet",
        users=f"{RESULTS}/users.parquet",
        films=f"{RESULTS}/items.parquet",
        style=style_path,
    output:
        f"{RESULTS}/prompts/{{sample}}/{{ablation}}.parquet",
    log:
        f"{RESULTS}/logs/render/{{sample}}/{{ablation}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/render/{{sample}}/{{ablation}}.tsv"
    conda:
        ENVIRONMENT
    params:
        parts=lambda wildcards: as_json(parts_of(wildcards)),
        task=DATASET.task,
        cue=DATASET.cue,
        bucket="1-of-1",
        code=digest("render"),
    shell:
        'python "$SCRIPTS/render.py"'
        " {output:q} --sample {input.sample:q} --interactions {input.interactions:q}"
        " --users {input.users:q} --items {input.films:q} --style {input.style:q} --parts {params.parts:q}"
        " --task {params.task:q} --cue {params.cue:q} --bucket {params.bucket}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q}'


rule tokenize:
    input:
        prompts=f"{RESULTS}/prompts/{{sample}}/{{ablation}}.parquet",
        model=lambda wildcards: model_input(wildcards.model),
    output:
        tokens=f"{RESULTS}/tokens/{{sample}}/{{ablation}}/{{model}}.parquet",
        preview=f"{RESULTS}/tokens/{{sample}}/{{ablation}}/{{model}}.preview.txt",
    log:
        f"{RESULTS}/logs/tokenize/{{sample}}/{{ablation}}/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/tokenize/{{sample}}/{{ablation}}/{{model}}.tsv"
    conda:
        ENVIRONMENT
    params:
        model=lambda wildcards: model_path(wildcards.model),
        max_length=lambda wildcards: CONFIG.models[wildcards.model].max_length,
        bucket="1-of-1",
        preview=lambda wildcards, output: ["--preview", output.preview],
        code=digest("tokenize_prompts"),
    shell:
        'python "$SCRIPTS/tokenize_prompts.py"'
        " {input.prompts:q} {output.tokens:q}"
        " --model {params.model:q} --max-length {params.max_length} --bucket {params.bucket} {params.preview:q}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q}'


# With `buckets` above 1 the work is spread over as many jobs, each with its part of the users; same bytes.
if CONFIG.buckets > 1:

    scattergather:
        bucket=CONFIG.buckets,

    ruleorder: gather_prompts > render
    ruleorder: gather_tokens > tokenize

    use rule render as render_bucket with:
        output:
            temp(f"{RESULTS}/prompts/{{sample}}/{{ablation}}/{{scatteritem}}.parquet"),
        log:
            f"{RESULTS}/logs/render/{{sample}}/{{ablation}}/{{scatteritem}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/render/{{sample}}/{{ablation}}/{{scatteritem}}.tsv"
        params:
            parts=lambda wildcards: as_json(parts_of(wildcards)),
            task=DATASET.task,
            cue=DATASET.cue,
            bucket=lambda wildcards: wildcards.scatteritem,
            code=digest("render"),

    rule gather_prompts:
        input:
            gather.bucket(
                f"{RESULTS}/prompts/{{{{sample}}}}/{{{{ablation}}}}/{{scatteritem}}.parquet"
            ),
        output:
            f"{RESULTS}/prompts/{{sample}}/{{ablation}}.parquet",
        log:
            f"{RESULTS}/logs/gather_prompts/{{sample}}/{{ablation}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/gather_prompts/{{sample}}/{{ablation}}.tsv"
        conda:
            ENVIRONMENT
        params:
            code=digest("gather"),
        shell:
            'python "$SCRIPTS/gather.py"'
            " {input:q} --artefact prompts --output {output:q}"
            ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q}'

    use rule tokenize as tokenize_bucket with:
        output:
            tokens=temp(
                f"{RESULTS}/tokens/{{sample}}/{{ablation}}/{{model}}/{{scatteritem}}.parquet"
            ),
        log:
            f"{RESULTS}/logs/tokenize/{{sample}}/{{ablation}}/{{model}}/{{scatteritem}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/tokenize/{{sample}}/{{ablation}}/{{model}}/{{scatteritem}}.tsv"
        params:
            model=lambda wildcards: model_path(wildcards.model),
            max_length=lambda wildcards: CONFIG.models[wildcards.model].max_length,
            bucket=lambda wildcards: wildcards.scatteritem,
            preview=[],
            code=digest("tokenize_prompts"),

    rule gather_tokens:
        input:
            parts=gather.bucket(
                f"{RESULTS}/tokens/{{{{sample}}}}/{{{{ablation}}}}/{{{{model}}}}/{{scatteritem}}.parquet"
            ),
            prompts=f"{RESULTS}/prompts/{{sample}}/{{ablation}}.parquet",
            model=lambda wildcards: model_input(wildcards.model),
        output:
            tokens=f"{RESULTS}/tokens/{{sample}}/{{ablation}}/{{model}}.parquet",
            preview=f"{RESULTS}/tokens/{{sample}}/{{ablation}}/{{model}}.preview.txt",
        log:
            f"{RESULTS}/logs/gather_tokens/{{sample}}/{{ablation}}/{{model}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/gather_tokens/{{sample}}/{{ablation}}/{{model}}.tsv"
        conda:
            ENVIRONMENT
        params:
            model=lambda wildcards: model_path(wildcards.model),
            code=[digest("gather"), digest("preview")],
        shell:
            '(python "$SCRIPTS/gather.py" {input.parts:q} --artefact tokens --output {output.tokens:q} &&'
            ' python "$SCRIPTS/preview.py" {input.prompts:q} {output.tokens:q} {output.preview:q}'
            " --model {params.model:q})"
            ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q}'
