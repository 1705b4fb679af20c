"""CLAP: embeddings of whole prompts and of whole sounds in one space."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from dear.audio import resample
from dear.budget import current
from dear.conditioning.base import EncoderError
from dear.conditioning.clap_mel import ClapMel
from dear.conditioning.files import fetch, fetch_weights, load_tokenizer
from dear.conditioning.laion import FIELD, load_mapped
from dear.conditioning.t5 import load_pretrained, pad_pieces
from dear.files import sha256

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import ClapFeatureExtractor

MAX_PIECES = 77  # of a text, as LAION trained
ROBERTA = "FacebookAI/roberta-base"  # whose tokenizer LAION's checkpoints go with


class Clap:
    """A frozen CLAP as transformers' ClapModel. Embeddings have P values (512) and unit norm."""

    def __init__(
        self,
        model: Any,
        extractor: ClapFeatureExtractor,
        tokenizer: Tokenizer,
        weights: Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        """dtype: of the text branch. The audio branch stays in float32, since rounding decibels changes the sound."""
        self.model = model
        self.model.to(torch.device(device))
        self.model.text_model.to(dtype)
        self.model.text_projection.to(dtype)
        sound: Any = model.config.audio_config  # a dict or None in its type alone
        self.mel = ClapMel(extractor, sound.enable_fusion)
        self.tokenizer = tokenizer
        self.weights = weights
        self.device = torch.device(device)
        self.dim: int = model.config.projection_dim

    @cached_property
    def digest(self) -> str:
        """sha256 of the weight file."""
        return sha256(self.weights)

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """B prompts -> [B, P] float32 of unit norm."""
        pieces = [self.tokenizer.encode(prompt).ids for prompt in prompts]
        ids, _, real = pad_pieces(pieces, self.model.config.text_config.pad_token_id, self.device)
        pooled = self.model.text_model(input_ids=ids, attention_mask=real.long()).pooler_output
        return nn.functional.normalize(self.model.text_projection(pooled).float(), dim=-1)

    @torch.no_grad()
    def embed_audio(self, waveforms: Iterable[np.ndarray], sample_rate: int) -> Tensor:
        """B waveforms, each [S] in [-1, 1] at ``sample_rate`` Hz -> [B, P] float32 of unit norm."""
        spectrograms = [self.mel(resample(waveform, sample_rate, self.mel.sample_rate)) for waveform in waveforms]
        features = torch.stack([mel for mel, _ in spectrograms]).to(self.device)
        longer = torch.tensor([longer for _, longer in spectrograms], device=self.device)
        pooled = self.model.audio_model(input_features=features, is_longer=longer[:, None]).pooler_output
        return nn.functional.normalize(self.model.audio_projection(pooled), dim=-1)


def load_clap(source: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Clap:
    """The CLAP that ``source`` names: LAION's ``.pt``, or a model as transformers publishes it.

    source: a path that ends with ``.pt``, or "owner/name/file.pt" on the Hub; a folder, or "owner/name" on the Hub.
    dtype: of the text branch. Raises :class:`EncoderError`.
    """
    from transformers import ClapFeatureExtractor, ClapModel

    if source.endswith(".pt"):
        path = find_checkpoint(source)
        model = load_mapped(path)
        # LAION's front end of every published HTSAT.
        extractor = ClapFeatureExtractor(frequency_min=50, frequency_max=14_000)
        beside = (path.parent / "tokenizer.json").is_file()
        folder = fetch(str(path.parent) if beside else ROBERTA, ["tokenizer.json"], FIELD)
    else:
        folder = fetch(source, ["config.json", "preprocessor_config.json", "tokenizer.json"], FIELD)
        path = fetch_weights(source, FIELD)
        model = load_pretrained(ClapModel, path, FIELD, torch.float32)
        extractor = ClapFeatureExtractor.from_pretrained(folder)
    return Clap(model, extractor, load_tokenizer(folder, MAX_PIECES, FIELD), path, device, dtype)


def find_checkpoint(source: str) -> Path:
    """The local file of a LAION checkpoint: a path, or "owner/name/file.pt", downloaded or from the cache."""
    path = Path(source)
    if not path.is_file():
        found = re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)/(\w[\w.-]*\.pt)", source)
        if not found:
            raise EncoderError(f"{FIELD}: there is no file {source}")
        path = fetch(found[1], [found[2]], FIELD) / found[2]
    current().charge(path, path.stat().st_size)
    return path
