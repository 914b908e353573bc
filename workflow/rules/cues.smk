"""What features see: tasks on drawn images of which it is known what was drawn."""


rule decode:
    input:
        backbone=backbone(ROW),
        data=data(PATHS.evaluated_on("decode")),
    output:
        records=report(
            PATHS.record(ROW, "decode", "{protocol}"),
            caption="../report/decode.rst",
            category="Decodability of factors",
        ),
        decisions=PATHS.decisions(ROW, "decode", "{protocol}"),
    log:
        log_of(PATHS.record(ROW, "decode", "{protocol}")),
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("decode").threads
    resources:
        **ASKS.of("decode").asked(),
    params:
        values=resolved(protocol="{protocol}"),
        file=protocol_file,
    shell:
        "python -m steps.decode --protocol {params.file:q} --backbone {input.backbone:q}"
        ' --data {input.data:q} --out {output.records:q} 2>> "$(kept {log:q})"'


rule bias:
    input:
        backbone=backbone(ROW),
        data=data(PATHS.evaluated_on("bias")),
    output:
        records=report(
            PATHS.record(ROW, "bias", "{protocol}"),
            caption="../report/bias.rst",
            category="Bias towards cues",
        ),
        decisions=PATHS.decisions(ROW, "bias", "{protocol}"),
    log:
        log_of(PATHS.record(ROW, "bias", "{protocol}")),
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("bias").threads
    resources:
        **ASKS.of("bias").asked(),
    params:
        values=resolved(protocol="{protocol}"),
        file=protocol_file,
    shell:
        "python -m steps.bias --protocol {params.file:q} --backbone {input.backbone:q}"
        ' --data {input.data:q} --out {output.records:q} 2>> "$(kept {log:q})"'
