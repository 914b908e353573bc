"""Official checkpoints in the place of pretraining."""


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
        options=lambda wildcards: shlex.join(IMPORTED[wildcards.name].options),
    shell:
        "python -m steps.import --name {wildcards.name} {params.options}"
        ' --backbone {params.backbone} --seed {wildcards.seed} --out {output} 2>> "$(kept {log:q})"'
