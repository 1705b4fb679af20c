"""Parts of networks: rotary positions, attention, local mixing, convolution and adaLN blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``. The copy from the CPU to CUDA uses pinned memory and does not wait."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def rotary_angles(positions: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """positions [B, P] -> cosine and sine [B, 1, P, dim] of RoFormer's angles, the sine of the first half negated."""
    # Float32 throughout: Apple's GPUs know no float64.
    frequencies = 10000 ** (-torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / dim)
    angles = positions[:, None, :, None].float() * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
    """Turn the pairs (first half, second half) of x [..., B, H, P, dim] by ``angles`` [B, 1, P, dim], if any."""
    if angles is None:
        return x
    cos, sin = (part.to(x.dtype) for part in angles)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def plain_attention(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """``F.scaled_dot_product_attention`` with a mask, in separate operations."""
    scores = queries @ keys.transpose(-1, -2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * queries.shape[-1] ** -0.5
    scores = scores.masked_fill(~visible, -torch.inf) if visible.dtype == torch.bool else scores + visible
    return scores.softmax(-1).to(values.dtype) @ values


class Attention(nn.Module):
    """Multi-head attention in two halves, so that keys and values can be cached."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def project(self, x: Tensor) -> Tensor:
        """x [B, P, C] -> queries, keys and values [3, B, H, P, C / H]."""
        return self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def project_apart(self, x: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, H, W, C / H] of x [B, W, C], and keys and values [B, H, P, C / H] of others [B, P, C]."""
        width = self.out.in_features
        queries = F.linear(x, self.qkv.weight[:width], self.qkv.bias[:width])
        pair = F.linear(others, self.qkv.weight[width:], self.qkv.bias[width:])
        keys, values = pair.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return queries.unflatten(-1, (self.heads, -1)).transpose(1, 2), keys, values

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None) -> Tensor:
        """queries [B, H, P, d], keys and values [B, H, K, d], visible [B, 1, P or 1, K] bool -> [B, P, C].

        visible: None for all of them, for which more of torch's kernels serve, flash attention among them.
        """
        trained = torch.is_grad_enabled() and queries.requires_grad
        if visible is not None and trained and queries.device.type == "cpu":
            # The backward pass of the fused kernel takes three times as long with a mask.
            mixed = plain_attention(queries, keys, values, visible)
        else:
            mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=visible)
        return self.out(mixed.transpose(1, 2).flatten(2))


class LocalMixing(nn.Module):
    """Depthwise convolution over the token index: each position sees itself and the neighbours that are shown."""

    def __init__(self, width: int, taps: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(taps, width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, shown: Tensor) -> Tensor:
        """x [B, L, C], shown [B, L] bool (False: neighbours see zeros in its place) -> [B, L, C]."""
        taps, length = self.weight.shape[0], x.shape[1]
        around = F.pad(x * shown[..., None].to(x.dtype), (0, 0, taps // 2, taps // 2))
        return self.combine(x, [around[:, tap : tap + length] for tap in range(taps)])

    def combine(self, x: Tensor, neighbours: Sequence[Tensor]) -> Tensor:
        """x [B, P, C], its neighbours [B, P, C] at each tap (the middle one is ignored: it is x) -> [B, P, C]."""
        middle = len(neighbours) // 2
        mixed = torch.addcmul(self.bias, x, self.weight[middle])
        for tap, seen in enumerate(neighbours):
            if tap != middle:
                mixed = torch.addcmul(mixed, seen, self.weight[tap])
        return mixed


class GELU(nn.Module):
    """GELU, approximated by ``x / 2 (1 + tanh(u)) = x sigmoid(2 u)``, ``u = sqrt(2 / pi) (x + 0.044715 x^3)``."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_grad_enabled():
            return F.gelu(x, approximate="tanh")
        # torch's tanh on a CPU takes six times as long as its sigmoid.
        slope = 2 * math.sqrt(2 / math.pi)
        doubled = torch.addcmul(x.new_full((), slope), x, x, value=0.044715 * slope)
        return doubled.mul_(x).sigmoid_().mul_(x)


class FeedForward(nn.Sequential):
    """The two-layer MLP of a transformer block."""

    def __init__(self, width: int, hidden: int):
        super().__init__(nn.Linear(width, hidden), GELU(), nn.Linear(hidden, width))


def init_by_fan_in(module: nn.Module) -> None:
    """Normal weights of unit gain and zero biases for linear layers and convolutions, from a generator of their own.

    They depend on the configuration alone, not on the global random state.
    """
    generator = torch.Generator().manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d):
            nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then an MLP on channels, scaled and added to its input (Vocos)."""

    def __init__(self, width: int, taps: int, expansion: int):
        super().__init__()
        self.mix = nn.Conv1d(width, width, taps, padding=taps // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.mlp = FeedForward(width, expansion * width)
        self.gain = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, F, C] -> [B, F, C]."""
        mixed = self.mix(x.transpose(1, 2)).transpose(1, 2)
        return x + self.gain * self.mlp(self.norm(mixed))


class AdaLNBlock(nn.Module):
    """Residual MLP block whose LayerNorm is shifted, scaled and gated by a condition (MAR; FiLM)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(condition).chunk(3, dim=-1)
        return x + gate * self.mlp(self.norm(x) * (1 + scale) + shift)


class AdaLNMLP(nn.Module):
    """Residual MLP on x [..., in_dim] under a condition [..., width] -> [..., out_dim] (Section 4.2, Appendix E)."""

    def __init__(self, in_dim: int, out_dim: int, width: int, depth: int):
        super().__init__()
        self.input = nn.Linear(in_dim, width)
        self.blocks = nn.ModuleList(AdaLNBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, out_dim)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        condition = F.silu(condition)
        x = self.input(x)
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.modulation(condition).chunk(2, dim=-1)
        return self.output(self.norm(x) * (1 + scale) + shift)


def init_weights(module: nn.Module) -> None:
    """Xavier-uniform matrices and zero biases (MAR); modulations start small, so that blocks start near identity."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            if name.endswith("modulation"):
                nn.init.normal_(part.weight, std=0.02)
            else:
                nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
        elif isinstance(part, LocalMixing):
            nn.init.normal_(part.weight, std=part.weight.shape[0] ** -0.5)


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Build networks without memory and random numbers: their tensors have shapes and no values.

    They are on the meta device. Its random fills are skipped, because the first of them would import torch's compiler,
    which takes a second.
    """
    with torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # torch.nn.init passes some of its functions, and the methods that the others call.
        if getattr(func, "__module__", None) == nn.init.__name__ or func in (Tensor.normal_, Tensor.uniform_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
