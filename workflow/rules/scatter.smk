"""The data steps spread over `buckets` jobs, each with a part of the users; same bytes as in one job."""


scattergather:
    bucket=CONFIG.buckets,


ruleorder: gather_ingest > ingest
ruleorder: gather_split > split
ruleorder: gather_sample > sample
ruleorder: gather_prompts > render
ruleorder: gather_tokens > tokenize


# The raw file is one stream, read once. Every later step runs for each part of the users.
rule partition_rows:
    input:
        raw_inputs(),
    output:
        rows=temp(directory(scatter.bucket(f"{RESULTS}/ingest/rows/{{scatteritem}}"))),
        rejects=temp(f"{RESULTS}/ingest/rejects.parquet"),
        n_rows=temp(f"{RESULTS}/ingest/n_rows.json"),
    log:
        f"{RESULTS}/logs/partition_rows.log",
    benchmark:
        f"{RESULTS}/benchmarks/partition_rows.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(4),
        runtime=60,
    params:
        raw=lambda wildcards: DATASET.path,
        format=DATASET.format,
        options=as_json(DATASET.model_dump(include=set(Options.model_fields))),
        code=digest("partition_rows"),
    shell:
        'python "$SCRIPTS/partition_rows.py"'
        " {params.raw:q} {output.rows:q} --format {params.format} --options {params.options:q}"
        " --rejects {output.rejects:q} --n-rows {output.n_rows:q}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'


rule build_tables:
    input:
        f"{RESULTS}/ingest/rows/{{scatteritem}}",
    output:
        interactions=temp(f"{RESULTS}/ingest/interactions/{{scatteritem}}.parquet"),
        users=temp(f"{RESULTS}/ingest/users/{{scatteritem}}.parquet"),
        titles=temp(f"{RESULTS}/ingest/titles/{{scatteritem}}.parquet"),
        repeats=temp(f"{RESULTS}/ingest/repeats/{{scatteritem}}.parquet"),
    log:
        f"{RESULTS}/logs/build_tables/{{scatteritem}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/build_tables/{{scatteritem}}.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(4),
        runtime=60,
    params:
        format=DATASET.format,
        code=digest("build_tables"),
    shell:
        'python "$SCRIPTS/build_tables.py"'
        " {input:q} --format {params.format} --interactions {output.interactions:q}"
        " --users {output.users:q} --titles {output.titles:q} --repeats {output.repeats:q}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'


rule gather_ingest:
    input:
        interactions=gather.bucket(
            f"{RESULTS}/ingest/interactions/{{scatteritem}}.parquet"
        ),
        users=gather.bucket(f"{RESULTS}/ingest/users/{{scatteritem}}.parquet"),
        titles=gather.bucket(f"{RESULTS}/ingest/titles/{{scatteritem}}.parquet"),
        repeats=gather.bucket(f"{RESULTS}/ingest/repeats/{{scatteritem}}.parquet"),
        rejects=f"{RESULTS}/ingest/rejects.parquet",
        n_rows=f"{RESULTS}/ingest/n_rows.json",
    output:
        interactions=f"{RESULTS}/interactions.parquet",
        users=f"{RESULTS}/users.parquet",
        item_table=f"{RESULTS}/items.parquet",
        rejects=f"{RESULTS}/rejects.parquet",
        counts=f"{RESULTS}/ingest.json",
    log:
        f"{RESULTS}/logs/gather_ingest.log",
    benchmark:
        f"{RESULTS}/benchmarks/gather_ingest.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(4),
        runtime=60,
    params:
        raw=lambda wildcards: DATASET.path,
        format=DATASET.format,
        folder=lambda wildcards, output: Path(output.interactions).parent,
        max_reject_share=DATASET.max_reject_share,
        code=digest("gather_ingest"),
    shell:
        'python "$SCRIPTS/gather_ingest.py"'
        " {params.raw:q} --format {params.format} --interactions {input.interactions:q} --users {input.users:q}"
        " --titles {input.titles:q} --rejects {input.rejects:q} {input.repeats:q} --n-rows {input.n_rows:q}"
        " --folder {params.folder:q} --max-reject-share {params.max_reject_share}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'


use rule split as split_bucket with:
    output:
        temp(f"{RESULTS}/split/{{scatteritem}}.parquet"),
    log:
        f"{RESULTS}/logs/split/{{scatteritem}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/split/{{scatteritem}}.tsv"


