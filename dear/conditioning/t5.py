"""Flan-T5: the token states of the paper's conditioning."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dear.conditioning.base import EncoderError
from dear.conditioning.files import fetch, fetch_weights, load_tokenizer
from dear.config import ConfigError
from dear.files import sha256

FIELD = "conditioning.t5"


class T5Encoder:
    """The frozen encoder half of a T5, as transformers publishes it; what a file holds of the decoder is not read."""

    def __init__(
        self,
        source: str,
        dim: int,
        max_pieces: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        """source: a folder or "owner/name". dim: E, what the states must have. Raises ConfigError, EncoderError."""
        from transformers import T5Config, T5EncoderModel

        folder = fetch(source, ["config.json", "tokenizer.json"], FIELD)
        width = T5Config.from_pretrained(folder).d_model
        if width != dim:
            raise ConfigError(f"conditioning.dim must be {width}, the width of {source}, got {dim!r}")
        self.weights = fetch_weights(source, FIELD)
        self.device = torch.device(device)
        self.tokenizer = load_tokenizer(folder, max_pieces, FIELD)
        self.model = load_pretrained(T5EncoderModel, self.weights, FIELD, dtype).to(self.device)

    @cached_property
    def digest(self) -> str:
        """sha256 of the weight file."""
        return sha256(self.weights)

    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """B prompts -> states [B, T, E] float32, zero behind the last piece, and how many pieces each has [B]."""
        ids, counts, real = pad_pieces([self.tokenizer.encode(prompt).ids for prompt in prompts], 0, self.device)
        with torch.no_grad():
            states = self.model(input_ids=ids, attention_mask=real.long()).last_hidden_state.float()
        return states * real[..., None], counts


def pad_pieces(pieces: list[list[int]], padding: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """B lists of pieces -> ids [B, T] filled with ``padding``, their counts [B], and which are real [B, T] bool."""
    longest = max(map(len, pieces))
    ids = torch.tensor([p + [padding] * (longest - len(p)) for p in pieces], device=device)
    counts = torch.tensor([len(p) for p in pieces], device=device)
    return ids, counts, torch.arange(longest, device=device) < counts[:, None]


def load_pretrained(cls: Any, weights: Path, field: str, dtype: torch.dtype) -> Any:
    """A frozen transformers model from the folder of ``weights``; every parameter must be in the file."""
    try:
        model, report = cls.from_pretrained(weights.parent, dtype=dtype, output_loading_info=True)
    except Exception as error:  # damaged files raise whatever their reader raises
        raise EncoderError(f"{field}: cannot load {weights} ({error}); fetch it again") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise EncoderError(f"{field}: {weights} lacks {', '.join(missing[:3])} ({len(missing)} missing in all)")
    return model.requires_grad_(False).eval()
