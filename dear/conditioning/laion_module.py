"""LAION's own implementation of CLAP, if ``laion_clap`` can be imported: an alternative and a reference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dear.audio import resample
from dear.conditioning.base import EncoderError
from dear.conditioning.laion import FIELD, is_fused, read_checkpoint
from dear.files import sha256

SIZES = {96: "HTSAT-tiny", 128: "HTSAT-base", 256: "HTSAT-large"}  # by the width of the patch embedding


class LaionModule:
    """Equal to :class:`dear.conditioning.clap.Clap` up to rounding, for a LAION checkpoint.

    LAION draws crops of sounds longer than ten seconds at random, so such sounds are cut to their first ten seconds.
    Importing the package downloads three tokenizers, and weights of roberta-base that the checkpoint then replaces.
    """

    sample_rate = 48_000
    samples = 480_000

    def __init__(self, checkpoint: Path, device: torch.device | str = "cpu"):
        """Raises :class:`EncoderError` where the package or the checkpoint cannot be used."""
        self.weights = checkpoint
        self.device = torch.device(device)
        state = read_checkpoint(checkpoint)
        state.pop("text_branch.embeddings.position_ids", None)  # of older versions of transformers
        try:
            from laion_clap import CLAP_Module

            width = state["audio_branch.patch_embed.proj.weight"].shape[0]
            with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten
                self.module = CLAP_Module(enable_fusion=is_fused(state), device=str(device), amodel=SIZES[width])
            self.module.model.load_state_dict(state)
        except Exception as error:  # the package raises whatever its dependencies and downloads raise
            raise EncoderError(
                f"{FIELD}: laion_clap cannot load {checkpoint} ({type(error).__name__}: {error}); it needs "
                "pip install laion-clap torchvision torchaudio of torch's own version, and roberta-base, "
                "bert-base-uncased and facebook/bart-base from https://huggingface.co"
            ) from error
        self.module.requires_grad_(False).eval()
        self.dim: int = self.module.model.joint_embed_shape

    @cached_property
    def digest(self) -> str:
        """sha256 of the checkpoint."""
        return sha256(self.weights)

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """B prompts -> [B, P] float32 of unit norm."""
        return self.module.get_text_embedding(list(prompts), use_tensor=True)

    @torch.no_grad()
    def embed_audio(self, waveforms: Iterable[np.ndarray], sample_rate: int) -> Tensor:
        """B waveforms, each [S] at ``sample_rate`` Hz -> [B, P] float32 of unit norm."""
        sounds = [resample(waveform, sample_rate, self.sample_rate)[: self.samples] for waveform in waveforms]
        return torch.from_numpy(self.module.get_audio_embedding_from_data(x=sounds)).to(self.device)
