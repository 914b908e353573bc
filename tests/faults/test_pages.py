"""Names of records, titles and metrics cannot break a page, a figure or a terminal, nor script."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from steps.artifacts.manifest import CodeVersion, digest_value
from steps.command import UserError
from steps.reporting.explain import explain
from steps.reporting.figures import curves_figure, ranking_figure
from steps.reporting.markdown import page
from steps.reporting.pictures import Picture, gallery
from steps.reporting.published.page import render_published
from steps.reporting.render import write_report
from steps.reporting.scaling.section import scaling_section
from steps.reporting.source import (
    Provenance,
    ReportSpec,
    ScaledRow,
    Source,
    TracedRecord,
    make_source,
)
from steps.reporting.summary import summarize
from steps.reporting.tables import Table
from steps.reporting.text import code, drawn, paragraphs, plain, printable, target, visible
from tests.processes import REPOSITORY
from tests.unit.reporting.synthetic import Synthetic, build

HOSTILE = (
    "<b>x</b>",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!-- x",
    "[click](javascript:alert(1))",
    "![x](http://evil.example/x.png)",
    "[x]: http://evil.example",
    "<http://evil.example>",
    "http://evil.example",
    "www.evil.example",
    "a|b",
    "a\\|b",
    "a\\\\|b",
    "a\\",
    "|",
    "`code`",
    "``a`b``",
    "```",
    "**bold**",
    "*a* _b_ __c__",
    "~~gone~~",
    "# heading",
    "- item",
    "1. item",
    "> quote",
    "---",
    "===",
    "a\nb",
    "a\n\n# heading",
    "a\r\n| x | y |",
    "a\u2028b",
    "a\tb",
    "&lt;b&gt;",
    "&#60;b&#62;",
    "$x$",
    "$\\frac{",
    "a$b$c",
    "\u202egnp.exe",
    "a\u200bb",
    "a\x1b[31mred",
    "a\x00b",
    "a\ud800b",
    "\U000e0041",
    "](x)",
    '" onmouseover="x',
    "{{x}}",
    "x" * 300,
)
ORDINARY = (
    *("mae", "vit_pico", "mae-x0.5-d25", "ViT-B", "text_R@1", "top5_k10", "ResNet-18", "knn.2"),
    *("Intel(R) Xeon(R) CPU @ 2.80GHz", "43.1 ± 1.2", "2 min 05 s", "a, b; c: d (e)", "12.3 %"),
    *("-1.235", "1,230", "\N{EN DASH}", "R²", "error = 1 / n", "größer", "大小", "it's", '"x"'),
)


class _Seen(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        self.text += "".join(f" {value} " for name, value in attrs if name == "alt")

    def handle_data(self, data: str) -> None:
        self.text += data


def seen(markdown: str) -> _Seen:
    """What a viewer of GitHub's Markdown, raw HTML included, makes of a text."""
    viewer = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    found = _Seen()
    found.feed(viewer.render(markdown))
    return found


