"""Position errors and reconstructions, from methods whose answers are known."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from steps.diagnosis import positions, reconstructions
from steps.diagnosis.positions import Placement, chance, place
from steps.diagnosis.sheet import Denormaliser, sheet
from steps.methods import MethodContext
from steps.methods.droppos import DropPos
from steps.methods.mae import MAE
from steps.methods.mp3 import MP3
from steps.params.methods.droppos import DropPosParams
from steps.params.methods.mae import MAEParams
from steps.params.methods.mp3 import MP3Params

MakeViT = Callable[..., VisionTransformer]
DECODER = {"embed_dim": 16, "depth": 1, "num_heads": 2}
LOOK = Denormaliser([0.5] * 3, [0.25] * 3)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def droppos(vit: MakeViT) -> DropPos:
    params = {"name": "droppos", "mask_ratio": 0.5, "pos_mask_ratio": 0.5, "decoder": DECODER}
    return DropPos(DropPosParams.model_validate(params), vit(), MethodContext()).eval()


def mae(vit: MakeViT, norm_pix_loss: bool) -> MAE:
    params = {
        "name": "mae",
        "mask_ratio": 0.75,
        "decoder": DECODER,
        "norm_pix_loss": norm_pix_loss,
    }
    return MAE(MAEParams.model_validate(params), vit(), MethodContext()).eval()


def test_distance_is_in_patches_by_true_place() -> None:
    guess = torch.tensor([[0, 0, -1, 3]])
    placement = Placement(guess >= 0, guess)
    assert placement.distance.tolist() == [[0.0, 1.0, 0.0, 0.0]]
    assert positions.exact(placement).tolist() == [[True, False, False, True]]


def test_chance_of_four_places() -> None:
    assert chance(4) == pytest.approx((0 + 1 + 1 + 2**0.5) / 4)


def test_droppos_is_asked_for_dropped_positions_alone(vit: MakeViT) -> None:
    method, images = droppos(vit), torch.randn(3, 3, 32, 32)
    torch.nn.init.zeros_(method.decoder.pred.weight)
    with torch.no_grad():
        method.decoder.pred.bias[5] = 1.0
    draws = method.sample(3, generator())
    masks = method.maskings(draws)
    with torch.inference_mode():
        placement = place(method, images, draws)
    assert placement.asked.sum(dim=1).tolist() == [4, 4, 4]
    assert (placement.guess[placement.asked] == 5).all()
    kept = masks.patches.keep.gather(1, masks.positions.keep)
    assert not placement.asked.gather(1, kept).any()


def test_mp3_is_asked_for_all_positions(vit: MakeViT) -> None:
    method = MP3(MP3Params(name="mp3", mask_ratio=0.5), vit(), MethodContext()).eval()
    with torch.no_grad():
        method.position_head.weight.zero_()
        method.position_head.bias[5] = 1.0
    batches = [(torch.randn(4, 3, 32, 32), method.sample(4, generator()))]
    drawing = positions.draw(method, batches, LOOK)
    assert drawing.facts["position_accuracy"] == pytest.approx(1 / 16)
    assert drawing.pictures.keys() == {"position_error.png", "positions.png"}
    assert Image.open(io.BytesIO(drawing.pictures["positions.png"])).size == (2 * 132 + 4, 532)


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_a_reconstruction_keeps_what_was_seen(vit: MakeViT, norm_pix_loss: bool) -> None:
    method, images = mae(vit, norm_pix_loss), torch.randn(2, 3, 32, 32)
    torch.nn.init.zeros_(method.decoder.pred.weight)
    with torch.inference_mode():
        rebuilt, removed = reconstructions.reconstruct(
            method, images, method.sample(2, generator())
        )
    hidden = removed.view(2, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert removed.sum(dim=1).tolist() == [12, 12]
    assert torch.equal(rebuilt[~hidden.expand_as(images)], images[~hidden.expand_as(images)])
    # A decoder that says 0 means the patch's own mean where targets are normalised.
    patch = hidden[0, 0].nonzero()[0]
    top, left = int(patch[0]), int(patch[1])
    wanted = images[0, :, top : top + 8, left : left + 8].mean() if norm_pix_loss else 0.0
    assert rebuilt[0, 0, top, left].item() == pytest.approx(float(wanted), abs=1e-6)


def test_the_error_of_a_flat_image_is_zero_by_mean_colours(vit: MakeViT) -> None:
    method = mae(vit, True)
    images = torch.tensor([1.0, -1.0, 0.5]).view(1, 3, 1, 1).expand(2, 3, 32, 32).contiguous()
    drawing = reconstructions.draw(method, [(images, method.sample(2, generator()))], LOOK)
    assert drawing.facts["pixel_error_of_mean_colours"] == pytest.approx(0.0, abs=1e-10)
    picture = Image.open(io.BytesIO(drawing.pictures["reconstructions.png"]))
    assert picture.size == (3 * 132 + 4, 2 * 132 + 4)
    assert picture.getpixel((4, 4)) == (191, 64, 159)


def test_a_sheet_clips_and_enlarges_by_whole_pixels() -> None:
    paper = sheet([[torch.full((3, 60, 60), 2.0), torch.full((3, 60, 60), -1.0)]])
    assert paper.size == (2 * 184 + 4, 188)
    assert paper.getpixel((4, 4)) == (255, 255, 255)
    assert paper.getpixel((188, 4)) == (0, 0, 0)
