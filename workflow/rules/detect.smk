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
        decisions=PATHS.decisions(ROW, "detect", "{protocol}"),
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
        "python -m steps.detect --protocol {params.file:q} --backbone {input.backbone:q}"
        ' --data {input.data:q} --out {output.records:q} --pictures {output.pictures:q} 2>> "$(kept {log:q})"'
