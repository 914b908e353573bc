"""Tasks of methods with a text tower."""


rule zeroshot:
    input:
        backbone=backbone(ROW),
        data=DATA,
    output:
        records=report(
            PATHS.record(ROW, "zeroshot", "{protocol}"),
            caption="../report/zeroshot.rst",
            category="Zero-shot classification",
        ),
        decisions=PATHS.decisions(ROW, "zeroshot", "{protocol}"),
    log:
        log_of(PATHS.record(ROW, "zeroshot", "{protocol}")),
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("zeroshot").threads
    resources:
        **ASKS.of("zeroshot").asked(),
    params:
        values=resolved(protocol="{protocol}"),
        file=protocol_file,
    shell:
        "python -m steps.zeroshot --protocol {params.file:q} --backbone {input.backbone:q}"
        ' --data {input.data:q} --out {output.records:q} 2>> "$(kept {log:q})"'


rule retrieval:
    input:
        backbone=backbone(ROW),
        data=DATA,
    output:
        records=report(
            PATHS.record(ROW, "retrieval", "{protocol}"),
            caption="../report/retrieval.rst",
            category="Retrieval",
        ),
        decisions=PATHS.decisions(ROW, "retrieval", "{protocol}"),
    log:
        log_of(PATHS.record(ROW, "retrieval", "{protocol}")),
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("retrieval").threads
    resources:
        **ASKS.of("retrieval").asked(),
    params:
        values=resolved(protocol="{protocol}"),
        file=protocol_file,
    shell:
        "python -m steps.retrieval --protocol {params.file:q} --backbone {input.backbone:q}"
        ' --data {input.data:q} --out {output.records:q} 2>> "$(kept {log:q})"'
