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
        resources:
            mem_mb=memory(2),
            runtime=60,
        params:
            users=DATASET.synthetic.users,
            seed=DATASET.synthetic.seed,
            habits=DATASET.synthetic.habits,
            min_reviews=DATASET.synthetic.min_reviews,
            code=digest("generate_data"),
        shell:
            'python "$SCRIPTS/generate_data.py"'
            " {output:q} --users {params.users} --seed {params.seed} --habits {params.habits}"
            " --min-reviews {params.min_reviews}"
            ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'

elif not Path(DATASET.path).exists():

    # With this rule a dry run shows all jobs before the data is there; a real run ends here with a message.
    rule raw_data:
        output:
            DATASET.path,
        log:
            f"{RESULTS}/logs/raw_data.log",
        conda:
            ENVIRONMENT
        resources:
            mem_mb=memory(1),
            runtime=60,
        params:
            message=as_written(
                f"error: {DATASET.path}: no such file; put the raw data there or set datasets.{CONFIG.dataset}.path"
            ),
        shell:
            "echo {params.message:q} | tee {log:q} >&2; exit 1"


rule ingest:
    input:
        raw_inputs(),
    output:
        interactions=f"{RESULTS}/interactions.parquet",
        users=f"{RESULTS}/users.parquet",
        item_table=f"{RESULTS}/items.parquet",
        rejects=f"{RESULTS}/rejects.parquet",
        counts=f"{RESULTS}/ingest.json",
    log:
        f"{RESULTS}/logs/ingest.log",
    benchmark:
        f"{RESULTS}/benchmarks/ingest.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(4),
        runtime=60,
    params:
        raw=lambda wildcards: DATASET.path,
        format=DATASET.format,
        folder=lambda wildcards, output: Path(output.interactions).parent,
        options=as_json(DATASET.model_dump(include=set(Options.model_fields))),
        max_reject_share=DATASET.max_reject_share,
        code=digest("ingest"),
    shell:
        'python "$SCRIPTS/ingest.py"'
        " {params.raw:q} --format {params.format} --folder {params.folder:q} --options {params.options:q}"
        " --max-reject-share {params.max_reject_share}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'


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
    resources:
        mem_mb=memory(2),
        runtime=60,
    params:
        settings=as_json(CONFIG.split.model_dump(mode="json")),
        min_reviews=DATASET.min_reviews_per_user,
        bucket=bucket_of,
        code=digest("split"),
    shell:
        'python "$SCRIPTS/split.py"'
        " {input:q} {output:q} --settings {params.settings:q} --min-reviews {params.min_reviews} {params.bucket}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'


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
    resources:
        mem_mb=memory(2),
        runtime=60,
    params:
        settings=lambda wildcards: as_json(sample_settings(wildcards)),
        bucket=bucket_of,
        code=digest("sample"),
    shell:
        'python "$SCRIPTS/sample.py"'
        " {input.interactions:q} {input.split:q} {output:q}"
        " --settings {params.settings:q} {params.bucket}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'


rule render:
    input:
        sample=f"{RESULTS}/samples/{{sample}}.parquet",
        interactions=f"{RESULTS}/interactions.parquet",
        split=f"{RESULTS}/split.parquet",
        users=f"{RESULTS}/users.parquet",
        item_table=f"{RESULTS}/items.parquet",
        style=style_path,
    output:
        f"{RESULTS}/prompts/{{sample}}/{{ablation}}.parquet",
    log:
        f"{RESULTS}/logs/render/{{sample}}/{{ablation}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/render/{{sample}}/{{ablation}}.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(4),
        runtime=60,
    params:
        prompt=prompt_of,
        split_name=lambda wildcards: sample_settings(wildcards)["split_name"],
        bucket=bucket_of,
        code=digest("render"),
    shell:
        'python "$SCRIPTS/render.py"'
        " {output:q} --sample {input.sample:q} --interactions {input.interactions:q}"
        " --split {input.split:q} --split-name {params.split_name}"
        " --users {input.users:q} --items {input.item_table:q} --style {input.style:q} --prompt {params.prompt:q} {params.bucket}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'


rule tokenize:
    input:
        prompts=f"{RESULTS}/prompts/{{sample}}/{{ablation}}.parquet",
        interactions=f"{RESULTS}/interactions.parquet",
        model=lambda wildcards: model_input(wildcards.model),
    output:
        tokens=f"{RESULTS}/tokens/{{sample}}/{{ablation}}/{{model}}.parquet",
        overlong=f"{RESULTS}/tokens/{{sample}}/{{ablation}}/{{model}}.overlong.parquet",
        preview=f"{RESULTS}/tokens/{{sample}}/{{ablation}}/{{model}}.preview.txt",
        trimming=f"{RESULTS}/audit/{{sample}}/{{ablation}}/{{model}}.json",
    log:
        f"{RESULTS}/logs/tokenize/{{sample}}/{{ablation}}/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/tokenize/{{sample}}/{{ablation}}/{{model}}.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(4),
        runtime=60,
    params:
        model=lambda wildcards: model_path(wildcards.model),
        fit=settings_of_model,
        bucket=bucket_of,
        outputs=outputs_beside,
        code=digest("tokenize_prompts"),
    shell:
        'python "$SCRIPTS/tokenize_prompts.py"'
        " {input.prompts:q} {output.tokens:q}"
        " --model {params.model:q} --fit {params.fit:q} {params.bucket} {params.outputs:q}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'
