LENGTHS = [] if PLAN.experiment.budget is None else [lengths(EXPERIMENT)]


rule budget:
    input:
        data=DATA,
    output:
        directory(lengths(EXPERIMENT)),
    log:
        log_of(lengths(EXPERIMENT)),
    # Before every pretraining that could start: a recipe that the budget does not suit should show
    # before others have trained for hours. Nothing reads the result.
    priority: 20
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("budget").threads
    resources:
        **ASKS.of("budget").asked(),
    params:
        values=[PLAN.resolved(**named(node)) for node in PLAN.needs],
        file=PLAN.file,
        read=read,
    shell:
        "python -m steps.budget --experiment {params.file:q} {params.read:u} --out {output:q}"
        ' 2>> "$(kept {log:q})"'


# Rows that are trained, and rows of weights that these keep, have paths of one form.
TRAINED = "|".join(map(re.escape, PLAN.recipes)) or "-"
KEPT = "|".join(map(re.escape, PLAN.kept)) or "-"


rule pretrain:
    input:
        unpack(
            lambda wildcards: inputs_of(
                Pretraining(wildcards.backbone, wildcards.recipe), wildcards.seed
            )
        ),
    output:
        directory(backbone(PRETRAINED)),
    log:
        log_of(backbone(PRETRAINED)),
    wildcard_constraints:
        recipe=TRAINED,
    # The longest path through the DAG starts here.
    priority: 10
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("pretrain").threads
    resources:
        **ASKS.of("pretrain").asked(),
    params:
        values=resolved(recipe="{recipe}", backbone="{backbone}"),
        recipe=lambda wildcards: PLAN.recipe_file(wildcards.recipe),
        backbone=lambda wildcards: PLAN.backbone_file(wildcards.backbone),
        read=read,
        scaled=lambda wildcards: words(PLAN.recipe_options(wildcards.recipe)),
    shell:
        "python -m steps.pretrain --recipe {params.recipe:q} {params.scaled:u} --backbone {params.backbone:q}"
        ' {params.read:u} --seed {wildcards.seed:q} --out {output:q} 2>> "$(kept {log:q})"'


rule kept:
    input:
        backbone=lambda wildcards: backbone(
            PATHS.pretrained(
                wildcards.backbone, PLAN.kept[wildcards.recipe].recipe, wildcards.seed
            )
        ),
    output:
        directory(backbone(PRETRAINED)),
    log:
        log_of(backbone(PRETRAINED)),
    wildcard_constraints:
        recipe=KEPT,
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("kept").threads
    resources:
        **ASKS.of("kept").asked(),
    params:
        epoch=lambda wildcards: f"{PLAN.kept[wildcards.recipe].epoch:g}",
        read=read,
    shell:
        "python -m steps.kept {params.read:u} --epoch {params.epoch:q} --out {output:q}"
        ' 2>> "$(kept {log:q})"'
