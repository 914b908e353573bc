"""Replay of the k-NN classifiers of facebookresearch/dino and facebookresearch/dinov2."""

from __future__ import annotations

import re
from typing import Any, Literal

import torch
from torch import Tensor

from steps.evaluation.accuracy import in_top, per_class_percent, percent
from steps.evaluation.knn import few_shot_ks, few_shot_rows, knn_votes
from steps.params.load import load
from steps.params.protocols import KNN
from tests.golden.case import Case
from tests.golden.facts import Facts
from tests.processes import REPOSITORY

CHUNKS = ((7, 11), (1024, 16384))
"""Queries and training samples at a time: the result must not depend on them."""
METRIC = 1e-6
"""Relative: accuracies are recorded as float32 shares."""


def replay(case: Case) -> None:
    """Both classifiers on the whole training set, DINOv2's on few-shot subsets, and the facts."""
    options, expected = case.facts["options"], case.facts["expected"]
    labels = case["input/test_labels"]
    for chunk, bank_chunk in CHUNKS:
        sizes = {"chunk": chunk, "bank_chunk": bank_chunk}
        dino = _votes(case, None, options["k"], "exp", sizes)
        for k, recorded in expected["dino"].items():
            _check_dino(case, int(k), dino[int(k)], labels, recorded)
        found: dict[str, Tensor] = {}
        subsets: dict[str, list[int]] = {}
        for name in expected["dinov2"]:
            subset, k = re.fullmatch(r"(.+)/k(\d+)", name).groups()  # type: ignore[union-attr]
            subsets.setdefault(subset, []).append(int(k))
        for subset, ks in subsets.items():
            shots = re.match(r"(\d+)_per_class", subset)
            wanted = few_shot_ks(options["k"], int(shots[1])) if shots else sorted(options["k"])
            assert sorted(ks) == wanted, f"{subset}: recorded k {ks}, ours {wanted}"
            rows = case[f"dinov2/draw/{subset}/train_indices"] if shots else None
            if rows is not None and shots is not None:
                _check_draw(case, rows, int(shots[1]))
            for k, votes in _votes(case, rows, wanted, "softmax", sizes).items():
                name = f"{subset}/k{k}"
                found[name] = votes
                _check_dinov2(case, name, votes, labels, expected["dinov2"][name])
        same = all(
            torch.equal(dino[k].argmax(dim=1), votes.argmax(dim=1))
            for name, votes in found.items()
            if name.startswith("full/") and (k := int(name.rpartition("/k")[2])) in dino
        )
        key = "dino_and_dinov2_predict_the_same_on_the_full_train_set"
        case.number(float(same), float(expected[key]), key)
    _check_facts(case)


def _votes(
    case: Case,
    rows: Tensor | None,
    ks: list[int],
    weights: Literal["exp", "softmax"],
    sizes: dict[str, int],
) -> dict[int, Tensor]:
    """Votes (M, C) by k, with all or some training samples."""
    train, labels = case["input/train_features"], case["input/train_labels"]
    if rows is not None:
        train, labels = train[rows], labels[rows]
    options = case.facts["options"]
    chunks = list(
        knn_votes(
            train,
            labels,
            case["input/test_features"],
            ks=ks,
            temperature=options["temperature"],
            num_classes=options["num_classes"],
            weights=weights,
            **sizes,
        )
    )
    return {k: torch.cat([chunk[k] for chunk in chunks]) for k in ks}


def _check_dino(
    case: Case, k: int, votes: Tensor, labels: Tensor, recorded: dict[str, float]
) -> None:
    name = f"dino/output/k{k}"
    _check_votes(case, votes, f"{name}/votes")
    case.equal(votes.argmax(dim=1), f"{name}/predicted")
    first, second = votes.topk(2, dim=1).values.unbind(dim=1)
    margin = float(((first - second) / first).min())
    # Recorded to four decimals.
    recorded_margin = torch.tensor(recorded["smallest_relative_margin"])
    case.small(torch.tensor(margin), recorded_margin, f"{name} margin", 5.1e-5)
    undecided = _undecided(votes, labels)
    case.number(int(undecided.sum()), recorded["top5_undecided_by_ties"], f"{name} undecided")
    top1 = percent(int(in_top(votes, labels, 1).sum()), len(labels))
    case.number(top1, recorded["top1"], f"{name} top1", METRIC)
    _check_top5(case, votes, labels, recorded["top5"], name, macro=False)


