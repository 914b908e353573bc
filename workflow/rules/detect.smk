rule detect:
    input:
        backbone=f"{ROW}/backbone",
        data=SCENES,
    output:
        records=report(
            f"{ROW}/detect/{{protocol}}.json",
            caption="../report/detect.rst",
            category="Detection",
        ),
        pictures=report(
            directory(f"{ROW}/detect/{{protocol}}"),
            patterns=["{name}.png"],
            caption="../report/detect.rst",
            category="Detection",
        ),
    log:
        f"{ROW_LOG}-detect-{{protocol}}.log",
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
        " --data {input.data} --out {output.records} --pictures {output.pictures} 2> {log}"
