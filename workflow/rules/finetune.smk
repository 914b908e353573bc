rule finetune:
    input:
        backbone=backbone(ROW),
        data=DATA,
    output:
        records=report(
            PATHS.record(ROW, "finetune", "{protocol}"),
            caption="../report/finetune.rst",
            category="Fine-tuning",
        ),
        decisions=PATHS.decisions(ROW, "finetune", "{protocol}"),
    log:
        log_of(PATHS.record(ROW, "finetune", "{protocol}")),
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("finetune").threads
    resources:
        **ASKS.of("finetune").asked(),
    params:
        values=resolved(protocol="{protocol}"),
        file=protocol_file,
    shell:
        "python -m steps.finetune --protocol {params.file:q} --backbone {input.backbone:q}"
        ' --data {input.data:q} --out {output.records:q} 2>> "$(kept {log:q})"'
