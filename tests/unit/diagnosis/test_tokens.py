"""Token maps and codebooks, from networks whose answers are known."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from PIL import Image
from torch import Tensor

from steps.diagnosis import codebook, tokens
from steps.diagnosis.sheet import Denormaliser
from steps.methods.beit import BEiT
from steps.methods.beit2 import BEiT2
from steps.tokenizers import Tokenizer
from tests.unit.methods.test_beit import VOCABULARY, beit, beit2

LOOK = Denormaliser([0.5] * 3, [0.25] * 3)


class Columns(Tokenizer):
    """A patch of 8 px has the number of its column for a token; 3 is never taken."""

    vocab_size, token_pixels = 5, 8

    def __init__(self, *, decodes: bool = False) -> None:
        super().__init__()
        self.decodes = decodes

    def tokens(self, pixels: Tensor) -> Tensor:
        row = torch.tensor([0, 1, 2, 4])
        return row.repeat(4).expand(len(pixels), -1)

    def decode(self, tokens_BN: Tensor, rows: int | None = None) -> Tensor:
        return torch.full((len(tokens_BN), 3, 32, 32), 0.5)


def size(picture: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(picture)).size


@pytest.mark.parametrize("make", [beit, beit2])
def test_the_answer_is_the_last_blocks(make: Callable[[], BEiT | BEiT2]) -> None:
    method = make().eval()
    torch.nn.init.zeros_(method.lm_head.weight)
    with torch.no_grad():
        method.lm_head.bias[7] = 1.0
    images = torch.randn(2, 3, 32, 32)
    draws = method.sample(2, torch.Generator().manual_seed(0))
    guess = tokens.predict(method, images, draws["mask"])
    assert guess.shape == draws["mask"].shape
    assert (guess == 7).all()


def test_accuracy_is_over_hidden_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    method = beit().eval()
    images = torch.randn(4, 3, 32, 32)
    draws = method.sample(4, torch.Generator().manual_seed(0))
    mask, wanted = draws["mask"], method.tokenizer.tokens(images)
    # Right on hidden patches of the first two images, wrong everywhere else.
    right = mask & (torch.arange(4) < 2).unsqueeze(1)
    answers = torch.where(right, wanted, (wanted + 1) % VOCABULARY)
    monkeypatch.setattr(tokens, "predict", lambda *_: answers)
    drawing = tokens.draw(method, [(images, draws)], [images], LOOK)
    assert drawing.facts["token_accuracy"] == pytest.approx(float(right.sum() / mask.sum()))
    commonest = wanted[mask].bincount().max().item() / int(mask.sum())
    assert drawing.facts["share_of_commonest_token"] == pytest.approx(commonest)
    assert size(drawing.pictures["tokens.png"]) == (4 * 132 + 4, 4 * 132 + 4)


def test_the_maps_show_mask_tokens_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    method = beit().eval()
    images = torch.zeros(1, 3, 32, 32)
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[0, 5] = True
    monkeypatch.setattr(tokens, "predict", lambda *_: torch.full((1, 16), 4))
    drawing = tokens.draw(method, [(images, {"mask": mask})], [images], LOOK)
    sheet = Image.open(io.BytesIO(drawing.pictures["tokens.png"]))

    def at(column: int, patch: int) -> tuple[int, ...]:
        down, right = divmod(patch, 4)
        place = (4 + column * 132 + right * 32 + 16, 4 + down * 32 + 16)
        pixel = sheet.getpixel(place)
        assert isinstance(pixel, tuple)
        return pixel

    def colour(token: int, brightness: float = 1.0) -> tuple[int, ...]:
        return tuple((tokens.colours(VOCABULARY)[token] * brightness * 255).round().int().tolist())

    token = int(method.tokenizer.tokens(images)[0, 0])
    assert at(1, 5) == at(1, 0) == (128, 128, 128)  # grey is what is hidden, and this image
    assert at(2, 5) == at(2, 0) == colour(token)
    assert at(3, 5) == colour(4)
    assert at(3, 0) == colour(token, tokens._UNASKED)


def test_every_token_has_a_colour_of_its_own() -> None:
    assert len({tuple(row) for row in tokens.colours(8192).tolist()}) == 8192


@pytest.mark.parametrize("decodes", [False, True])
def test_a_codebooks_use(decodes: bool) -> None:
    images = [torch.rand(3, 3, 32, 32), torch.full((2, 3, 32, 32), 0.75)]
    drawing = codebook.draw(Columns(decodes=decodes), images)
    assert drawing.facts["codes_used"] == pytest.approx(4 / 5)
    assert drawing.facts["perplexity"] == pytest.approx(4.0)
    # Four codes are taken: as many rows of examples.
    assert size(drawing.pictures["codes.png"]) == (codebook.EXAMPLES * 52 + 4, 4 * 52 + 4)
    assert ("reconstructions.png" in drawing.pictures) is decodes
    if decodes:
        error = torch.cat([(part - 0.5).square().flatten(1).mean(dim=1) for part in images]).mean()
        assert drawing.facts["reconstruction_mse"] == pytest.approx(error.item())
        assert size(drawing.pictures["reconstructions.png"]) == (2 * 132 + 4, 5 * 132 + 4)


def test_examples_are_patches_of_their_code() -> None:
    patches = torch.arange(6.0).view(6, 1).expand(6, 3) / 10  # of one pixel
    codes = torch.tensor([1, 0, 1, 1, 2, 0])
    rows = codebook.examples(patches, codes, codes.bincount(minlength=4), 1)
    values = [[round(float(picture[0, 0, 0]), 3) for picture in row] for row in rows]
    blank = [1.0] * codebook.EXAMPLES
    assert values == [
        [0.0, 0.2, 0.3, *blank[3:]],
        [0.1, 0.5, *blank[2:]],
        [0.4, *blank[1:]],
    ]


@pytest.mark.parametrize("make", [beit, beit2])
def test_heads_hold_all_that_the_backbone_does_not(make: Callable[[], BEiT | BEiT2]) -> None:
    method = make()
    names = {name for name in method.state_dict() if not name.startswith("backbone.")}
    assert names == method.heads().keys()
    assert {"mask_token", "lm_head.weight", "lm_head.bias"} <= names