def shown(text: str) -> str:
    """What a reader is to see of a text: a line, with a mark for what is not shown."""
    return printable(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_in_a_line_is_shown_as_it_is(text: str) -> None:
    found = seen(f"Start {plain(text)} end")
    assert found.tags == ["p"]
    assert _spaced(found.text) == _spaced(f"Start {shown(text)} end")


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_is_shown_as_it_is(text: str) -> None:
    rows = [[text, "1"], ["x", text]]
    found = seen(Table(["a", text], [False, True], rows).markdown())
    assert sorted(set(found.tags)) == ["table", "tbody", "td", "th", "thead", "tr"]
    assert found.tags.count("td") == 4
    assert found.tags.count("th") == 2
    cells = [_spaced(each) for each in re.split(r"\n+", found.text) if each.strip()]
    texts = ("a", shown(text), shown(text), "1", "x", shown(text))
    assert cells == [_spaced(each) for each in texts if each.strip()]


@pytest.mark.parametrize("text", HOSTILE)
def test_paragraphs_hold_no_block(text: str) -> None:
    found = seen(paragraphs(text))
    assert set(found.tags) <= {"p"}
    assert not found.links


@pytest.mark.parametrize("text", HOSTILE)
def test_a_name_as_code(text: str) -> None:
    found = seen(f"The protocol {code(text)} of it")
    assert set(found.tags) <= {"p", "code"}
    assert _spaced(found.text) == _spaced(f"The protocol {shown(text)} of it")


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert plain(text) == text
    assert drawn(text) == text
    assert visible(text) == text
    assert plain(plain(text)) == text


def _spaced(text: str) -> str:
    return " ".join(text.split())


FIELDS = ("metric", "unit", "method", "kind", "scale", "dataset", "pretrain_dataset")
"""Of records, which a stranger's may hold anything in; the heading's names are below."""


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return build(tmp_path_factory.mktemp("pages"), methods=("random", "mae"), tasks=("knn",))


def renamed(source: Source, text: str) -> Source:
    """The source with a text in the place of every name, as records of others may have it."""
    method = {name: f"{name}{text}" for name in source.heading.methods}
    heading = ReportSpec(
        title=text, question=text, methods=tuple(method.values()), backbones=(text,), seeds=(0,),
        tasks={"knn": (text,)}, imported={method["mae"]: text}, experiment=f"params/{text}.yaml",
        results=f"results/{text}", out=f"reports/{text}",
    )  # fmt: skip
    items = [_renamed(item, method, text) for item in source.traced]
    curves = source.curves.with_columns(
        recipe=source.curves["recipe"].replace_strict(method), backbone=_text(source, text)
    )
    return make_source(heading, items, curves)


def _text(source: Source, text: str) -> Any:
    import polars as pl

    return pl.lit(text)


def _renamed(item: TracedRecord, method: dict[str, str], text: str) -> TracedRecord:
    records = tuple(
        record.model_copy(
            update={
                **dict.fromkeys(FIELDS, text),
                "metric": f"{record.metric}{text}",
                "recipe": method[record.recipe],
                "backbone": text,
                "protocol": text,
            }
        )
        for record in item.records
    )
    code_version = CodeVersion(commit=text, dirty=False, digest=text)
    changes = {
        "node": text, "device": text, "code": code_version, "params": {text: text},
        "libraries": {text: text}, "inputs": {text: text},
    }  # fmt: skip
    digest = digest_value([record.model_dump() for record in records])
    measured = item.measured.model_copy(update={**changes, "digest": digest})
    pretrained = item.pretrained.model_copy(update=changes)
    update = {
        "source": text, "records": records, "measured": measured, "pretrained": pretrained,
        "collapsed": True,
    }  # fmt: skip
    return item.model_copy(update=update)


USABLE = [text for text in HOSTILE if "\ud800" not in text]
"""What JSON and polars hold at all."""


@pytest.mark.parametrize("text", USABLE)
def test_a_page_of_hostile_names_has_the_shape_of_one_of_ordinary_names(
    text: str, made_up: Synthetic
) -> None:
    """Tags, links and headings are those of the same page with plain names."""
    source = made_up.source()
    hostile, ordinary = renamed(source, text), renamed(source, "x")
    sources = (hostile, ordinary)
    pages = [page(each, summarize(each.records()), with_curves=True) for each in sources]
    found, expected = map(seen, pages)
    as_code = ("code", "p")
    assert [tag for tag in found.tags if tag not in as_code] == [
        tag for tag in expected.tags if tag not in as_code
    ]
    assert len(found.links) == len(expected.links)
    for link in found.links:
        assert not re.match(r"\s*(javascript|data|http|www)", link, re.IGNORECASE)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u200b\u202a-\u202e\u2066-\u2069]", pages[0])
    for command in _commands(pages[0]):
        assert shlex.split(command)[:3] == ["python", "-m", "steps.report"]


def _commands(text: str) -> Iterator[str]:
    for block in re.findall(r"^`{3,}sh\n(.*?)^`{3,}$", text, flags=re.M | re.S):
        joined = block.replace("\\\n", " ")
        yield from (each for each in re.split(r"\n(?=python )", joined.strip()) if each)


@pytest.mark.parametrize("text", ["$x$", "$\\frac{", "a$b$c", "a\nb", "_x", "a\x00b", "\u202eb"])
def test_figures_of_hostile_names_are_drawn(text: str, made_up: Synthetic) -> None:
    """A dollar begins no formula, and a line end no line."""
    source = renamed(made_up.source(), text)
    kinds = dict.fromkeys(source.heading.methods, text)
    for png in (
        ranking_figure(summarize(source.records()), source.heading),
        curves_figure(source.curves, kinds, source.heading, source.trained),
    ):
        assert png.startswith(b"\x89PNG")


@pytest.mark.parametrize("text", ["a\x1b[31mred", "\u202egnp.exe", "a\nb", "a\x07\x9bb"])
def test_a_terminal_is_told_no_commands(text: str, made_up: Synthetic, tmp_path: Path) -> None:
    """``--explain`` shows a mark for each character that a terminal would obey."""
    source = renamed(made_up.source(), text)
    write_report(source, tmp_path / "report")
    hidden = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
    assert hidden.search(text.replace("\n", "\x0b"))
    said = explain(tmp_path / "report" / f"mae{text}" / text / "knn")
    assert not hidden.search(said)
    assert "\N{REPLACEMENT CHARACTER}" in said
    with pytest.raises(UserError) as caught:
        explain(tmp_path / "report" / "x" / "y" / "knn")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", USABLE)
