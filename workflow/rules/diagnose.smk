"""Pictures of what pretrainings and tokenizers learnt, for the page, with the first seed."""

DRAWN = [PATHS.drawn(node, PLAN.experiment.seeds[0]) for node in PLAN.drawn()]


rule diagnose:
    input:
        unpack(tokenizer_of),
        backbone=backbone(PRETRAINED),
        data=DATA,
    output:
        report(
            directory(PATHS.diagnosis(PRETRAINED)),
            patterns=["{name}.png"],
            caption="../report/diagnose.rst",
            category="Pictures",
        ),
    log:
        log_of(PATHS.diagnosis(PRETRAINED)),
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("diagnose").threads
    resources:
        **ASKS.of("diagnose").asked(),
    params:
        read=read,
    shell:
        'python -m steps.diagnose {params.read:u} --out {output:q} 2>> "$(kept {log:q})"'


rule diagnose_tokenizer:
    input:
        tokenizer=TOKENIZER,
        data=DATA,
    output:
        report(
            directory(TOKENIZER_DRAWN),
            patterns=["{name}.png"],
            caption="../report/diagnose.rst",
            category="Pictures",
        ),
    log:
        log_of(TOKENIZER_DRAWN),
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("diagnose").threads
    resources:
        **ASKS.of("diagnose").asked(),
    shell:
        "python -m steps.diagnose --tokenizer {input.tokenizer:q} --data {input.data:q}"
        ' --out {output:q} 2>> "$(kept {log:q})"'
