"""What stands behind an experiment's rows, and the same said for DVC."""

from __future__ import annotations

from typing import Any

import pytest

from steps.command import UserError
from steps.params.chain import Node, Pretraining, Tokenizer, follow
from steps.params.recipe import Recipe
from steps.params.stages import Chain, chain_of, check_chain
from steps.params.teacher import Teacher
from steps.params.tokenizers.recipe import TokenizerRecipe

DINO, BEIT2, LARGE, VQKD = (
    Pretraining("small", "dino"),
    Pretraining("small", "beit2"),
    Pretraining("large", "dinov2"),
    Tokenizer("vqkd"),
)


def _follow(rows: list[Pretraining], names: dict[Node, dict[str, Any]]) -> dict[Node, list[Node]]:
    """Follow params that hold nothing but what they name, by node."""

    def read(node: Node, named_by: str) -> Recipe | TokenizerRecipe:
        model = TokenizerRecipe if isinstance(node, Tokenizer) else Recipe
        keys = {"teacher": None, "tokenizer": None, **names.get(node, {})}
        return model.model_construct(**keys)

    return follow(rows, read, lambda node: f"{node}.yaml")


def _teacher(node: Pretraining) -> Teacher:
    return Teacher(recipe=node.recipe, backbone=node.backbone)


def test_each_node_stands_after_what_it_needs() -> None:
    names = {BEIT2: {"tokenizer": "vqkd"}, VQKD: {"teacher": _teacher(LARGE)}}
    needs = _follow([BEIT2, DINO], names)
    assert list(needs) == [LARGE, VQKD, BEIT2, DINO]
    assert needs[BEIT2] == [VQKD]
    assert needs[VQKD] == [LARGE]


def test_a_teacher_that_is_a_row_is_that_row() -> None:
    needs = _follow([BEIT2, DINO], {BEIT2: {"teacher": _teacher(DINO)}})
    assert list(needs) == [DINO, BEIT2]


def test_a_circle_is_refused() -> None:
    names = {BEIT2: {"tokenizer": "vqkd"}, VQKD: {"teacher": _teacher(BEIT2)}}
    with pytest.raises(UserError) as caught:
        _follow([BEIT2], names)
    message = str(caught.value)
    assert message.startswith("tokenizer vqkd.yaml: teacher: a circle: beit2 on small, which needs")
    assert "tokenizer vqkd, which needs beit2 on small" in message
    assert "remedy:" in message


def test_the_chain_names_every_node_once() -> None:
    rows = [DINO, BEIT2, Pretraining("small", "distilled"), Pretraining("small", "beit")]
    names = {
        BEIT2: {"tokenizer": "vqkd"},
        VQKD: {"teacher": _teacher(DINO)},
        rows[2]: {"teacher": _teacher(LARGE)},
        rows[3]: {"tokenizer": "dalle"},
    }
    chain = chain_of(rows, _follow(rows, names)).resolved()
    dino = {"recipe": "dino", "backbone": "small"}
    large = {"recipe": "dinov2", "backbone": "large"}
    assert chain == {
        "plain": ["dino"],
        "teachers": [large],
        "students": [{"recipe": "distilled", "backbone": "small", "teacher": large}],
        "tokenized": [
            {"recipe": "beit2", "backbone": "small", "tokenizer": "vqkd"},
            {"recipe": "beit", "backbone": "small", "tokenizer": "dalle"},
        ],
        "tokenizers": ["dalle"],
        "distilled_tokenizers": [{"tokenizer": "vqkd", "teacher": dino}],
    }


def test_a_chain_out_of_step_is_refused() -> None:
    empty: dict[str, list[Any]] = {key: [] for key in Chain.model_fields}
    derived = Chain.model_validate({**empty, "plain": ["mae", "dino"]})
    check_chain("e.yaml", Chain.model_validate({**empty, "plain": ["dino", "mae"]}), derived)
    found = Chain.model_validate({**empty, "plain": ["mae"]})
    with pytest.raises(UserError, match=r"e.yaml: chain.plain: \[mae\] \| allowed: \[mae, dino\]"):
        check_chain("e.yaml", found, derived)
