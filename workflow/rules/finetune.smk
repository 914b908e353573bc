rule finetune:
    input:
        backbone=f"{ROW}/backbone",
        data=DATA,
    output:
        report(
            f"{ROW}/finetune/{{protocol}}.json",
            caption="../report/finetune.rst",
            category="Fine-tuning",
        ),
    log:
        f"{ROW_LOG}-finetune-{{protocol}}.log",
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("finetune").threads
    resources:
        **ASKS.of("finetune").asked(),
    params:
        values=resolved(protocol="{protocol}"),
        file=protocol_file,
    shell:
        "python -m steps.finetune --protocol {params.file} --backbone {input.backbone}"
        " --data {input.data} --out {output} 2> {log}"
