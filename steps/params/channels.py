"""Checks of views and normalisation against the channels and bits of a set's images."""

from __future__ import annotations

from collections.abc import Iterator

from steps.command import UserError
from steps.params.base import Params
from steps.params.recipe import Training
from steps.params.sets import RGB
from steps.params.tokenizers import TokenizerRecipe
from steps.params.views import View

Form = tuple[int, int]
"""Channels of each image and bits of each channel."""


def in_words(form: Form) -> str:
    """A form for users, such as 4 channels of 16 bits."""
    channels, bits = form
    return f"{channels} channel{'' if channels == 1 else 's'} of {bits} bits"


def check_training(where: str, training: Training, form: Form, dataset: str) -> None:
    """Refuse a training that the images of a set cannot have.

    Args:
        where: the file of recipe or protocol, for errors.
        training: the run.
        form: of the images of the set.
        dataset: name of the set, for errors.

    Raises:
        UserError: a view changes colours, or the normalisation is for other channels.
    """
    phases = {"views": training.views}
    if training.final_phase is not None:
        phases["final_phase.views"] = training.final_phase.views
    for key, views in phases.items():
        for index, view in enumerate(views):
            check_view(f"{where}: training.{key}[{index}]", view, form, dataset)
    if (given := training.normalise) is not None and len(given.mean) != form[0]:
        raise UserError(
            f"{where}: training.normalise",
            f"{len(given.mean)} channels, and {dataset} has {in_words(form)}",
            allowed=f"a mean and a std of {form[0]} numbers each, or no such key",
            remedy="remove the key: the mean and std that prepare measured are then used",
        )


def check_view(where: str, view: View, form: Form, dataset: str) -> None:
    """Refuse a view whose operations a set's images cannot have; ``where`` names its key.

    Raises:
        UserError: naming the operation.
    """
    for key, found, allowed, remedy in _unfit(view, form):
        raise UserError(
            f"{where}.{key}",
            f"{found}, and {dataset} has {in_words(form)}",
            allowed=allowed,
            remedy=remedy,
        )


def check_protocol(where: str, protocol: Params, form: Form, dataset: str) -> None:
    """Refuse a protocol with views that a set's images cannot have. Arguments as in
    ``check_training``.

    Raises:
        UserError: naming the key.
    """
    if isinstance(training := getattr(protocol, "training", None), Training):
        check_training(where, training, form, dataset)
    if isinstance(view := getattr(protocol, "view", None), View):
        check_view(f"{where}: view", view, form, dataset)


def check_tokenizer(where: str, recipe: TokenizerRecipe, form: Form, dataset: str) -> None:
    """Refuse a tokenizer that cannot see a set's images. Arguments as in ``check_training``.

    Raises:
        UserError: it is official, or normalises by the statistics of photographs; or a view does
            not suit the images.
    """
    if recipe.training is not None:
        check_training(where, recipe.training, form, dataset)
    if form[0] == RGB[0]:
        return
    imagenet = getattr(recipe.tokenizer, "process_type", "default") == "imagenet_norm"
    for key, found, remedy in (
        ("official", recipe.official is not None, "train a tokenizer on these images"),
        ("tokenizer.process_type", imagenet, "set it to default"),
    ):
        if found:
            raise UserError(
                f"{where}: {key}",
                f"is for three channels, and {dataset} has {in_words(form)}",
                remedy=remedy,
            )


def _unfit(view: View, form: Form) -> Iterator[tuple[str, str, str, str]]:
    """Key, fault, what is allowed and remedy of each operation that is refused."""
    if form == RGB:
        return
    gone = "set it to 0.0, or remove the key"
    if form[0] != RGB[0]:
        colours = "is for red, green and blue"
        if (jitter := view.jitter) is not None and (jitter.saturation or jitter.hue):
            yield (
                "jitter",
                f"of saturation {jitter.saturation:g} and hue {jitter.hue:g} {colours}",
                "saturation: 0.0 and hue: 0.0, which leave brightness and contrast",
                "set both to 0.0, or remove the key jitter",
            )
        if view.grayscale:
            yield "grayscale", f"{view.grayscale:g} {colours}", "0.0", gone
        if view.solarize:
            yield "solarize", f"{view.solarize:g} {colours}", "0.0", gone
    only = "is for three channels of 8 bits"
    if view.rand_augment is not None:
        yield "rand_augment", f"{view.rand_augment} {only}", "null", "remove the key"
    second = view.second is not None and view.second.interpolation == "lanczos"
    if second or view.interpolation == "lanczos":
        key = "second.interpolation" if second else "interpolation"
        yield key, f"lanczos {only}", "bilinear or bicubic", "set one of them"