rule gather_split:
    input:
        gather.bucket(f"{RESULTS}/split/{{scatteritem}}.parquet"),
    output:
        f"{RESULTS}/split.parquet",
    log:
        f"{RESULTS}/logs/gather_split.log",
    benchmark:
        f"{RESULTS}/benchmarks/gather_split.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(2),
        runtime=60,
    params:
        schema="split" if CONFIG.split.by == "user" else "split_of_reviews",
        code=digest("gather"),
    shell:
        'python "$SCRIPTS/gather.py"'
        " {input:q} --schema {params.schema} --output {output:q}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'


use rule sample as sample_bucket with:
    output:
        temp(f"{RESULTS}/samples/{{sample}}/{{scatteritem}}.parquet"),
    log:
        f"{RESULTS}/logs/sample/{{sample}}/{{scatteritem}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/sample/{{sample}}/{{scatteritem}}.tsv"


rule gather_sample:
    input:
        gather.bucket(f"{RESULTS}/samples/{{{{sample}}}}/{{scatteritem}}.parquet"),
    output:
        f"{RESULTS}/samples/{{sample}}.parquet",
    log:
        f"{RESULTS}/logs/gather_sample/{{sample}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/gather_sample/{{sample}}.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(2),
        runtime=60,
    params:
        settings=lambda wildcards: as_json(sample_settings(wildcards)),
        code=digest("gather_sample"),
    shell:
        'python "$SCRIPTS/gather_sample.py"'
        " {input:q} --output {output:q} --settings {params.settings:q}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'


use rule render as render_bucket with:
    output:
        temp(f"{RESULTS}/prompts/{{sample}}/{{ablation}}/{{scatteritem}}.parquet"),
    log:
        f"{RESULTS}/logs/render/{{sample}}/{{ablation}}/{{scatteritem}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/render/{{sample}}/{{ablation}}/{{scatteritem}}.tsv"


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
    resources:
        mem_mb=memory(4),
        runtime=60,
    params:
        code=digest("gather"),
    shell:
        'python "$SCRIPTS/gather.py"'
        " {input:q} --schema prompts --output {output:q}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'


use rule tokenize as tokenize_bucket with:
    output:
        tokens=temp(
            f"{RESULTS}/tokens/{{sample}}/{{ablation}}/{{model}}/{{scatteritem}}.parquet"
        ),
    log:
        f"{RESULTS}/logs/tokenize/{{sample}}/{{ablation}}/{{model}}/{{scatteritem}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/tokenize/{{sample}}/{{ablation}}/{{model}}/{{scatteritem}}.tsv"


rule gather_tokens:
    input:
        parts=gather.bucket(
            f"{RESULTS}/tokens/{{{{sample}}}}/{{{{ablation}}}}/{{{{model}}}}/{{scatteritem}}.parquet"
        ),
        prompts=f"{RESULTS}/prompts/{{sample}}/{{ablation}}.parquet",
        interactions=f"{RESULTS}/interactions.parquet",
        model=lambda wildcards: model_input(wildcards.model),
    output:
        overlong=f"{RESULTS}/tokens/{{sample}}/{{ablation}}/{{model}}.overlong.parquet",
        tokens=f"{RESULTS}/tokens/{{sample}}/{{ablation}}/{{model}}.parquet",
        preview=f"{RESULTS}/tokens/{{sample}}/{{ablation}}/{{model}}.preview.txt",
        trimming=f"{RESULTS}/audit/{{sample}}/{{ablation}}/{{model}}.json",
    log:
        f"{RESULTS}/logs/gather_tokens/{{sample}}/{{ablation}}/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/gather_tokens/{{sample}}/{{ablation}}/{{model}}.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(4),
        runtime=60,
    params:
        model=lambda wildcards: model_path(wildcards.model),
        fit=settings_of_model,
        outputs=outputs_beside,
        code=[digest("gather"), digest("preview")],
    shell:
        '(python "$SCRIPTS/gather.py" {input.parts:q} --schema tokens --output {output.tokens:q} &&'
        ' python "$SCRIPTS/preview.py" {input.prompts:q} {output.tokens:q} {params.outputs:q}'
        " --model {params.model:q} --fit {params.fit:q})"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'
