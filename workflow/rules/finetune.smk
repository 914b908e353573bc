rule finetune:
    input:
        backbone=f"{ROW}/backbone",
        data=DATA,
    output:
        report(
            f"{ROW}/finetune.json",
            caption="../report/finetune.rst",
            category="Fine-tuning",
        ),
    log:
        f"{ROW_LOG}-finetune.log",
    conda:
        "../envs/pretext.yaml"
    threads: 1
    resources:
        gpus=1,
    params:
        values=resolved(task="finetune"),
        file=protocol("finetune"),
    shell:
        "python -m steps.finetune --protocol {params.file} --backbone {input.backbone}"
        " --data {input.data} --out {output} 2> {log}"
