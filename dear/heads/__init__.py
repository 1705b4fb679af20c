"""Continuous samplers of one token, all under one contract (:class:`dear.heads.base.Head`).

``docs/contributing.md`` explains how to add a head, with an example that the tests run.
"""

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
