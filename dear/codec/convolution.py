"""Faster forms of the convolutions of AudioLDM's codec on a CPU, equal within the rounding of float32.

Weights and their names do not change. Other devices and precisions use the plain forms, since cuDNN has its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

POINTS = 24  # of one transform
LONG = 7  # taps, and
WIDE = 128  # channels, from which the transform pays
TILES = 64  # that are transformed together: their spectra stay in the cache
GROUP = 16  # items of a batch that a GPU takes at once


def in_groups(function: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """``function`` on a few items of ``batch`` at a time to bound memory; on a CPU on one item, for its caches."""
    return torch.cat([function(part) for part in batch.split(1 if batch.device.type == "cpu" else GROUP)])


M = TypeVar("M", bound=nn.Module)


def accelerate(network: M) -> M:
    """Replace the layers of an AutoencoderKL's decoder or a SpeechT5HifiGan by the faster forms, in place."""
    for name, module in list(network.named_modules()):
        if type(module) is nn.Conv1d:
            module.__class__ = Conv1d
        elif type(module) is nn.ConvTranspose1d:
            module.__class__ = ConvTranspose1d
        elif type(module) is nn.Conv2d:
            module.weight.data = module.weight.contiguous(memory_format=torch.channels_last)
        elif type(module).__name__ == "Upsample2D":  # avoids the import of diffusers, which takes seconds
            network.set_submodule(name, Upsample2d(module.conv))
    return network


def _plain(x: Tensor) -> bool:
    return x.device.type != "cpu" or x.dtype != torch.float32


class Conv1d(nn.Conv1d):
    """nn.Conv1d that keeps the length, with channels innermost in memory; long and wide kernels use a transform."""

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, S] -> [B, C', S]."""
        if _plain(x):
            return super().forward(x)
        if self.kernel_size[0] >= LONG and min(self.weight.shape[:2]) >= WIDE:
            return self._transformed(x.transpose(1, 2)).transpose(1, 2)
        # One-dimensional convolutions ignore the order in memory, two-dimensional ones use it.
        image, weight = (each.unsqueeze(2).contiguous(memory_format=torch.channels_last) for each in (x, self.weight))
        padding, dilation = (0, *self.padding), (1, *self.dilation)
        return functional.conv2d(image, weight, self.bias, padding=padding, dilation=dilation).squeeze(2)

    def _transformed(self, x: Tensor) -> Tensor:
        """x [B, S, C] -> [B, S, C'].

        Overlap-save: each tile of POINTS samples gives POINTS - taps + 1 of the result. With k = 11 that takes 2.5
        products per sample and pair of channels instead of 11. Dilated kernels see every d-th sample: d sets of tiles.
        """
        forward, kernel, inverse = (each.to(x) for each in transform(self.kernel_size[0]))
        (items, length, channels), step, size = x.shape, self.dilation[0], len(inverse)
        weight = (kernel @ self.weight.permute(2, 1, 0).flatten(1)).unflatten(1, (channels, -1))  # [R, C, C']
        count, group = -(-length // (size * step)), max(1, TILES // step)
        before = int(self.padding[0])
        behind = ((count - 1) * size + POINTS) * step - length - before
        x = functional.pad(x, (0, 0, before, behind))
        out = x.new_empty(items, count, size, step, weight.shape[2])
        for item, result in zip(x, out, strict=True):
            tiles = item.as_strided(
                (count, step, POINTS, channels), (size * step * channels, channels, step * channels, 1)
            )
            for part, into in zip(tiles.split(group), result.split(group), strict=True):
                spectra = (forward @ part.flatten(0, 1)).transpose(0, 1) @ weight  # [R, tiles, C']
                if self.bias is not None:
                    spectra[0] += POINTS * self.bias  # where the constant part is
                signals = inverse @ spectra.transpose(0, 1)  # [tiles, size, C']
                into.copy_(signals.unflatten(0, (-1, step)).transpose(1, 2))
        return out.flatten(1, 3)[:, :length]


def transform(taps: int) -> tuple[Tensor, Tensor, Tensor]:
    """(F [R, POINTS], K [R, taps], I [POINTS - taps + 1, R]), float64, such that for a signal x and a kernel w

        I ((F x) * (K w)) = the correlation of x with w where they overlap whole.

    The discrete Fourier transform of real values, with each complex product made of three real ones (Gauss):
    R = 3 POINTS / 2 - 1.
    """
    index = torch.arange(POINTS, dtype=torch.float64)
    angle = 2 * math.pi / POINTS * torch.outer(index[: POINTS // 2 + 1], index)
    real, cos, sin = angle[[0, -1]].cos(), angle[1:-1].cos(), angle[1:-1].sin()
    forward = torch.cat((real, cos - sin, cos, -sin))
    kernel = torch.cat((real, cos, sin - cos, cos + sin))
    inverse = torch.cat((real, 2 * (cos - sin), -2 * sin, -2 * cos)) / POINTS
    return forward, kernel[:, :taps], inverse.T[: POINTS - taps + 1]


class ConvTranspose1d(nn.ConvTranspose1d):
    """nn.ConvTranspose1d as a short convolution whose channels are the samples between two of its input."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """x [B, C, S] -> [B, C', (S - 1) * stride - 2 * padding + taps]."""
        if _plain(x):
            return super().forward(x)
        stride, taps, padding = self.stride[0], self.kernel_size[0], int(self.padding[0])
        reach = -(-taps // stride)  # inputs that a sample depends on
        weight = functional.pad(self.weight, (0, reach * stride - taps)).unflatten(2, (reach, stride)).flip(2)
        weight = weight.permute(3, 1, 0, 2).flatten(0, 1).unsqueeze(2).contiguous(memory_format=torch.channels_last)
        image = x.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        out = functional.conv2d(image, weight, padding=(0, reach - 1)).squeeze(2).transpose(1, 2)
        out = out.unflatten(2, (stride, -1)).flatten(1, 2)
        out = out[:, padding : (x.shape[2] - 1) * stride + taps - padding] + self.bias
        return out.transpose(1, 2)


class Upsample2d(nn.Module):
    """Every pixel twice along both axes, then a convolution of 3 x 3: four of 2 x 2 on the small image do the same."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C', 2 H, 2 W]."""
        if _plain(x):
            return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        height, width = x.shape[2:]
        out = x.new_empty(len(x), height, 2, width, 2, self.conv.out_channels)
        # What an even and what an odd pixel sums of the kernel's three taps.
        shares = x.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
        for row in range(2):
            for column in range(2):
                weight = shares[row] @ self.conv.weight @ shares[column].T
                image, weight = (
                    each.contiguous(memory_format=torch.channels_last)
                    for each in (functional.pad(x, (1 - column, column, 1 - row, row)), weight)
                )
                part = functional.conv2d(image, weight, self.conv.bias)
                out[:, :, row, :, column] = part.permute(0, 2, 3, 1)
        return out.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
