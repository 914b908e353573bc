"""What pretrainings and tokenizers learnt, in pictures for the page: of the first seed."""

DRAWN = drawn()


rule diagnose:
    input:
        unpack(tokenizer_of),
        backbone=f"{ROW}/backbone",
        data=DATA,
    output:
        report(
            directory(f"{ROW}/diagnose"),
            patterns=["{name}.png"],
            caption="../report/diagnose.rst",
            category="Pictures",
        ),
    log:
        f"{ROW_LOG}-diagnose.log",
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("diagnose").threads
    resources:
        **ASKS.of("diagnose").asked(),
    params:
        behind=options,
    shell:
        "python -m steps.diagnose {params.behind} --data {input.data} --out {output} 2> {log}"


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
        f"{LOGS}/tokenizer-{{tokenizer}}-seed{{seed}}-diagnose.log",
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("diagnose").threads
    resources:
        **ASKS.of("diagnose").asked(),
    shell:
        "python -m steps.diagnose --tokenizer {input.tokenizer} --data {input.data}"
        " --out {output} 2> {log}"
