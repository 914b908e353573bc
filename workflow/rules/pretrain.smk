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
    # The longest way through the DAG starts here.
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
