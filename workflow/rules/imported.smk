"""Official checkpoints in the place of pretraining."""


rule imported:
    output:
        directory(f"{ROW}/backbone"),
    log:
        f"{ROW_LOG}-import.log",
    wildcard_constraints:
        recipe=OFFICIAL or "(?!)",
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("imported").threads
    resources:
        **ASKS.of("imported").asked(),
    params:
        values=resolved(backbone="{backbone}"),
        backbone=lambda wildcards: PLAN.backbone_file(wildcards.backbone),
        options=lambda wildcards: IMPORTED[wildcards.recipe].options,
    shell:
        "python -m steps.import --name {wildcards.recipe} {params.options}"
        " --backbone {params.backbone} --seed {wildcards.seed} --out {output} 2> {log}"
