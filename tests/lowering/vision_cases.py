"""Cases of convolutions, pooling, norms over channels, padding, rolling and resizing."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from edgeq.core.scheme import Scheme
from tests.lowering.converting import Case, floats

aten: Any = torch.ops.aten
IMAGES = floats("b", 6, 9, 12)
PER_FILTER = Scheme(bits=8, group_size=None, symmetric=True)


class Convolutions(nn.Module):
    """Strides, padding by numbers and by words, dilation, groups and depth."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(6, 8, 3)
        self.strided = nn.Conv2d(6, 8, (3, 2), stride=(2, 3), padding=(1, 0), bias=False)
        self.same = nn.Conv2d(6, 8, (4, 3), padding="same", dilation=(1, 2))
        self.valid = nn.Conv2d(6, 8, 2, padding="valid")
        self.grouped = nn.Conv2d(6, 9, 3, padding=2, dilation=2, groups=3)
        self.depthwise = nn.Conv2d(6, 12, 3, groups=6)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts = (self.plain, self.strided, self.same, self.valid, self.grouped, self.depthwise)
        return (*(part(x) for part in parts), functional.conv2d(x, self.plain.weight * 2))


class Norms(nn.Module):
    """Batch norms in evaluation mode, and norms over groups of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.batch, self.bare = nn.BatchNorm2d(6, eps=1e-3), nn.BatchNorm2d(6, affine=False)
        self.group, self.bare_group = nn.GroupNorm(3, 6, eps=1e-3), nn.GroupNorm(1, 6, affine=False)
        for norm in (self.batch, self.bare):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(torch.linspace(-1, 1, 6))
            norm.running_var.copy_(torch.linspace(0.2, 3, 6))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        arguments = (self.batch.weight, self.batch.bias, self.batch.running_mean, self.batch.running_var, 0.1, 1e-3)
        native = aten._native_batch_norm_legit_no_training(x, *arguments)[0]
        return native, self.batch(x), self.bare(x), self.group(x), self.bare_group(x), self.group(x.flatten(2))


def _pools(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (
        functional.max_pool2d(x, 3, stride=2, padding=1),
        functional.max_pool2d(x, (2, 3), ceil_mode=True),
        functional.max_pool2d(x, 2, dilation=2),
        functional.avg_pool2d(x, 3, stride=2, padding=1),
        functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False),
        functional.avg_pool2d(x, (4, 5), ceil_mode=True, count_include_pad=False),
        functional.adaptive_avg_pool2d(x, 1),
        functional.adaptive_avg_pool2d(x, (3, 4)),
        functional.adaptive_avg_pool1d(x[:, 0], 1),
    )


def _pads(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (
        functional.pad(x, (1, 2)),
        functional.pad(x, (0, 0)),
        functional.pad(x, (1, 2, 3, 0), value=0.5),
        functional.pad(x, (-1, 2, 0, -3)),
        functional.pad(x, (0, 0, 1, 0, 2, 1)),
        functional.pad(x, (1, 2, 3, 1), mode="reflect"),
        functional.pad(x, (1, 2, 3, 1), mode="replicate"),
        functional.pad(x, (1, 2, 3, 1), mode="circular"),
    )


def _rolls(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.roll(x, 2, 3), torch.roll(x, (-3, 5), (2, 3)), torch.roll(x, (0, 12), (2, 3)), torch.roll(x, -1, 1)


def _resizes(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    resize = functional.interpolate  # by ratios that float32 holds: positions are computed in it
    return (
        resize(x, size=(12, 16), mode="bilinear"),
        resize(x, size=(6, 8), mode="bilinear"),
        resize(x, size=(17, 23), mode="bilinear", align_corners=True),
        resize(x, scale_factor=2.0, mode="bilinear"),
        resize(x, size=(12, 16), mode="bicubic"),
        resize(x, size=(6, 24), mode="bicubic"),
        resize(x, size=(17, 23), mode="bicubic", align_corners=True),
        resize(x, size=(12, 16), mode="nearest"),
        resize(x, scale_factor=2.0, mode="nearest"),
    )


class InPlace(nn.Module):
    """What writes over its input, which nobody else holds."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        halves = (x * 2).relu_()
        kept = functional.dropout((x + 1).flatten(1), training=False, inplace=True)
        return halves, kept, torch.tile(x, (1, 2, 1, 1)), torch.tile(x, (2, 1))


_CONVOLVED = (aten.conv2d.default, aten.conv2d.padding)
CASES = (
    Case(name="convolutions", operators=_CONVOLVED, module=Convolutions(), inputs=(IMAGES,)),
    Case(
        name="convolutions, 8 bits",
        operators=_CONVOLVED,
        module=Convolutions(),
        inputs=(IMAGES,),
        schemes={f"{name}.weight": PER_FILTER for name in ("strided", "same", "valid", "grouped")},
    ),
    Case(
        name="convolutions, 16 bits",
        operators=_CONVOLVED,
        module=Convolutions(),
        inputs=(IMAGES,),
        schemes={f"{name}.weight": Scheme(bits=16) for name in ("plain", "depthwise")},
    ),
    Case(
        name="norms over channels",
        operators=(
            aten.batch_norm.default,
            aten._native_batch_norm_legit_no_training.default,
            aten.group_norm.default,
        ),
        module=Norms(),
        inputs=(IMAGES,),
    ),
    Case(
        name="pooling",
        operators=(
            aten.max_pool2d.default,
            aten.avg_pool2d.default,
            aten.adaptive_avg_pool2d.default,
            aten.adaptive_avg_pool1d.default,
        ),
        module=_pools,
        inputs=(IMAGES,),
    ),
    Case(name="padding", operators=(aten.pad.default,), module=_pads, inputs=(IMAGES,)),
    Case(name="rolling", operators=(aten.roll.default,), module=_rolls, inputs=(IMAGES,)),
    Case(
        name="resizing",
        operators=(aten.upsample_bilinear2d.vec, aten.upsample_bicubic2d.vec, aten.upsample_nearest2d.vec),
        module=_resizes,
        inputs=(IMAGES,),
    ),
    Case(
        name="in place, of images",
        operators=(aten.relu_.default, aten.dropout_.default, aten.tile.default),
        module=InPlace(),
        inputs=(IMAGES,),
    ),
)
