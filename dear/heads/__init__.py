"""Continuous samplers of one token, all under one contract (:class:`dear.heads.base.Head`).

``docs/contributing.md`` explains how to add a head, with an example that the tests run.
"""

from dear.heads.base import Head
from dear.registry import load_kinds

HEADS: dict[str, type[Head]] = load_kinds(
    {
        "energy": "dear.heads.energy:EnergyHead",
        "diffusion": "dear.heads.diffusion:DiffusionHead",
        "flow": "dear.heads.flow:FlowHead",
        "meanflow": "dear.heads.meanflow:MeanFlowHead",
        "shortcut": "dear.heads.shortcut:ShortcutHead",
    }
)

__all__ = ["HEADS", "Head"]
