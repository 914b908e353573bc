"""What is read of a transformer's last block: the numbers of the whole block, without the rest."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from steps.models import drop_path, last_block, row_drop
from steps.models.tokens import encode
from tests.unit.models.vits import noisy_vit


def _gradients(vit: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    vit.zero_grad(set_to_none=True)
    loss.backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in vit.blocks.named_parameters()
        if parameter.grad is not None
    }


def _equal(vit: nn.Module, ours: Callable[[], Tensor], plain: Callable[[], Tensor]) -> None:
    """Values, and every gradient of a random weighing of them, to 1e-5."""
    found, wanted = ours(), plain()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    weights = torch.randn(wanted.shape)
    mine = _gradients(vit, (ours() * weights).sum())
    theirs = _gradients(vit, (plain() * weights).sum())
    assert mine.keys() == theirs.keys()
    for name, gradient in theirs.items():
        close = 1e-5 * max(gradient.abs().max().item(), 1)
        torch.testing.assert_close(mine[name], gradient, rtol=0, atol=close, msg=name)


@pytest.mark.parametrize(
    "changes", [{}, {"qk_norm": True}, {"scale_attn_norm": True}, {"qkv_bias": False}, {"depth": 1}]
)
def test_the_class_token_is_that_of_the_whole_block(changes: dict[str, object]) -> None:
    vit, tokens = noisy_vit(**changes), torch.randn(3, 17, 32)
    _equal(vit, lambda: last_block.encode_read(vit, tokens), lambda: encode(vit, tokens)[:, 0])


def test_some_tokens_are_those_of_the_whole_block_as_many_as_each_sample_reads() -> None:
    vit, tokens = noisy_vit(), torch.randn(3, 17, 32)
    read = torch.rand(3, 17) < 0.3
    read[1] = False
    _equal(
        vit, lambda: last_block.encode_read(vit, tokens, read), lambda: encode(vit, tokens)[read]
    )


def test_tokens_that_are_not_read_are_zero() -> None:
    vit, tokens = noisy_vit(), torch.randn(3, 17, 32)
    read = torch.rand(3, 16) < 0.3
    whole = vit.norm(encode(vit, tokens))
    whole[:, 1:] *= read.unsqueeze(2)
    torch.testing.assert_close(
        last_block.normed_read(vit, tokens, read), whole, rtol=1e-5, atol=1e-5
    )


def test_drop_path_by_samples_is_that_of_whole_blocks() -> None:
    vit, tokens = noisy_vit(), torch.randn(6, 17, 32)
    drop_path.install(vit, 0.5)
    keep = drop_path.sample(vit, 6, torch.Generator().manual_seed(3))
    assert not keep.all()
    read = torch.rand(6, 17) < 0.3

    def plain() -> Tensor:
        hidden = tokens
        with drop_path.dropping(vit, keep):
            for block in vit.blocks:
                hidden = block(hidden)
        return hidden

    _equal(vit, lambda: encode(vit, tokens, keep), plain)
    _equal(vit, lambda: last_block.encode_read(vit, tokens, keep=keep), lambda: plain()[:, 0])
    _equal(vit, lambda: last_block.encode_read(vit, tokens, read, keep), lambda: plain()[read])


def test_a_kept_share_of_the_samples_is_all_that_a_branch_computes() -> None:
    vit, tokens = noisy_vit(), torch.randn(4, 17, 32)
    drop_path.install(vit, 0.5)
    keep = torch.ones(4, 6, dtype=torch.bool)
    keep[1:, 4] = False
    seen: list[int] = []
    vit.blocks[2].attn.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    encode(vit, tokens, keep)
    assert seen == [1]


def test_drop_path_by_rows_is_that_of_whole_blocks() -> None:
    vit, tokens = noisy_vit(), torch.randn(6, 17, 32)
    gates = row_drop.sample([0.0, 0.3, 0.5], 6, torch.Generator().manual_seed(0))
    read = torch.rand(6, 17) < 0.3
    _equal(
        vit,
        lambda: last_block.encode_read(vit, tokens, read, gates=gates),
        lambda: row_drop.encode(vit, tokens, gates)[read],
    )


def test_the_last_block_costs_no_keys_and_values_for_one_query() -> None:
    vit, tokens = noisy_vit(depth=1), torch.randn(1, 1001, 32)
    with FlopCounterMode(display=False) as whole:
        encode(vit, tokens)
    with FlopCounterMode(display=False) as part:
        last_block.encode_read(vit, tokens)
    linear = 2 * 1001 * 32**2
    # Logits and sums of tokens, for each head over the whole width, are what is left.
    assert part.get_total_flops() < 0.2 * linear < 0.02 * whole.get_total_flops()


def test_a_block_of_another_kind_is_computed_whole() -> None:
    vit = noisy_vit(attn_layer="diff")
    tokens = torch.randn(3, 17, 32)
    expected = encode(vit, tokens)[:, 0]
    torch.testing.assert_close(last_block.encode_read(vit, tokens), expected)
