"""What pretrainings and tokenizers learnt, in pictures for the page: of the first seed."""

TOKENIZER_DRAWN = f"{RESULTS}/tokenizers/{{tokenizer}}/diagnose/seed{{seed}}"


def drawn():
    """The folders of pictures that the page shows."""
    seed = PLAN.experiment.seeds[0]
    folders = []
    for node in PLAN.drawn():
        row = ROW.format(backbone=node.backbone, recipe=node.recipe, seed=seed)
        folders.append(f"{row}/diagnose")
        folders += [
            TOKENIZER_DRAWN.format(tokenizer=other.name, seed=seed)
            for other in PLAN.needs[node]
            if isinstance(other, Tokenizer)
        ]
    return list(dict.fromkeys(folders))


def tokenizer_of(wildcards):
    """The tokenizer whose tokens a pretraining predicts, if it does, by role."""
    found = behind(Pretraining(wildcards.backbone, wildcards.recipe), wildcards.seed)
    return {role: path for role, path in found.items() if role == "tokenizer"}


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
    shell:
        "python -m steps.diagnose --tokenizer {input.tokenizer} --data {input.data}"
        " --out {output} 2> {log}"
