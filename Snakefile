"""From raw data to samples, prompts, tokens, trained models and their evaluation."""

from snakemake.utils import min_version

min_version("9.27")

if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/recipes.smk"
include: "workflow/rules/stages.smk"
include: "workflow/rules/data.smk"


if CONFIG.buckets > 1:

    include: "workflow/rules/scatter.smk"


include: "workflow/rules/audit.smk"
include: "workflow/rules/model.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/checks.smk"


rule train_all:
    default_target: True
    input:
        [[*trained(stage), described(stage)] for stage in CONFIG.stages.values()],
        f"{RESULTS}/audit/cohorts.json",


# One stage by its name: train_quick, train_history, ...
for name, stage in CONFIG.stages.items():

    rule:
        name:
            f"train_{name}"
        input:
            trained(stage),
            described(stage),


rule prepare_all:
    input:
        [
            f"{RESULTS}/audit/{audited}.json"
            for stage in CONFIG.stages.values()
            for audited in [
                stage.sample,
                *(f"{s}/{stage.ablation}" for s in [stage.sample, *COHORTS]),
            ]
        ],
        [tokens_path(stage.sample, stage) for stage in CONFIG.stages.values()],
        tokens_to_evaluate(all_evaluations()),
        f"{RESULTS}/audit/cohorts.json",


rule evaluate_all:
    input:
        [
            path
            for stage in CONFIG.stages.values()
            for path in [*evaluated(stage), measured(stage), described(stage)]
        ],
        f"{RESULTS}/audit/cohorts.json",


# Only now all rules are known.
if problem := unknown_target():
    sys.exit(f"error: {problem}")
