"""Tasks on the frozen backbone."""


rule features:
    input:
        backbone=backbone(ROW),
        data=DATA,
    output:
        directory(FEATURES),
    log:
        log_of(FEATURES),
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("features").threads
    resources:
        **ASKS.of("features").asked(),
    params:
        values=resolved(protocol=PLAN.experiment.features),
        file=PLAN.protocol_file(PLAN.experiment.features),
    shell:
        "python -m steps.features --protocol {params.file:q} --backbone {input.backbone:q}"
        ' --data {input.data:q} --out {output:q} 2>> "$(kept {log:q})"'


rule knn:
    input:
        backbone=backbone(ROW),
        features=FEATURES,
        data=DATA,
    output:
        records=report(
            PATHS.record(ROW, "knn", "{protocol}"),
            caption="../report/knn.rst",
            category="k-NN",
        ),
        decisions=PATHS.decisions(ROW, "knn", "{protocol}"),
    log:
        log_of(PATHS.record(ROW, "knn", "{protocol}")),
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("knn").threads
    resources:
        **ASKS.of("knn").asked(),
    params:
        values=resolved(protocol="{protocol}"),
        file=protocol_file,
    shell:
        "python -m steps.knn --protocol {params.file:q} --backbone {input.backbone:q}"
        ' --features {input.features:q} --data {input.data:q} --out {output.records:q} 2>> "$(kept {log:q})"'


rule linear:
    input:
        backbone=backbone(ROW),
        features=FEATURES,
        data=DATA,
    output:
        records=report(
            PATHS.record(ROW, "linear", "{protocol}"),
            caption="../report/linear.rst",
            category="Linear probe",
        ),
        decisions=PATHS.decisions(ROW, "linear", "{protocol}"),
    log:
        log_of(PATHS.record(ROW, "linear", "{protocol}")),
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("linear").threads
    resources:
        **ASKS.of("linear").asked(),
    params:
        values=resolved(protocol="{protocol}"),
        file=protocol_file,
    shell:
        "python -m steps.linear --protocol {params.file:q} --backbone {input.backbone:q}"
        ' --features {input.features:q} --data {input.data:q} --out {output.records:q} 2>> "$(kept {log:q})"'


rule geometry:
    input:
        backbone=backbone(ROW),
        data=DATA,
    output:
        report(
            PATHS.record(ROW, "geometry", "{protocol}"),
            caption="../report/geometry.rst",
            category="Geometry of features",
        ),
    log:
        log_of(PATHS.record(ROW, "geometry", "{protocol}")),
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("geometry").threads
    resources:
        **ASKS.of("geometry").asked(),
    params:
        values=resolved(protocol="{protocol}"),
        file=protocol_file,
    shell:
        "python -m steps.geometry --protocol {params.file:q} --backbone {input.backbone:q}"
        ' --data {input.data:q} --out {output:q} 2>> "$(kept {log:q})"'


rule segment:
    input:
        backbone=backbone(ROW),
        data=data(PATHS.evaluated_on("segment")),
    output:
        records=report(
            PATHS.record(ROW, "segment", "{protocol}"),
            caption="../report/segment.rst",
            category="Segmentation",
        ),
        decisions=PATHS.decisions(ROW, "segment", "{protocol}"),
    log:
        log_of(PATHS.record(ROW, "segment", "{protocol}")),
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("segment").threads
    resources:
        **ASKS.of("segment").asked(),
    params:
        values=resolved(protocol="{protocol}"),
        file=protocol_file,
    shell:
        "python -m steps.segment --protocol {params.file:q} --backbone {input.backbone:q}"
        ' --data {input.data:q} --out {output.records:q} 2>> "$(kept {log:q})"'


rule layout:
    input:
        backbone=backbone(ROW),
        data=data(PATHS.evaluated_on("segment")),
    output:
        records=report(
            PATHS.record(ROW, "layout", "{protocol}"),
            caption="../report/layout.rst",
            category="Object layout",
        ),
        decisions=PATHS.decisions(ROW, "layout", "{protocol}"),
        pictures=directory(PATHS.pictures(ROW, "layout", "{protocol}")),
    log:
        log_of(PATHS.record(ROW, "layout", "{protocol}")),
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("layout").threads
    resources:
        **ASKS.of("layout").asked(),
    params:
        values=resolved(protocol="{protocol}"),
        file=protocol_file,
    shell:
        "python -m steps.layout --protocol {params.file:q} --backbone {input.backbone:q}"
        ' --data {input.data:q} --out {output.records:q} --pictures {output.pictures:q} 2>> "$(kept {log:q})"'
