"""Heads on a two-dimensional toy: points instead of tokens, and one constant context (Appendix H).

::

    run = ToyTraining("energy", "swiss-roll", seed=0)
    while run.iteration < run.iterations:
        run.train(100)
        points = run.draw(steps=1)  # [512, 2], from the same noise every time
        print(mmd(run.reference, points), wasserstein(run.reference, points))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from dear.heads import HEADS, Head
from dear.heads.energy import energy_loss
from dear.request import check_whole

POINTS = 512  # drawn, shown and measured
BATCH = 512
WIDTH, DEPTH = 48, 3
LEARNING_RATE, WARM_UP = 5e-3, 50
MOST_STEPS = 100  # the paper's teacher takes so many
SCALES = (0.1, 0.3, 1.0)  # of the kernel: from about the thickness of the roll to its radius
_REFERENCE = 2**40  # seed of the reference points


def swiss_roll(count: int, generator: torch.Generator) -> Tensor:
    """[count, 2]: a spiral of one and a half turns with a little noise, about as wide as a standard normal."""
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(count, generator=generator))
    spiral = torch.stack((angle * angle.cos(), angle * angle.sin()), dim=1)
    return (spiral + 0.3 * torch.randn(count, 2, generator=generator)) / 7


def gaussians(count: int, generator: torch.Generator) -> Tensor:
    """[count, 2]: eight narrow normal distributions on a circle."""
    angle = math.pi / 4 * torch.randint(8, (count,), generator=generator)
    centre = 1.4 * torch.stack((angle.cos(), angle.sin()), dim=1)
    return centre + 0.12 * torch.randn(count, 2, generator=generator)


TOYS: dict[str, Callable[[int, torch.Generator], Tensor]] = {"swiss-roll": swiss_roll, "gaussians": gaussians}


def mmd(a: Tensor, b: Tensor) -> float:
    """Maximum mean discrepancy of two sets of points [N, D] and [M, D]: 0 for equal sets, at most sqrt(2).

    ``sqrt(E k(a, a') + E k(b, b') - 2 E k(a, b))`` over all pairs, those of a point with itself included (the biased
    estimate of Gretton et al. 2012, equation 5). The paper names no kernel; this is the mean of Gaussian kernels
    ``exp(-|x - y|^2 / (2 s^2))`` of the widths ``SCALES``. Raises ValueError for shapes that do not match.
    """
    a, b = _pair(a, b)

    def mean(x: Tensor, y: Tensor) -> Tensor:
        squared = torch.cdist(x, y).square()
        each = [(squared / (-2 * scale**2)).exp().mean() for scale in SCALES]
        return sum(each, torch.zeros(())) / len(SCALES)

    return math.sqrt(max(0.0, float(mean(a, a) + mean(b, b) - 2 * mean(a, b))))


def wasserstein(a: Tensor, b: Tensor) -> float:
    """The exact 1-Wasserstein distance of two sets of equally many points [N, D]: the least mean Euclidean distance
    over all pairings of their points.

    Raises ValueError for shapes that do not match.
    """
    a, b = _pair(a, b)
    if len(a) != len(b):
        raise ValueError(f"a and b must hold as many points, got {len(a)} and {len(b)}")
    lengths = torch.cdist(a, b).numpy()
    return float(lengths[linear_sum_assignment(lengths)].mean())


def _pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if not (a.ndim == b.ndim == 2 and len(a) and len(b) and a.shape[1] == b.shape[1]):
        raise ValueError(f"a and b must be points [N, D] and [M, D], got {list(a.shape)} and {list(b.shape)}")
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError("a and b must be finite")
    return a.double(), b.double()


class ToyTraining:
    """The training of one head on a toy. The same seed gives the same points."""

    def __init__(
        self,
        kind: str,
        toy: str,
        seed: int,
        iterations: int | None = None,
        options: Mapping[str, Any] | None = None,
    ):
        """kind: a key of ``HEADS``; toy: a key of ``TOYS``; iterations: of the whole training, by default the head's
        own.

        options: settings of the head, by default those that the head names for toys.

        Raises ValueError, which names the argument.
        """
        _check_one_of("kind", kind, HEADS)
        seed = check_whole("seed", seed, 0, 2**63 - 1)
        self.kind, self.toy = kind, toy
        self.iteration = 0
        wanted = HEADS[kind].toy_iterations if iterations is None else iterations
        self.iterations = check_whole("iterations", wanted, 1, 1_000_000)
        self.reference = reference(toy)
        seeds = torch.randint(2**62, (2,), generator=torch.Generator().manual_seed(seed)).tolist()
        self._generator, noise = (torch.Generator().manual_seed(each) for each in seeds)
        self._noise = noise.get_state()
        options = HEADS[kind].toy_options if options is None else options
        config = HEADS[kind].Config(width=WIDTH, depth=DEPTH, **options)
        self.head = HEADS[kind](config, token_dim=2, context_dim=1)
        _initialise(self.head, self._generator)
        self._optimizer = torch.optim.Adam(self.head.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), fused=True)
        self._context = torch.ones(max(BATCH, POINTS), 1)

    def train(self, count: int) -> None:
        """Run the next ``count`` iterations, or the remaining ones. Each iteration draws new points."""
        for _ in range(min(count, self.iterations - self.iteration)):
            share = self.iteration / self.iterations
            rate = LEARNING_RATE * min(1, (self.iteration + 1) / WARM_UP) * (1 + math.cos(math.pi * share)) / 2
            self._optimizer.param_groups[0]["lr"] = rate
            target = TOYS[self.toy](BATCH, self._generator)
            self._optimizer.zero_grad()
            self.head.loss(target, self._context[:BATCH], self._generator).mean().backward()
            self._optimizer.step()
            self.iteration += 1

    @torch.no_grad()
    def draw(self, steps: int) -> Tensor:
        """Points [POINTS, 2] from the same noise every time.

        steps: 1 to ``MOST_STEPS``, of which the head takes as many as it can; see :meth:`steps_taken`.
        """
        noise = torch.Generator()
        noise.set_state(self._noise)
        return self.head.sample(
            self._context[:POINTS],
            None,
            cfg_scale=1,
            steps=self.steps_taken(steps),
            temperature=1,
            draw=lambda: torch.randn(POINTS, 2, generator=noise),
        )

    def steps_taken(self, steps: int) -> int:
        """``steps``, or the most that the head takes. Raises ValueError outside 1 to ``MOST_STEPS``."""
        return min(check_whole("steps", steps, 1, MOST_STEPS), self.head.max_steps)


def reference(toy: str, draw: int = 0) -> Tensor:
    """Points [POINTS, 2] of the toy to measure against. Each ``draw`` gives another fixed set.

    Raises ValueError for an unknown toy.
    """
    _check_one_of("toy", toy, TOYS)
    return TOYS[toy](POINTS, torch.Generator().manual_seed(_REFERENCE + draw))


def _check_one_of(name: str, value: str, allowed: Collection[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _initialise(head: Head, generator: torch.Generator) -> None:
    """Weights as in :func:`dear.layers.init_weights`, but from ``generator``, and modulations of a size that lets the
    blocks take part from the start: training is short, and the context that moves them is a constant."""
    for name, weight in head.named_parameters():
        if weight.ndim == 1:
            continue  # biases at 0, norms at 1
        if name.endswith("modulation.weight"):
            nn.init.normal_(weight, std=0.3, generator=generator)
        else:
            nn.init.xavier_uniform_(weight, generator=generator)


def spread_scores(spreads: Sequence[float], generator: torch.Generator, count: int = 20_000) -> tuple[list[float], ...]:
    """The loss of a model N(0, s^2) on data N(0, 1) for each spread s.

    Returns only the attraction, ``2 E|X - Y|``, and the whole energy score, which subtracts ``E|X - X'|``. Both are
    means over ``count`` draws, the same for each s.
    """
    noise = torch.randn(2, count, 1, generator=generator)
    data = torch.randn(count, 1, generator=generator)
    scores = [float(energy_loss(s * noise, data).mean()) for s in spreads]
    apart = float((noise[0] - noise[1]).abs().mean())
    return [score + s * apart for s, score in zip(spreads, scores, strict=True)], scores
