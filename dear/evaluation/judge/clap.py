"""CLAP as an embedder of sounds and texts: the paper's CLAP score is their mean cosine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dear.evaluation.judge.embedder import Embedded
from dear.evaluation.judge.reading import PLAIN

if TYPE_CHECKING:
    from dear.conditioning.clap import Clap

EVALUATED = "laion/clap-htsat-fused"  # by the paper, which conditions on another CLAP


class ClapEmbedder:
    """Embeddings of unit norm of sounds at 48 kHz, and of texts.

    A sound of at most ten seconds is repeated as often as it fits whole. transformers marks one sound of each batch at
    random as longer than ten seconds, which changes its embedding; here none is marked that is not.
    """

    reading = PLAIN

    def __init__(self, clap: Clap, name: str):
        self.clap, self.name = clap, name
        self.digest, self.sample_rate = clap.digest[:12], clap.mel.sample_rate

    def embed(self, waveform: Tensor) -> Embedded:
        """waveform [S] -> features [1, K]; no logits."""
        return Embedded(self.clap.embed_audio([waveform.numpy()], self.sample_rate).cpu(), None)

    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """B prompts -> [B, K]."""
        return self.clap.embed_text(prompts).cpu()


def load_clap_embedder(source: str = EVALUATED, device: torch.device | str = "cpu") -> ClapEmbedder:
    """The CLAP that ``source`` names: a folder, "owner/name" on the Hub, or LAION's ``.pt``.

    Raises :class:`dear.conditioning.base.EncoderError`.
    """
    from dear.conditioning.clap import load_clap

    return ClapEmbedder(load_clap(source or EVALUATED, device), f"CLAP {source or EVALUATED}")
