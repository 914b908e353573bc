rule prepare:
    output:
        directory(data("{dataset}")),
    log:
        log_of(data("{dataset}")),
    # Before every pretraining that could start: an error in a dataset should show first, even if
    # only the last tasks read it.
    priority: 1
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("prepare").threads
    resources:
        **ASKS.of("prepare").asked(),
    params:
        values=resolved(dataset="{dataset}"),
        file=lambda wildcards: PLAN.dataset_file(wildcards.dataset),
    shell:
        'python -m steps.prepare --dataset {params.file:q} --out {output:q} 2>> "$(kept {log:q})"'
