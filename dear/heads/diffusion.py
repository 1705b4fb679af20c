"""The diffusion head of MAR and IMPACT, the teacher's: DDPM on a cosine schedule (Section 3.3).

Of a token ``x = sqrt(a) x0 + sqrt(1 - a) eps`` the network predicts the noise ``eps``, or the velocity
``v = sqrt(a) eps - sqrt(1 - a) x0`` (Salimans and Ho 2022), from which ``eps = sqrt(1 - a) x + sqrt(a) v`` follows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class DiffusionConfig(HeadConfig):
    kind: str = "diffusion"
    levels: Annotated[int, Range(1, 1024)] = 4  # noise levels per token and training step (MAR's diffusion_batch_mul)
    timesteps: Annotated[int, Range(1, 10_000)] = 1000  # length of the training schedule
    eta: Annotated[float, Range(0, 1)] = 1.0  # share of fresh noise per sampling step; 1: ancestral, 0: DDIM
    # What the network predicts: noise, as in MAR, or velocity (Salimans and Ho 2022), whose target is informative at
    # every noise level. Guidance mixes either alike.
    prediction: Literal["noise", "velocity"] = "noise"


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
        self.net = AdaLNMLP(token_dim, token_dim, config.width, config.depth)
        init_weights(self)
        self.max_steps = min(config.timesteps, MAX_STEPS)
        # The schedule follows from the configuration; as plain float64 it also survives a meta-device build.
        self.signal = cosine_signal(config.timesteps).tolist()

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Noisy tokens x [N, D] at timesteps t [N], context [N, C] -> predicted noise or velocity [N, D]."""
        return self.denoise(x, self.time_in(t), self.context_in(context))

    def denoise(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """:meth:`forward` with time and context embedded, [N, width]."""
        return self.net(x, context + time)

    def loss(self, target: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared error of the prediction over D and over ``levels`` noise levels per token, as in MAR."""
        count, levels = target.shape[0], self.config.levels
        target, context = target.repeat(levels, 1), context.repeat(levels, 1)
        device = generator.device
        t = torch.randint(self.config.timesteps, (levels * count,), generator=generator, device=device).to(
            target.device
        )
        noise = torch.randn(target.shape, generator=generator, device=device).to(target)
        signal = torch.tensor(self.signal, dtype=target.dtype, device=target.device)[t][:, None]
        kept, added = signal.sqrt(), (1 - signal).sqrt()
        wanted = noise if self.config.prediction == "noise" else kept * noise - added * target
        error = (self(kept * target + added * noise, t, context) - wanted).float().square().mean(dim=-1)
        return error.view(levels, count).mean(dim=0)

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
        """``steps`` denoising steps; guidance mixes the predictions at each of them, by default: noise or velocity,
        which comes to the same.

        Temperature scales the noise that a step adds; DDIM adds none, so there it scales the start.
        """
        self.check_steps(steps)
        eta = self.config.eta
        context = self.context_in(context)
        null_context = None if null_context is None else self.context_in(null_context)
        predict = self.guide(context, null_context, cfg_scale, self.denoise)
        times = torch.linspace(self.config.timesteps - 1, 0, steps, dtype=torch.float64).round().long().tolist()
        signals = [self.signal[time] for time in times] + [1.0]
        embedded = self.time_in(on_device(times, context.device))
        x = draw()
        if eta == 0:
            x = temperature * x
        for step in range(steps):
            predicted = predict(x, embedded[step].expand(len(x), -1))
            now, then = signals[step], signals[step + 1]
            if self.config.prediction == "noise":
                noise, clean = predicted, (x - math.sqrt(1 - now) * predicted) / math.sqrt(now)
            else:
                noise = math.sqrt(1 - now) * x + math.sqrt(now) * predicted
                clean = math.sqrt(now) * x - math.sqrt(1 - now) * predicted
            spread = eta * math.sqrt((1 - then) / (1 - now) * (1 - now / then))
            x = math.sqrt(then) * clean + math.sqrt(1 - then - spread**2) * noise
            if spread > 0:
                x = x + temperature * spread * draw()
        return x

    def loss_flops(self) -> float:
        return self.config.levels * super().loss_flops()
