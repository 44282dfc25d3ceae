"""Check samples and prompts for leaks before anything is trained or scored on them."""


rule audit_sample:
    input:
        sample=f"{RESULTS}/samples/{{sample}}.parquet",
        val=f"{RESULTS}/samples/val.parquet",
        test=f"{RESULTS}/samples/test.parquet",
        interactions=f"{RESULTS}/interactions.parquet",
        split=f"{RESULTS}/split.parquet",
    output:
        f"{RESULTS}/audit/{{sample}}.json",
    log:
        f"{RESULTS}/logs/audit_sample/{{sample}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/audit_sample/{{sample}}.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(4),
        runtime=60,
    params:
        # Not an output, so that it is there after a failure as well.
        findings=f"{RESULTS}/audit/{{sample}}.findings.csv",
        settings=lambda wildcards: as_json(sample_settings(wildcards)),
        split_settings=as_json(CONFIG.split.model_dump(mode="json")),
        allowed=as_json(CONFIG.audit.model_dump()),
        code=digest("audit_sample"),
    shell:
        'python "$SCRIPTS/audit_sample.py"'
        " {output:q} --findings {params.findings:q} --sample {input.sample:q} --val {input.val:q} --test {input.test:q}"
        " --interactions {input.interactions:q} --split {input.split:q} --settings {params.settings:q}"
        " --split-settings {params.split_settings:q} --allowed {params.allowed:q}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'


# No training waits for it: `ancient` would be needed, so that further stages train nothing again, and Snakemake then
# forgets trainings that are missing.
rule check_cohorts:
    input:
        [path for cohort in COHORTS for path in overlong_tables(cohort).values()],
    output:
        f"{RESULTS}/audit/cohorts.json",
    log:
        f"{RESULTS}/logs/check_cohorts.log",
    benchmark:
        f"{RESULTS}/benchmarks/check_cohorts.tsv"
    priority: 100
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(1),
        runtime=60,
    params:
        overlong=as_json({cohort: overlong_tables(cohort) for cohort in COHORTS}),
        code=digest("check_cohorts"),
    shell:
        'python "$SCRIPTS/check_cohorts.py"'
        " {output:q} --overlong {params.overlong:q}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'


rule audit_prompts:
    input:
        prompts=f"{RESULTS}/prompts/{{sample}}/{{ablation}}.parquet",
        interactions=f"{RESULTS}/interactions.parquet",
        split=f"{RESULTS}/split.parquet",
        users=f"{RESULTS}/users.parquet",
        item_table=f"{RESULTS}/items.parquet",
        style=style_path,
    output:
        f"{RESULTS}/audit/{{sample}}/{{ablation}}.json",
    log:
        f"{RESULTS}/logs/audit_prompts/{{sample}}/{{ablation}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/audit_prompts/{{sample}}/{{ablation}}.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(4),
        runtime=60,
    params:
        findings=f"{RESULTS}/audit/{{sample}}/{{ablation}}.findings.csv",
        split_name=lambda wildcards: sample_settings(wildcards)["split_name"],
        prompt=prompt_of,
        allowed=as_json(CONFIG.audit.model_dump()),
        code=digest("audit_prompts"),
    shell:
        'python "$SCRIPTS/audit_prompts.py"'
        " {output:q} --findings {params.findings:q} --prompts {input.prompts:q} --interactions {input.interactions:q}"
        " --split {input.split:q} --split-name {params.split_name} --allowed {params.allowed:q}"
        " --users {input.users:q} --items {input.item_table:q} --style {input.style:q} --prompt {params.prompt:q}"
        ' > {log:q} 2>&1 || bash "$SCRIPTS/fail.sh" {log:q} $?'
