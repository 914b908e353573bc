"""Published views beside those of a recipe: what is done to an image, how often, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from steps.params.backbone import Backbone
from steps.params.load import load
from steps.params.recipe import Recipe
from steps.params.views import View
from tests.golden.facts import Facts
from tests.processes import REPOSITORY

SIDE = load(REPOSITORY / "params/backbones/vit_b16.yaml", Backbone).image_size
"""Of a view that leaves its size to the backbone."""
INCEPTION_ASPECT = [3 / 4, 4 / 3]
_JITTER = ("brightness", "contrast", "saturation", "hue", "probability")


@dataclass(frozen=True)
class Wanted:
    """A view as published."""

    size: int
    area: Sequence[float]
    blur: float = 0.0
    """Probability, as that of solarisation."""
    solarize: float = 0.0


def views_of(recipe: Recipe) -> list[View]:
    """The views of an image, one by one."""
    assert recipe.training is not None
    return [view for view in recipe.training.views for _ in range(view.count)]


def compare(facts: Facts, recipe: Recipe, wanted: Sequence[Wanted], kernel: Any = None) -> None:
    """Each view's crop and probabilities, and what all views share.

    Args:
        facts: of the augmentation.
        recipe: ours.
        wanted: the published views in order.
        kernel: the kind of blur, as our params name it.
    """
    views = views_of(recipe)
    facts.same(len(views), len(wanted), "views")
    if "views" in facts:
        facts.equal(len(views), "views")
    for index, (view, theirs) in enumerate(zip(views, wanted, strict=True)):
        place = f"views[{index}]"
        blur = 0.0 if view.blur is None else view.blur.probability
        facts.same(view.size or SIDE, theirs.size, f"{place}.size")
        facts.same(view.area, theirs.area, f"{place}.area")
        facts.same(blur, theirs.blur, f"{place}.blur")
        facts.same(view.solarize, theirs.solarize, f"{place}.solarize")
        facts.same(view.rand_augment, None, f"{place}.rand_augment")
        aspect = facts.get("crop_aspect", INCEPTION_ASPECT)
        facts.same(view.aspect, aspect, f"{place}.aspect")
        facts.equal(view.interpolation, "interpolation")
        facts.same(view.flip, facts.get("flip", 0.0), f"{place}.flip")
        _colours(facts, view, place)
        if view.blur is not None:
            key = "blur.sigma" if "blur.sigma" in facts else "blur_sigma"
            facts.same(view.blur.sigma, facts[key], f"{place}.blur.sigma")
            facts.same(view.blur.kernel, facts.get("blur_kernel", kernel), f"{place}.blur.kernel")
        if view.solarize:
            key = "view2.solarize_threshold"
            threshold = facts[key if key in facts else "solarize_threshold"]
            facts.same(view.solarize_threshold, threshold, f"{place}.solarize_threshold")
        if "order" in facts:
            done = _done(view)
            order = [text.split(" (")[0] for text in facts["order"]]
            ours = [name for name in view.order if name in done]
            facts.same(ours, [name for name in order if name in done], f"{place}.order")
            assert set(order) - {"normalise"} >= done, f"{facts.name}: {done} is not published"
    _normalisation(facts, recipe)


def _colours(facts: Facts, view: View, place: str) -> None:
    if "color_jitter" not in facts:
        facts.same(view.jitter, None, f"{place}.jitter")
        facts.same(view.grayscale, 0.0, f"{place}.grayscale")
        return
    assert view.jitter is not None, f"{facts.name}.{place}: colours are not jittered"
    for name in _JITTER:
        facts.equal(getattr(view.jitter, name), f"color_jitter.{name}")
    facts.equal(view.grayscale, "grayscale")


def _done(view: View) -> set[str]:
    """The operations that change a view."""
    done = {"crop"}
    done |= {"flip"} if view.flip else set()
    done |= {"jitter"} if view.jitter is not None else set()
    done |= {"grayscale"} if view.grayscale else set()
    done |= {"blur"} if view.blur is not None else set()
    return done | ({"solarize"} if view.solarize else set())


def _normalisation(facts: Facts, recipe: Recipe) -> None:
    """Given by the recipe: not left to what is measured on a data set."""
    assert recipe.training is not None
    ours = recipe.training.normalise
    assert ours is not None, f"{facts.name}: the recipe has no training.normalise"
    if isinstance(facts["normalise"], str):
        assert facts["normalise"].startswith("none, values clipped to [0,1]")
        facts.same([ours.mean, ours.std], [[0.0] * 3, [1.0] * 3], "normalise")
        return
    facts.equal(ours.mean, "normalise.mean")
    facts.equal(ours.std, "normalise.std")