def _check_dinov2(
    case: Case, name: str, votes: Tensor, labels: Tensor, recorded: dict[str, float]
) -> None:
    room = f"dinov2/output/{name}"
    _check_votes(case, votes, f"{room}/probabilities")
    predicted = votes.argmax(dim=1)
    case.equal(predicted, f"{room}/predicted")
    right = predicted == labels
    top1 = percent(int(right.sum()), len(labels))
    case.number(top1, recorded["mean_accuracy_top-1"], f"{room} top-1", METRIC)
    # The reference's mean counts a class that was predicted, but has no sample, as wrong.
    present = labels.unique()
    counted = len(torch.cat([present, predicted]).unique())
    macro = per_class_percent(right, labels) * len(present) / counted
    case.number(macro, recorded["mean_per_class_accuracy_top-1"], f"{room} macro top-1", METRIC)
    _check_top5(case, votes, labels, recorded["mean_accuracy_top-5"], room, macro=False)
    _check_top5(case, votes, labels, recorded["mean_per_class_accuracy_top-5"], room, macro=True)
    left = recorded.keys() - {
        f"mean_{averaged}accuracy_top-{top}" for averaged in ("", "per_class_") for top in (1, 5)
    }
    assert not left, f"{room}: not compared: {left}"


def _check_votes(case: Case, votes: Tensor, name: str) -> None:
    """Each vote at a relative 1e-5 of itself; no vote where none was."""
    theirs = case[name]
    assert torch.equal(votes > 0, theirs > 0), f"{name}: votes for other classes"
    case.close(votes / theirs.where(theirs > 0, torch.ones(())), (theirs > 0).float(), name, 1e-5)


def _undecided(votes: Tensor, labels: Tensor) -> Tensor:
    """Whose class has no vote where fewer than five classes have: (M,) bool."""
    own = votes.gather(1, labels.unsqueeze(1)).squeeze(1)
    return (own == 0) & ((votes > 0).sum(dim=1) < 5)


def _check_top5(
    case: Case, votes: Tensor, labels: Tensor, recorded: float, name: str, *, macro: bool
) -> None:
    """The recorded value lies between none and all of the undecided samples being right."""

    def value(right: Tensor) -> float:
        if macro:
            return per_class_percent(right, labels)
        return percent(int(right.sum()), len(labels))

    open_ones = _undecided(votes, labels)
    certain = in_top(votes, labels, 5) & ~open_ones
    low, high = value(certain), value(certain | open_ones)
    kind = "macro top5" if macro else "top5"
    case.number(min(max(low, recorded), high), recorded, f"{name} {kind}", METRIC)


def _check_draw(case: Case, rows: Tensor, samples_per_class: int) -> None:
    """Our own draw has the recorded one's make-up: so many of each class, class by class."""
    labels = case["input/train_labels"]
    ours = few_shot_rows(labels, samples_per_class, seed=0, attempt=0)
    case.close(labels[ours], labels[rows], "classes of the few-shot rows", 0.0)
    assert len(ours.unique()) == len(ours)


def _check_facts(case: Case) -> None:
    """Our protocols beside the published defaults."""

    def protocol(name: str) -> Any:
        return load(REPOSITORY / f"params/protocols/{name}.yaml", KNN)

    facts = Facts(case, case.facts["facts"], "facts")
    for family, name in (("dino", "knn"), ("dinov2", "knn_dinov2")):
        ours = protocol(name)
        facts.equal(ours.k, f"{family}_defaults.k")
        facts.equal(ours.temperature, f"{family}_defaults.temperature")
        facts.same(ours.votes, {"dino": "exp", "dinov2": "softmax"}[family], f"{family}: votes")
        facts.same(ours.pooling, "cls", f"{family}: pooling")
    facts.equal(ours.samples_per_class or [-1], "dinov2_defaults.n_per_class_list")
    facts.equal(ours.tries, "dinov2_defaults.n_tries")
    facts.prose("dino_defaults.features", "dino_defaults.transform", "dino_defaults.test_chunks")
    facts.prose("dinov2_defaults.features", "dinov2_defaults.averaging")
    facts.prose("dinov2_defaults.batch_size", "ibot")
    facts.finish()


REPLAYS = {"knn": replay}
