"""Tasks of methods with a text tower."""


rule zeroshot:
    input:
        backbone=f"{ROW}/backbone",
        data=DATA,
    output:
        report(
            f"{ROW}/zeroshot/{{protocol}}.json",
            caption="../report/zeroshot.rst",
            category="Zero-shot classification",
        ),
    log:
        f"{ROW_LOG}-zeroshot-{{protocol}}.log",
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("zeroshot").threads
    resources:
        **ASKS.of("zeroshot").asked(),
    params:
        values=resolved(protocol="{protocol}"),
        file=protocol_file,
    shell:
        "python -m steps.zeroshot --protocol {params.file} --backbone {input.backbone}"
        " --data {input.data} --out {output} 2> {log}"


rule retrieval:
    input:
        backbone=f"{ROW}/backbone",
        data=DATA,
    output:
        report(
            f"{ROW}/retrieval/{{protocol}}.json",
            caption="../report/retrieval.rst",
            category="Retrieval",
        ),
    log:
        f"{ROW_LOG}-retrieval-{{protocol}}.log",
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("retrieval").threads
    resources:
        **ASKS.of("retrieval").asked(),
    params:
        values=resolved(protocol="{protocol}"),
        file=protocol_file,
    shell:
        "python -m steps.retrieval --protocol {params.file} --backbone {input.backbone}"
        " --data {input.data} --out {output} 2> {log}"