def test_a_gallery_of_hostile_names(text: str, made_up: Synthetic) -> None:
    made = Provenance.of(made_up_manifest(made_up)).model_copy(update={"node": "layout"})
    picture = Picture(
        file="a b](javascript:x) <i>.png", sha256="0" * 64, name="layout.png", protocol=text,
        recipe=text, backbone="vit", seed=0, facts={text: 1}, made=made,
    )  # fmt: skip
    other = picture.model_copy(update={"recipe": "mae", "file": "b.png"})
    parts = "\n".join(gallery([picture, other]))
    found = seen(parts)
    plain_names = picture.model_copy(update={"recipe": "x", "protocol": "x", "facts": {"x": 1}})
    expected = seen("\n".join(gallery([plain_names, other])))
    assert [tag for tag in found.tags if tag != "code"] == [
        tag for tag in expected.tags if tag != "code"
    ]
    assert found.links == ["pictures/a%20b%5D%28javascript:x%29%20%3Ci%3E.png", "pictures/b.png"]


def made_up_manifest(made_up: Synthetic) -> Any:
    from steps.artifacts import read_manifest

    return read_manifest(made_up.row("mae") / "backbone")


def test_targets_are_paths() -> None:
    assert target("../../params/experiments/quickstart.yaml") == (
        "../../params/experiments/quickstart.yaml"
    )
    assert target("a b)(c<d>\n") == "a%20b%29%28c%3Cd%3E%0A"


def test_a_record_without_its_evaluation_is_named(made_up: Synthetic, tmp_path: Path) -> None:
    """A heading that names what no record is of, as after an edit by hand."""
    write_report(made_up.source(), tmp_path)
    heading = json.loads((tmp_path / "report.json").read_text())
    heading["tasks"]["linear"] = ["linear"]
    (tmp_path / "report.json").write_text(json.dumps(heading))
    from steps.reporting.check import check_report

    with pytest.raises(
        UserError, match="linear/linear of random/vit_pico/seed0, which has no record"
    ):
        check_report(tmp_path)


@pytest.mark.parametrize("text", USABLE)
def test_published_figures_of_hostile_names(text: str, tmp_path: Path) -> None:
    """Rows of the CSV files that others propose: no tag and no link but those of sources."""
    found = seen(_published(tmp_path / "hostile", text))
    expected = seen(_published(tmp_path / "ordinary", "x"))
    assert [tag for tag in found.tags if tag != "code"] == [
        tag for tag in expected.tags if tag != "code"
    ]
    assert found.links == expected.links


def _published(folder: Path, text: str) -> str:
    """The page of the committed figures, a text in the place of every word about one of them."""
    shutil.copytree(REPOSITORY / "reports/published", folder / "published")
    for name, columns in (
        ("owner_ranking.csv", ("type", "scale", "verdict", "reason")),
        ("results.csv", ("family", "note", "resolution")),
    ):
        path = folder / "published" / name
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows[:3] + [row for row in rows if row.get("task") == "coco_box_ap"][:3]:
            row.update(dict.fromkeys(columns, text))
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return render_published(folder / "published").decode()


@pytest.mark.parametrize("text", USABLE)
def test_a_study_of_scale_of_hostile_names(text: str, study: Source) -> None:
    sections = []
    for name in (text, "x"):
        scaled = {
            row: each.model_copy(update={"recipe": f"{each.recipe}{name}"})
            for row, each in study.heading.scaling.items()
        }
        heading = study.heading.model_copy(update={"scaling": scaled})
        sections.append(seen("\n".join(scaling_section(summarize(study.records()), heading))))
    assert sections[0].tags == sections[1].tags
    assert sections[0].links == sections[1].links


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Source:
    points = [
        ScaledRow(recipe=recipe, length=length, data_share=1.0)
        for recipe in ("mae", "dino")
        for length in (0.5, 1.0, 2.0)
    ]
    scaling = {f"{each.recipe}-x{each.length:g}": each for each in points}
    root = tmp_path_factory.mktemp("study")
    return build(root, methods=("random",), tasks=("knn",), scaling=scaling).source()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_record_that_is_no_number(value: float, made_up: Synthetic) -> None:
    source = made_up.source()
    first, *rest = source.traced
    records = (first.records[0].model_copy(update={"value": value}), *first.records[1:])
    wrong = first.model_copy(update={"records": records})
    with pytest.raises(UserError, match=rf"top1 is {value} \| allowed: a finite number"):
        make_source(source.heading, [wrong, *rest], source.curves)


@pytest.mark.parametrize("value", ["nan", "inf", "1e400", "x", ""])
def test_a_published_figure_that_is_no_number(value: str, tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "reports/published", tmp_path / "published")
    path = tmp_path / "published/results.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    rows[1][rows[0].index("value")] = value
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(UserError, match=r"results\.csv: line 2: value: "):
        render_published(tmp_path / "published")
