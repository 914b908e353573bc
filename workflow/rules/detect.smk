rule detect:
    input:
        backbone=backbone(ROW),
        data=data(PATHS.evaluated_on("detect")),
    output:
        records=report(
            PATHS.record(ROW, "detect", "{protocol}"),
            caption="../report/detect.rst",
            category="Detection",
        ),
        pictures=report(
            directory(PATHS.pictures(ROW, "detect", "{protocol}")),
            patterns=["{name}.png"],
            caption="../report/detect.rst",
            category="Detection",
        ),
    log:
        log_of(PATHS.record(ROW, "detect", "{protocol}")),
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("detect").threads
    resources:
        **ASKS.of("detect").asked(),
    params:
        values=resolved(protocol="{protocol}"),
        file=protocol_file,
    shell:
        "python -m steps.detect --protocol {params.file} --backbone {input.backbone}"
        ' --data {input.data} --out {output.records} --pictures {output.pictures} 2>> "$(kept {log:q})"'
