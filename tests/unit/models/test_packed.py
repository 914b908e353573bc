"""Crops of several sizes as one set of tokens: the numbers of a pass for each size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steps.models import drop_path, last_block, row_drop
from steps.models.last_block import Crops, PackedCrops, normed_crops
from tests.unit.models.vits import noisy_vit

DEPTH, WIDTH = 3, 32
ROWS, PATCHES = (4, 3, 2), (16, 9, 4)
"""Crops of each size, and patches of each."""
PACKED = PackedCrops(((2, 3), (1, 2)))


def _vit(**changes: object) -> nn.Module:
    arguments: dict[str, object] = {"reg_tokens": 2, "embed_dim": WIDTH, "depth": DEPTH}
    return noisy_vit(**arguments | changes)


def _crops(vit: nn.Module, draws: Sequence[dict[str, Tensor]] = ({}, {}, {})) -> list[Crops]:
    """Of three sizes: some patches of the first are read, class tokens alone of the others."""
    generator = torch.Generator().manual_seed(1)
    tokens = [
        torch.randn(rows, vit.num_prefix_tokens + patches, WIDTH, generator=generator)
        for rows, patches in zip(ROWS, PATCHES, strict=True)
    ]
    read = torch.rand(ROWS[0], PATCHES[0], generator=generator) < 0.4
    read[1] = False
    reads = (read, None, None)
    return [
        Crops(each, chosen, **drawn)
        for each, chosen, drawn in zip(tokens, reads, draws, strict=True)
    ]


def _gradients(vit: nn.Module, outputs: list[Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    vit.zero_grad(set_to_none=True)
    sum((each * torch.randn(each.shape, generator=generator)).sum() for each in outputs).backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in vit.named_parameters()
        if parameter.grad is not None
    }


def _equal(vit: nn.Module, kinds: list[Crops]) -> None:
    """Values and gradients of one pass and of a pass for each size, to 1e-5."""
    found = normed_crops(vit, kinds)
    wanted = [output for crops in kinds for output in normed_crops(vit, [crops])]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    mine, theirs = _gradients(vit, found), _gradients(vit, wanted)
    assert mine.keys() == theirs.keys()
    for name, gradient in theirs.items():
        close = 1e-5 * max(gradient.abs().max().item(), 1)
        torch.testing.assert_close(mine[name], gradient, rtol=0, atol=close, msg=name)


def _by_samples(vit: nn.Module) -> list[dict[str, Tensor]]:
    drop_path.install(vit, 0.5)
    keep = drop_path.sample(vit, sum(ROWS), torch.Generator().manual_seed(3))
    assert not keep.all()
    return [{"keep": rows} for rows in keep.split(ROWS)]


def _by_rows(vit: nn.Module) -> list[dict[str, Tensor]]:
    generator, rates = torch.Generator().manual_seed(3), [0.0, 0.3, 0.5]
    return [{"gates": row_drop.sample(rates, rows, generator)} for rows in ROWS]


@pytest.mark.parametrize(
    "changes",
    [{}, {"qk_norm": True}, {"qkv_bias": False}, {"init_values": None}, {"pre_norm": True}],
)
@pytest.mark.parametrize("drop", [None, _by_samples, _by_rows])
def test_the_numbers_are_those_of_a_pass_for_each_size(
    changes: dict[str, object], drop: Callable[[nn.Module], list[dict[str, Tensor]]] | None
) -> None:
    vit = _vit(**changes)
    _equal(vit, _crops(vit) if drop is None else _crops(vit, drop(vit)))


def test_where_dropped_branches_are_computed_the_numbers_are_the_same() -> None:
    vit = _vit()
    gates = torch.cat([drawn["gates"] for drawn in _by_rows(vit)])[:, 2:4]
    packed = PackedCrops(tuple(zip(ROWS, PATCHES, strict=True)))
    tokens = torch.randn(sum(rows * size for rows, size in packed.groups), WIDTH)
    left_out, multiplied = (
        last_block.through_block(vit.blocks[1], tokens, packed, gates, leave_out)
        for leave_out in (True, False)
    )
    assert (gates == 0).any()
    torch.testing.assert_close(left_out, multiplied, rtol=1e-5, atol=1e-5)


def test_a_block_runs_once_over_the_tokens_of_all_kept_crops() -> None:
    vit = _vit()
    seen: list[tuple[int, ...]] = []
    for block in vit.blocks:
        block.mlp.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    kinds = _crops(vit)
    normed_crops(vit, kinds)
    tokens = sum(crops.tokens.shape[:2].numel() for crops in kinds)
    assert kinds[0].read is not None
    read = int(kinds[0].read.sum()) + sum(ROWS)
    assert seen == [(tokens, WIDTH)] * (DEPTH - 1) + [(read, WIDTH)]


def test_a_process_without_a_kept_crop_still_gives_every_weight_a_gradient() -> None:
    vit = _vit(qk_norm=True)
    kinds = _crops(vit, [{"gates": torch.zeros(rows, 2 * DEPTH)} for rows in ROWS])
    gradients = _gradients(vit, normed_crops(vit, kinds))
    assert {name for name, _ in vit.blocks.named_parameters(prefix="blocks")} <= gradients.keys()


def test_blocks_of_another_kind_go_through_size_by_size() -> None:
    vit = _vit(attn_layer="diff")
    assert last_block.can_pack(_vit())
    assert not last_block.can_pack(vit)
    _equal(vit, _crops(vit))


def test_packed_crops_say_where_each_sequence_lies() -> None:
    values = torch.arange(8)
    first, second = PACKED.by_group(values)
    assert first.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert second.tolist() == [[6, 7]]
    assert PACKED.spread(torch.tensor([5, 6, 7])).tolist() == [5, 5, 5, 6, 6, 6, 7, 7]
    assert PACKED.kept(torch.tensor([False, True, False])) == PackedCrops(((1, 3), (0, 2)))
    starts = PACKED.starts(torch.device("cpu"))
    assert starts.tolist() == [0, 3, 6, 8]
    assert starts.dtype == torch.int32


def test_the_kernel_is_told_where_each_sequence_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.attention import varlen

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int
    ) -> Tensor:
        """Its definition, sequence by sequence."""
        assert (max_q, max_k) == (int(cu_q.diff().max()), int(cu_k.diff().max()))
        asked, given = cu_q.diff().tolist(), cu_k.diff().tolist()
        parts = zip(q.split(asked), k.split(given), v.split(given), strict=True)
        attended = [
            F.scaled_dot_product_attention(*(part.transpose(0, 1) for part in triple))
            for triple in parts
        ]
        return torch.cat([part.transpose(0, 1) for part in attended])

    vit = _vit()
    kinds = _crops(vit, _by_rows(vit))
    wanted = normed_crops(vit, kinds)
    monkeypatch.setattr(last_block, "_has_kernel", lambda values: True)
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    for one, other in zip(normed_crops(vit, kinds), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
