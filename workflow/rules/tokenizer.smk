rule tokenizer:
    input:
        unpack(
            lambda wildcards: inputs_of(Tokenizer(wildcards.tokenizer), wildcards.seed)
        ),
    output:
        directory(TOKENIZER),
    log:
        log_of(TOKENIZER),
    priority: 10
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("tokenizer").threads
    resources:
        **ASKS.of("tokenizer").asked(),
    params:
        values=resolved(tokenizer="{tokenizer}"),
        file=lambda wildcards: PLAN.tokenizer_file(wildcards.tokenizer),
        read=read,
        scaled=lambda wildcards: words(PLAN.tokenizer_options(wildcards.tokenizer)),
    shell:
        "python -m steps.tokenizer --tokenizer {params.file:q} {params.scaled:u} {params.read:u}"
        ' --seed {wildcards.seed:q} --out {output:q} 2>> "$(kept {log:q})"'
