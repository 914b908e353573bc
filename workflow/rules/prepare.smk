rule prepare:
    output:
        directory(data("{dataset}")),
    log:
        log_of(data("{dataset}")),
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("prepare").threads
    resources:
        **ASKS.of("prepare").asked(),
    params:
        values=resolved(dataset="{dataset}"),
        file=lambda wildcards: PLAN.dataset_file(wildcards.dataset),
    shell:
        'python -m steps.prepare --dataset {params.file} --out {output} 2>> "$(kept {log:q})"'
