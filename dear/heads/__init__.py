"""Continuous samplers of one token, all under one contract (:class:`dear.heads.base.Head`).

A further head is one new file with a subclass of ``Head`` and one more line in ``HEADS``.
"""

from dear.heads.base import Head
from dear.heads.diffusion import DiffusionHead
from dear.heads.energy import EnergyHead

HEADS: dict[str, type[Head]] = {
    "energy": EnergyHead,
    "diffusion": DiffusionHead,
}

__all__ = ["HEADS", "DiffusionHead", "EnergyHead", "Head"]
