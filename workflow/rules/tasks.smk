"""Frozen features, and one rule per task of steps/params/tasks.py."""


rule features:
    input:
        backbone=backbone(ROW),
        data=data(EVALUATED),
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
        read=read,
    shell:
        "python -m steps.features --protocol {params.file:q} {params.read:u} --out {output:q}"
        ' 2>> "$(kept {log:q})"'


# Snakemake evaluates a shell command when its job runs, after the loop: what differs between tasks
# is in params.
for task in TASKS.values():

    rule:
        name:
            task.name
        input:
            **PATHS.inputs(ROW, task.name, set_of(task)),
        output:
            **results_of(task),
        log:
            log_of(PATHS.record(ROW, task.name, "{protocol}", set_of(task))),
        conda:
            "../envs/pretext.yaml"
        threads: ASKS.of(task.name).threads
        resources:
            **ASKS.of(task.name).asked(),
        params:
            values=resolved(protocol="{protocol}"),
            file=protocol_file,
            step=not_compared(task.name),
            read=read,
            made=made,
            meaning=not_compared(f"{task.title}: {task.meaning}."),
        shell:
            "python -m steps.{params.step:q} --protocol {params.file:q} {params.read:u} {params.made:u}"
            ' 2>> "$(kept {log:q})"'
