"""Official checkpoints instead of pretraining."""


rule imported:
    output:
        directory(backbone(OFFICIAL)),
    log:
        log_of(backbone(OFFICIAL)),
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("imported").threads
    resources:
        **ASKS.of("imported").asked(),
    params:
        values=resolved(backbone="{backbone}"),
        backbone=lambda wildcards: PLAN.backbone_file(wildcards.backbone),
        options=lambda wildcards: words(IMPORTED[wildcards.name].options),
    shell:
        "python -m steps.import --name {wildcards.name:q} {params.options:u}"
        ' --backbone {params.backbone:q} --seed {wildcards.seed:q} --out {output:q} 2>> "$(kept {log:q})"'
