"""Tasks on the frozen backbone."""


rule features:
    input:
        backbone=f"{ROW}/backbone",
        data=DATA,
    output:
        directory(f"{ROW}/features"),
    log:
        f"{ROW_LOG}-features.log",
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("features").threads
    resources:
        **ASKS.of("features").asked(),
    params:
        values=resolved(protocol=PLAN.experiment.features),
        file=PLAN.protocol_file(PLAN.experiment.features),
    shell:
        "python -m steps.features --protocol {params.file} --backbone {input.backbone}"
        " --data {input.data} --out {output} 2> {log}"


rule knn:
    input:
        backbone=f"{ROW}/backbone",
        features=f"{ROW}/features",
    output:
        report(
            f"{ROW}/knn/{{protocol}}.json",
            caption="../report/knn.rst",
            category="k-NN",
        ),
    log:
        f"{ROW_LOG}-knn-{{protocol}}.log",
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("knn").threads
    resources:
        **ASKS.of("knn").asked(),
    params:
        values=resolved(protocol="{protocol}"),
        file=protocol_file,
    shell:
        "python -m steps.knn --protocol {params.file} --backbone {input.backbone}"
        " --features {input.features} --out {output} 2> {log}"


rule linear:
    input:
        backbone=f"{ROW}/backbone",
        features=f"{ROW}/features",
        data=DATA,
    output:
        report(
            f"{ROW}/linear/{{protocol}}.json",
            caption="../report/linear.rst",
            category="Linear probe",
        ),
    log:
        f"{ROW_LOG}-linear-{{protocol}}.log",
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("linear").threads
    resources:
        **ASKS.of("linear").asked(),
    params:
        values=resolved(protocol="{protocol}"),
        file=protocol_file,
    shell:
        "python -m steps.linear --protocol {params.file} --backbone {input.backbone}"
        " --features {input.features} --data {input.data} --out {output} 2> {log}"


rule geometry:
    input:
        backbone=f"{ROW}/backbone",
        data=DATA,
    output:
        report(
            f"{ROW}/geometry/{{protocol}}.json",
            caption="../report/geometry.rst",
            category="Geometry of features",
        ),
    log:
        f"{ROW_LOG}-geometry-{{protocol}}.log",
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("geometry").threads
    resources:
        **ASKS.of("geometry").asked(),
    params:
        values=resolved(protocol="{protocol}"),
        file=protocol_file,
    shell:
        "python -m steps.geometry --protocol {params.file} --backbone {input.backbone}"
        " --data {input.data} --out {output} 2> {log}"


rule segment:
    input:
        backbone=f"{ROW}/backbone",
        data=SCENES,
    output:
        report(
            f"{ROW}/segment/{{protocol}}.json",
            caption="../report/segment.rst",
            category="Segmentation",
        ),
    log:
        f"{ROW_LOG}-segment-{{protocol}}.log",
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("segment").threads
    resources:
        **ASKS.of("segment").asked(),
    params:
        values=resolved(protocol="{protocol}"),
        file=protocol_file,
    shell:
        "python -m steps.segment --protocol {params.file} --backbone {input.backbone}"
        " --data {input.data} --out {output} 2> {log}"


rule layout:
    input:
        backbone=f"{ROW}/backbone",
        data=SCENES,
    output:
        records=report(
            f"{ROW}/layout/{{protocol}}.json",
            caption="../report/layout.rst",
            category="Object layout",
        ),
        pictures=directory(f"{ROW}/layout/{{protocol}}"),
    log:
        f"{ROW_LOG}-layout-{{protocol}}.log",
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("layout").threads
    resources:
        **ASKS.of("layout").asked(),
    params:
        values=resolved(protocol="{protocol}"),
        file=protocol_file,
    shell:
        "python -m steps.layout --protocol {params.file} --backbone {input.backbone}"
        " --data {input.data} --out {output.records} --pictures {output.pictures} 2> {log}"
