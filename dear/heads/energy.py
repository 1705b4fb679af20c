"""The energy-scoring head: noise in, token out, one step (Section 3.2, Appendix B)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dear.config import ConfigError, HeadConfig
from dear.heads.base import Draw, Head, matrix_flops
from dear.layers import GELU, AdaLNMLP, init_weights
from dear.settings import Range


@dataclass(frozen=True)
class EnergyConfig(HeadConfig):
    kind: str = "energy"
    noise_as: Literal["input", "condition"] = "input"  # Appendix E: (b), or (a), where the context is the input
    samples: Annotated[int, Range(2, 64)] = 2  # m of equation (8)
    # Sizes of consecutive groups of a token's channels, together D, each of which is scored on its own beside the whole
    # token; (): only the whole, as in the paper.
    groups: tuple[Annotated[int, Range(1, 2048)], ...] = ()
    # Divide each score by the distance of the samples: quiet and steady tokens weigh as much as loud and varied ones.
    relative: bool = False
    # Weight of the scores of single channels, beside those of the token and its groups.
    channels: Annotated[float, Range(0, 100)] = 0.0
    # Weight of the score of a token's direction in its channels from ``direction_from`` on: how they vary together.
    directions: Annotated[float, Range(0, 100)] = 0.0
    direction_from: Annotated[int, Range(0, 2047)] = 0
    # Weight of the scores of single directions in which stationary noise varies independently, given adjacent tokens.
    innovations: Annotated[float, Range(0, 100)] = 0.0
    # Add the noise itself to the output, scaled for each channel by the context.
    direct_noise: bool = False
    # Mix the channels of that noise by a learned matrix after the scaling, so that they depend on each other.
    mixed_noise: bool = False
    # Add a linear function of the context to the output.
    direct_context: bool = False
    # Number of modes, of which one is drawn before the noise, and of a token's first channels that decide its mode;
    # 0: no modes, as in the paper.
    modes: Annotated[int, Range(0, 65536)] = 0
    mode_channels: Annotated[int, Range(0, 2048)] = 0
    mode_weight: Annotated[float, Range(0, 100)] = 0.5  # of the cross-entropy of the mode in the loss
    mode_guidance: Annotated[float, Range(0, 10)] = 1.0  # factor on cfg_scale - 1 for the choice of a mode
    mode_temperature: Annotated[float, Range(0, 2)] = 0.8  # factor on the temperature for the choice of a mode

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mixed_noise and not self.direct_noise:
            raise ConfigError("head.mixed_noise needs head.direct_noise, got direct_noise false")
        if self.modes == 1:
            raise ConfigError("head.modes must be 0 or at least 2, got 1")
        if self.modes and not self.mode_channels:
            raise ConfigError(f"head.mode_channels must be at least 1 with modes, got {self.mode_channels!r}")
        if self.modes and self.noise_as != "input":
            raise ConfigError(f"head.noise_as must be input with modes, got {self.noise_as!r}")


# Smallest distance per channel**0.5 that a relative score is divided by.
SPREAD_FLOOR = 0.05
# Directions that share one distance in the score of innovations: those of like variance, since they are sorted by it.
INNOVATIONS_TOGETHER = 8
# Two random directions of K dimensions have a squared cosine of 1 / K on average. This many times as much is added to
# the similarity that a direction score is divided by, because that of a few samples varies by chance.
ISOTROPIC = 2
# Below this temperature the most probable mode is chosen.
COLDEST = 1e-6


def energy_loss(samples: Tensor, target: Tensor) -> Tensor:
    """Equation (8), which for m = 2 is equation (3): samples [m, N, D], target [N, D] -> [N].

    ``(2 / m) sum_i |x_i - y| - (1 / (m (m - 1))) sum_{i != j} |x_i - x_j|`` with Euclidean norms over D, taken in
    float32 or better. Raises ValueError for fewer than two samples or shapes that do not match.
    """
    m = samples.shape[0]
    if m < 2 or samples.shape[1:] != target.shape:
        raise ValueError(
            f"samples must be [m >= 2, N, D] for target [N, D], got {list(samples.shape)} and {list(target.shape)}"
        )
    precision = torch.promote_types(torch.promote_types(samples.dtype, target.dtype), torch.float32)
    samples, target = samples.to(precision), target.to(precision)
    attraction = torch.linalg.vector_norm(samples - target, dim=-1).sum(0)
    return 2 / m * attraction - spread(samples)


def spread(samples: Tensor) -> Tensor:
    """Mean Euclidean distance of two of the samples [m, ..., D] -> [...]."""
    m = samples.shape[0]
    i, j = torch.triu_indices(m, m, offset=1, device=samples.device)
    # Each unordered pair stands for (i, j) and (j, i).
    return 2 * torch.linalg.vector_norm(samples[i] - samples[j], dim=-1).sum(0) / (m * (m - 1))


def nearest(tokens: Tensor, centres: Tensor) -> Tensor:
    """The index of the nearest centre of each token: [N, K], [modes, K] -> [N] int64."""
    return torch.cdist(tokens.float(), centres.float()).argmin(dim=1)


def draw_codes(logits: Tensor, noise: Tensor) -> Tensor:
    """Draw from softmax(logits) [N, modes] by the inverse of the cumulative distribution -> [N] int64.

    noise: standard normal [N], which the normal distribution function makes uniform.
    """
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    uniform = torch.special.ndtr(noise.to(cumulative.dtype))
    codes = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:]).squeeze(1)
    return codes.clamp(max=logits.shape[1] - 1)  # NaN logits would give an index out of range


def energy_score(samples: Tensor, target: Tensor, relative: bool) -> Tensor:
    """The energy score [N] of samples [m, N, D] for target [N, D], or the mean score of K channels [m, N, K, 1].

    relative: divide it by the distance of the samples, which the gradient takes as constant.
    """
    score = energy_loss(samples, target)
    distance = spread(samples.detach().to(score)) if relative else None
    if score.ndim > 1:  # the channels of a group share one distance, which is less noisy than one of each
        score = score.mean(-1)
        distance = None if distance is None else distance.mean(-1)
    return score if distance is None else score / (distance + SPREAD_FLOOR * target.shape[-1] ** 0.5)


def direction_score(samples: Tensor, target: Tensor) -> Tensor:
    """The score [N] of the directions of samples [m, N, K] for that of target [N, K], in float32 or better.

    It is the kernel score of ``k(x, y) = (x . y)^2`` for unit vectors, whose minimum has the right second moments
    ``E[x x^T]`` of the direction. It is divided by the similarity of two samples, which the gradient takes as constant,
    so that a token with a clear direction weighs hardly more than noise.
    """
    precision = torch.promote_types(torch.promote_types(samples.dtype, target.dtype), torch.float32)
    samples, target = F.normalize(samples.to(precision), dim=-1), F.normalize(target.to(precision), dim=-1)
    m, _, size = samples.shape
    i, j = torch.triu_indices(m, m, offset=1, device=samples.device)
    similar = (samples[i] * samples[j]).sum(-1).square().mean(0)
    right = (samples * target).sum(-1).square().mean(0)
    return (similar - 2 * right) / (similar.detach() + ISOTROPIC / size)


class EnergyHead(Head):
    """Residual MLP in the two designs of Appendix E. Noise is the input, and the context enters through adaptive
    LayerNorm; or, in design (a), the reverse.

    With ``modes``, the distribution of a token is a mixture. A classifier draws one of the modes, and the network draws
    a token of this mode. The mode of a token is its nearest centre in the first ``mode_channels`` channels; training
    fits the centres (``training.engine.modes``). A continuous function of the noise alone also draws tokens that lie
    between the modes, which no real token does.
    """

    config: EnergyConfig
    centres: Tensor  # [modes, mode_channels], zeros until they are fitted; absent without modes
    # [K, K] of K channels from ``direction_from`` on: makes the channels of stationary noise independent and of unit
    # variance. The identity until ``training.engine.directions`` fits it; absent without ``directions``.
    whitening: Tensor
    # [D, D] whose rows are the directions of ``innovations``, sorted by their variance in stationary noise, which they
    # divide by its root. The identity and absent likewise.
    innovation_basis: Tensor
    Config = EnergyConfig
    title = "Energy scoring"
    max_steps = 1
    # Mixed samples are no sample, and would cost a second pass of the head (Appendix F.1).
    guidance_levels = ("representation",)

    def __init__(self, config: EnergyConfig, token_dim: int, context_dim: int):
        super().__init__(config, token_dim, context_dim)
        if config.groups and sum(config.groups) != token_dim:
            raise ConfigError(f"head.groups must sum to the token's {token_dim} channels, got {config.groups!r}")
        if config.modes and config.mode_channels > token_dim:
            raise ConfigError(
                f"head.mode_channels must be at most the token's {token_dim} channels, got {config.mode_channels!r}"
            )
        if config.direction_from >= token_dim:
            raise ConfigError(
                f"head.direction_from must be below the token's {token_dim} channels, got {config.direction_from!r}"
            )
        if config.noise_as == "input":
            self.context_in = nn.Linear(context_dim, config.width)
            self.net = AdaLNMLP(token_dim, token_dim, config.width, config.depth)
        else:
            self.noise_in = nn.Linear(token_dim, config.width)
            self.net = AdaLNMLP(context_dim, token_dim, config.width, config.depth)
        # The last layer is not zeroed: samples that coincide have no direction to move apart in.
        init_weights(self)
        if config.direct_noise:
            self.direct = nn.Linear(context_dim, token_dim)
            nn.init.zeros_(self.direct.weight)
            nn.init.constant_(self.direct.bias, 0.1)
        if config.mixed_noise:
            self.mix = nn.Linear(token_dim, token_dim, bias=False)
            nn.init.zeros_(self.mix.weight)
            self.mix.weight.data.fill_diagonal_(1)
        if config.direct_context:
            self.linear = nn.Linear(context_dim, token_dim)
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)
        if config.directions:
            # Not torch.eye, which on the meta device imports torch's compiler.
            size = token_dim - config.direction_from
            self.register_buffer("whitening", torch.zeros(size, size).fill_diagonal_(1))
        if config.innovations:
            self.register_buffer("innovation_basis", torch.zeros(token_dim, token_dim).fill_diagonal_(1))
        if config.modes:
            hidden, logits = nn.Linear(context_dim, config.width), nn.Linear(config.width, config.modes)
            self.pick = nn.Sequential(nn.LayerNorm(context_dim), hidden, GELU(), logits)
            init_weights(self.pick)
            nn.init.zeros_(logits.weight)
            self.register_buffer("centres", torch.zeros(config.modes, config.mode_channels))
            self.gate = nn.Parameter(torch.zeros(config.mode_channels))  # share of the centre in the output
            self.code_in = nn.Embedding(config.modes, config.width)
            nn.init.normal_(self.code_in.weight, std=0.02)
            self.code_out = nn.Embedding(config.modes, token_dim)
            nn.init.zeros_(self.code_out.weight)
            if config.direct_noise:
                self.code_sd = nn.Embedding(config.modes, token_dim)
                nn.init.zeros_(self.code_sd.weight)

    def forward(self, noise: Tensor, context: Tensor, code: Tensor | None = None) -> Tensor:
        """noise [..., D], context [N, C], code [N] int64 (of the mode, where there are modes) -> tokens [..., D]."""
        if self.config.noise_as == "input":
            condition = self.context_in(context)
            tokens = self.net(noise, condition if code is None else condition + self.code_in(code))
        else:
            tokens = self.net(context, self.noise_in(noise))
        if self.config.direct_noise:
            size = self.direct(context)
            added = (size if code is None else size + self.code_sd(code)) * noise
            tokens = tokens + (self.mix(added) if self.config.mixed_noise else added)
        if self.config.direct_context:
            tokens = tokens + self.linear(context)
        if code is None:
            return tokens
        centre = F.pad(self.gate * self.centres[code], (0, self.token_dim - self.config.mode_channels))
        return tokens + self.code_out(code) + centre

    def codes(self, tokens: Tensor) -> Tensor:
        """The modes of tokens [N, D] -> [N] int64."""
        return nearest(tokens[:, : self.config.mode_channels], self.centres)

    def logits(self, context: Tensor) -> Tensor:
        """context [N, C] -> the logits [N, modes] of the modes, in float32 or better."""
        logits = self.pick(context)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def loss(self, target: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        """Equation (8). With ``groups``, the mean of the scores of the whole token and of groups of its channels; plus
        ``channels`` times the mean score of single channels; plus ``directions`` times the score of the direction.

        A norm over many channels depends on their total variance and hardly on its distribution. A mean of proper
        scores that includes the score of the whole token has the same minimum and depends on both. A weight that
        depends only on the context would also keep the minimum. ``relative`` estimates such a weight, one over the
        expected distance of two samples, from the samples. Correlations between channels hardly change these scores;
        they do change the score of directions, and the mean score of single directions that ``innovations`` weighs.

        With ``modes``, the samples are of the target's mode, and ``mode_weight`` times the cross-entropy of this mode
        is added. Both are proper scores, so the minimum is the distribution of modes and that of tokens given a mode.
        """
        code = self.codes(target) if self.config.modes else None
        shape = (self.config.samples, *target.shape)
        noise = torch.randn(shape, generator=generator, device=generator.device).to(target)
        samples = self(noise, context, code)
        sizes = self.config.groups or (target.shape[-1],)
        groups = list(zip(samples.split(sizes, dim=-1), target.split(sizes, dim=-1), strict=True))
        parts = [(samples, target), *groups] if self.config.groups else groups
        loss = torch.stack([energy_score(*part, self.config.relative) for part in parts]).mean(0)
        if self.config.channels:
            singles = [(part[..., None], wanted[..., None]) for part, wanted in groups]
            scores = [energy_score(*each, self.config.relative) for each in singles]
            loss = loss + self.config.channels * torch.stack(scores).mean(0)
        if self.config.directions:
            varied = slice(self.config.direction_from, None)
            white, wanted = (F.linear(part[..., varied], self.whitening.to(part)) for part in (samples, target))
            loss = loss + self.config.directions * direction_score(white, wanted)
        if self.config.innovations:
            basis = self.innovation_basis
            along = (F.linear(part, basis.to(part))[..., None] for part in (samples, target))
            drawn, wanted = (part.split(INNOVATIONS_TOGETHER, dim=-2) for part in along)
            scores = [energy_score(*alike, self.config.relative) for alike in zip(drawn, wanted, strict=True)]
            loss = loss + self.config.innovations * torch.stack(scores).mean(0)
        if code is not None:
            loss = loss + self.config.mode_weight * F.cross_entropy(self.logits(context), code, reduction="none")
        return loss

    def sample(
        self,
        context: Tensor,
        null_context: Tensor | None,
        *,
        cfg_scale: float,
        steps: int,
        temperature: float,
        draw: Draw,
    ) -> Tensor:
        """One step; guidance mixes the representations first, ``h = s h_cond + (1 - s) h_uncond`` (equation 9).

        With ``modes``, a second draw of noise chooses the mode, from logits that are guided likewise.
        """
        self.check_steps(steps)
        noise = temperature * draw()
        if not self.config.modes:
            return self.guide(context, null_context, cfg_scale)(noise)
        # The sum of a token's noise is finer than one value of it in half precision.
        chance = draw().to(torch.promote_types(context.dtype, torch.float32)).sum(dim=1) / self.token_dim**0.5
        code = self.choose(context, null_context, cfg_scale, temperature, chance)
        return self.guide(context, null_context, cfg_scale, lambda noise, mixed: self(noise, mixed, code))(noise)

    def choose(
        self, context: Tensor, null_context: Tensor | None, cfg_scale: float, temperature: float, noise: Tensor
    ) -> Tensor:
        """A mode for each context [N, C], from standard normal noise [N] -> [N] int64."""
        logits, scale = self.logits(context), 1 + self.config.mode_guidance * (cfg_scale - 1)
        if null_context is not None and scale != 1:
            logits = scale * logits + (1 - scale) * self.logits(null_context)
        temperature = temperature * self.config.mode_temperature
        if temperature < COLDEST:
            return logits.argmax(dim=-1)
        return draw_codes(logits / temperature, noise)

    def loss_flops(self) -> float:
        """The draws share the computations that depend only on the context, which is the condition or the input of the
        network.
        """
        modulations = matrix_flops(self, "modulation.weight")
        if self.config.noise_as == "input":
            shared = matrix_flops(self.context_in) + modulations
        else:
            shared = matrix_flops(self.net.input)
        if self.config.direct_noise:
            shared += matrix_flops(self.direct)
        if self.config.direct_context:
            shared += matrix_flops(self.linear)
        tables = sum(matrix_flops(part) for part in self.children() if isinstance(part, nn.Embedding))
        if self.config.modes:
            shared += matrix_flops(self.pick)
        return shared + self.config.samples * (matrix_flops(self) - tables - shared)
