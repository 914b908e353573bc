rule detect:
    input:
        backbone=f"{ROW}/backbone",
        data=SCENES,
    output:
        report(
            f"{ROW}/detect.json", caption="../report/detect.rst", category="Detection"
        ),
    log:
        f"{ROW_LOG}-detect.log",
    conda:
        "../envs/pretext.yaml"
    threads: 1
    resources:
        gpus=1,
    params:
        values=resolved(task="detect"),
        file=protocol("detect"),
    shell:
        "python -m steps.detect --protocol {params.file} --backbone {input.backbone}"
        " --data {input.data} --out {output} 2> {log}"
