"""The diffusion head of MAR and IMPACT, the teacher's: DDPM on a cosine schedule (Section 3.3).

Of a token ``x = sqrt(a) x0 + sqrt(1 - a) eps`` the network predicts the noise ``eps``, or the velocity
``v = sqrt(a) eps - sqrt(1 - a) x0`` (Salimans and Ho 2022), from which ``eps = sqrt(1 - a) x + sqrt(a) v`` follows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dear.config import MAX_STEPS, HeadConfig
from dear.heads.base import Draw, Head
from dear.heads.embedding import TimeEmbedding, on_device
from dear.layers import AdaLNMLP, init_weights
from dear.settings import Range

# Below this share of signal the inversion x0 = (x - sqrt(1 - a) eps) / sqrt(a) only amplifies the network's error.
MIN_SIGNAL = 1e-4
MIN_VARIANCE = 1e-20  # below which no logarithm is taken


def posterior_variance(now: Any, then: Any) -> Any:
    """``(1 - then) / (1 - now) (1 - now / then)``, the variance of a step from signal share ``now`` to ``then``."""
    return (1 - then) / (1 - now) * (1 - now / then)


@dataclass(frozen=True)
class DiffusionConfig(HeadConfig):
    kind: str = "diffusion"
    levels: Annotated[int, Range(1, 1024)] = 4  # noise levels per token and training step (MAR's diffusion_batch_mul)
    timesteps: Annotated[int, Range(1, 10_000)] = 1000  # length of the training schedule
    eta: Annotated[float, Range(0, 1)] = 1.0  # share of fresh noise per sampling step; 1: ancestral, 0: DDIM
    # What the network predicts: noise, as in MAR, or velocity (Salimans and Ho 2022), whose target is informative at
    # every noise level. Guidance mixes either alike.
    prediction: Literal["noise", "velocity"] = "noise"
    # Of the noise that an ancestral step adds: that of the posterior (fixed), or between it and the step's own, as the
    # network says (learned; Nichol and Dhariwal 2021, and MAR). Learned, the output has D more values.
    variance: Literal["fixed", "learned"] = "fixed"


@cache
def signal_table(timesteps: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """:func:`cosine_signal` on ``device``, where it stays: a copy from the host would wait for earlier work."""
    return cosine_signal(timesteps).to(dtype).to(device)


def cosine_signal(timesteps: int) -> Tensor:
    """Share of signal (cumulative alpha) [timesteps], float64, after Nichol and Dhariwal; index 0 is nearly clean."""
    t = torch.arange(1, timesteps + 1, dtype=torch.float64, device="cpu") / timesteps
    f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return (f / math.cos(0.008 / 1.008 * math.pi / 2) ** 2).clamp_min(MIN_SIGNAL)


class DiffusionHead(Head):
    """Denoises a token from its context; any number of ancestral (``eta`` 1) or DDIM (``eta`` 0) steps."""

    config: DiffusionConfig
    Config = DiffusionConfig
    title = "Diffusion"
    toy_options: ClassVar[Mapping[str, Any]] = {"levels": 1}

    def __init__(self, config: DiffusionConfig, token_dim: int, context_dim: int):
        super().__init__(config, token_dim, context_dim)
        self.context_in = nn.Linear(context_dim, config.width)
        self.time_in = TimeEmbedding(config.width)
        values = 2 * token_dim if config.variance == "learned" else token_dim
        self.net = AdaLNMLP(token_dim, values, config.width, config.depth)
        init_weights(self)
        self.max_steps = min(config.timesteps, MAX_STEPS)
        # The schedule follows from the configuration; as plain float64 it also survives a meta-device build.
        self.signal = cosine_signal(config.timesteps).tolist()

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Noisy tokens x [N, D] at timesteps t [N], context [N, C] -> predicted noise or velocity [N, D].

        With a learned variance [N, 2 D]: the second half is the share v of the variance of the step, on a logarithmic
        scale from -1 (the posterior's) to 1 (the whole).
        """
        return self.denoise(x, self.time_in(t), self.context_in(context))

    def denoise(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """:meth:`forward` with time and context embedded, [N, width]."""
        return self.net(x, context + time)

    def loss(self, target: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared error of the prediction over D and over ``levels`` noise levels per token, as in MAR.

        With a learned variance the bound of :meth:`variance_loss` is added, which trains only the variance.
        """
        count, levels = target.shape[0], self.config.levels
        target, context = target.repeat(levels, 1), context.repeat(levels, 1)
        device = generator.device
        t = torch.randint(self.config.timesteps, (levels * count,), generator=generator, device=device).to(
            target.device
        )
        noise = torch.randn(target.shape, generator=generator, device=device).to(target)
        table = signal_table(self.config.timesteps, target.dtype, target.device)
        signal = table[t][:, None]
        kept, added = signal.sqrt(), (1 - signal).sqrt()
        wanted = noise if self.config.prediction == "noise" else kept * noise - added * target
        noisy = kept * target + added * noise
        predicted = self(noisy, t, context)
        if self.config.variance == "learned":
            predicted, share = predicted.chunk(2, dim=-1)
        error = (predicted - wanted).float().square().mean(dim=-1)
        if self.config.variance == "learned":
            error = error + self.variance_loss(share, predicted, noisy, target, t)
        return error.view(levels, count).mean(dim=0)

    def variance_loss(self, share: Tensor, predicted: Tensor, noisy: Tensor, target: Tensor, t: Tensor) -> Tensor:
        """The term of the variational bound of each row [N], in bits per value, with the mean detached (L_vlb of Nichol
        and Dhariwal 2021): KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), and at t = 0 the density of x_0.

        share, predicted, noisy, target: [N, D]; t: [N].
        """
        table = signal_table(self.config.timesteps, torch.float32, target.device)
        now, then = table[t][:, None], torch.where(t > 0, table[(t - 1).clamp_min(0)], 1.0)[:, None]
        # At t = 0 the posterior has no spread; that of t = 1 stands for it.
        second = table[1 if len(table) > 1 else 0]
        least = torch.where(t[:, None] > 0, posterior_variance(now, then), posterior_variance(second, table[0]))
        least, own = least.clamp_min(MIN_VARIANCE).log(), (1 - now / then).clamp_min(MIN_VARIANCE).log()
        spread = least + (share.float() + 1) / 2 * (own - least)
        noisy, predicted, target = noisy.float(), predicted.detach().float(), target.float()
        if self.config.prediction == "noise":
            clean = (noisy - (1 - now).sqrt() * predicted) / now.sqrt()
        else:
            clean = now.sqrt() * noisy - (1 - now).sqrt() * predicted
        # Both means weigh x_0 alike and agree in the rest.
        gap = then.sqrt() * (1 - now / then) / (1 - now) * (target - clean)
        scaled = gap.square() * (-spread).exp()
        divergence = 0.5 * (spread - least - 1 + (least - spread).exp() + scaled)
        density = 0.5 * (math.log(2 * math.pi) + spread + scaled)
        return torch.where(t[:, None] > 0, divergence, density).mean(dim=-1) / math.log(2)

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
        """Take ``steps`` denoising steps. By default, guidance mixes the predictions of each step; it is the same for
        noise and velocity.

        The temperature scales the noise that a step adds. DDIM adds none, so the temperature scales the initial noise.
        """
        self.check_steps(steps)
        eta = self.config.eta
        context = self.context_in(context)
        null_context = None if null_context is None else self.context_in(null_context)
        mixed = self.token_dim if self.config.variance == "learned" else None
        predict = self.guide(context, null_context, cfg_scale, self.denoise, mixed)
        times = torch.linspace(self.config.timesteps - 1, 0, steps, dtype=torch.float64).round().long().tolist()
        signals = [self.signal[time] for time in times] + [1.0]
        embedded = self.time_in(on_device(times, context.device))
        x = draw()
        if eta == 0:
            x = temperature * x
        for step in range(steps):
            predicted = predict(x, embedded[step].expand(len(x), -1))
            now, then = signals[step], signals[step + 1]
            share: Tensor | None = None
            if self.config.variance == "learned":
                predicted, share = predicted.chunk(2, dim=-1)
            if self.config.prediction == "noise":
                noise, clean = predicted, (x - math.sqrt(1 - now) * predicted) / math.sqrt(now)
            else:
                noise = math.sqrt(1 - now) * x + math.sqrt(now) * predicted
                clean = math.sqrt(now) * x - math.sqrt(1 - now) * predicted
            spread = eta * math.sqrt(posterior_variance(now, then))
            x = math.sqrt(then) * clean + math.sqrt(1 - then - spread**2) * noise
            if spread > 0:
                deviation: float | Tensor = spread
                if share is not None:
                    own = eta * math.sqrt(1 - now / then)
                    deviation = spread * (own / spread) ** ((share + 1) / 2)
                x = x + temperature * deviation * draw()
        return x

    def loss_flops(self) -> float:
        return self.config.levels * super().loss_flops()
