"""The page of the experiment. `snakemake report` builds it and everything that it needs."""

REPORT = f"reports/{EXPERIMENT}"
TABLES = ["results.csv", "records.jsonl", "curves.csv", "report.json", "pictures.json"]
TABLES += ["decisions.parquet", "images.parquet"]
PICTURES = ["ranking.png", "curves.png"]
BACKBONES = [backbone(PATHS.row(*row)) for row in PLAN.rows()]
EVALUATIONS = [(PATHS.row(*row), *each) for row, *each in PLAN.evaluations()]
RECORDS = [PATHS.record(*each) for each in EVALUATIONS]
DECISIONS = [path for each in EVALUATIONS if (path := PATHS.decisions(*each))]


rule page:
    input:
        backbones=BACKBONES,
        records=RECORDS,
        decisions=DECISIONS,
        drawn=DRAWN,
    output:
        page=report(
            f"{REPORT}/README.md", caption="../report/page.rst", category="Report"
        ),
        tables=[f"{REPORT}/{name}" for name in TABLES],
        shown=directory(f"{REPORT}/pictures"),
        pictures=report(
            [f"{REPORT}/{name}" for name in PICTURES],
            caption="../report/pictures.rst",
            category="Report",
        ),
    log:
        f"logs/reports/{EXPERIMENT}.log",
    conda:
        "../envs/pretext.yaml"
    threads: ASKS.of("page").threads
    resources:
        **ASKS.of("page").asked(),
    params:
        values=PLAN.experiment.resolved(),
        file=PARAMS / "experiments" / f"{EXPERIMENT}.yaml",
        out=lambda wildcards, output: Path(output.page).parent,
    shell:
        "python -m steps.report --experiment {params.file:q} --results results"
        ' --out {params.out:q} 2>> "$(kept {log:q})"'


# The page is committed, so a fresh clone has it before its inputs. The target therefore names the
# inputs too: they are made first, then the page.
rule report:
    default_target: True
    input:
        LENGTHS,
        BACKBONES,
        RECORDS,
        DECISIONS,
        DRAWN,
        rules.page.output,
