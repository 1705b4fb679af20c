'''Continuous samplers of one token, all under one contract (:class:`dear.heads.base.Head`).

A further head is one new file with a subclass of ``Head``, here ``dear/heads/gaussian.py``, ::

    from dataclasses import dataclass
    from typing import Annotated

    from torch import nn

    from dear.config import HeadConfig
    from dear.heads.base import Head
    from dear.settings import Range


    @dataclass(frozen=True)
    class GaussianConfig(HeadConfig):
        kind: str = "gaussian"
        spread: Annotated[float, Range(0.01, 10)] = 1.0  # initial standard deviation


    class GaussianHead(Head):
        """A normal distribution with mean and deviation from the context."""

        Config = GaussianConfig
        title = "Gaussian"
        max_steps = 1

        def __init__(self, config, token_dim, context_dim):
            super().__init__(config, token_dim, context_dim)
            self.net = nn.Linear(context_dim, 2 * token_dim)

        def forward(self, noise, context):
            mean, spread = self.net(context).chunk(2, dim=-1)
            return mean + self.config.spread * spread.exp() * noise

        def loss(self, target, context, generator):
            mean, spread = self.net(context).chunk(2, dim=-1)
            error = (target - mean) / (self.config.spread * spread.exp())
            return (spread + error.square() / 2).mean(dim=-1)

        def sample(self, context, null_context, *, cfg_scale, steps, temperature, draw):
            self.check_steps(steps)
            return self.guide(context, null_context, cfg_scale)(temperature * draw())

and one entry in ``HEADS`` with its import, ``"gaussian": GaussianHead``. A configuration with
``"head": {"kind": "gaussian"}`` can then be trained, saved, loaded and sampled. The contract in
``tests/heads/test_head_contract.py`` covers it, and ``tests/test_extending.py`` runs this example.
'''

from dear.heads.base import Head
from dear.heads.diffusion import DiffusionHead
from dear.heads.energy import EnergyHead
from dear.heads.flow import FlowHead
from dear.heads.meanflow import MeanFlowHead
from dear.heads.shortcut import ShortcutHead

HEADS: dict[str, type[Head]] = {
    "energy": EnergyHead,
    "diffusion": DiffusionHead,
    "flow": FlowHead,
    "meanflow": MeanFlowHead,
    "shortcut": ShortcutHead,
}

__all__ = ["HEADS", "DiffusionHead", "EnergyHead", "FlowHead", "Head", "MeanFlowHead", "ShortcutHead"]
