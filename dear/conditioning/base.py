"""The conditioning sequence, its null condition, the checks of prompts, and the contract of text encoders."""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from dear.config import ConditioningConfig

MAX_PROMPT = 1000  # characters after stripping


class EncoderError(ValueError):
    """The files of a text or audio encoder are absent, or are not the expected ones."""


def check_prompt(prompt: object) -> str:
    """Return ``prompt`` stripped.

    Raises ValueError unless it is text of 1 to 1,000 characters without control characters other than tabs and line
    breaks, which no sound file could keep in its title.
    """
    if not isinstance(prompt, str):
        raise ValueError(f"prompt must be text, got {type(prompt).__name__}: {_shorten(repr(prompt))}")
    stripped = prompt.strip()
    if not 1 <= len(stripped) <= MAX_PROMPT:
        raise ValueError(
            f"prompt must have 1 to {MAX_PROMPT} characters after stripping, "
            f"got {len(stripped)}: {_shorten(repr(prompt))}"
        )
    try:
        stripped.encode("utf-8")
    except UnicodeEncodeError:  # lone surrogates, as from undecodable bytes on a command line
        raise ValueError(f"prompt must be valid Unicode text, got {_shorten(ascii(prompt))}") from None
    if control := control_character(stripped):
        raise ValueError(f"prompt must be without control characters, got {control} in {_shorten(repr(prompt))}")
    return stripped


def control_character(text: str) -> str:
    """The first control character of ``text`` other than a tab or line break, written as U+0000, or an empty string."""
    found = next((each for each in text if unicodedata.category(each) == "Cc" and each not in "\t\n\r"), None)
    return "" if found is None else f"U+{ord(found):04X}"


def check_prompts(prompts: Sequence[str]) -> list[str]:
    """Apply :func:`check_prompt` to a batch of at least one prompt."""
    checked = [check_prompt(prompt) for prompt in prompts]
    if not checked:
        raise ValueError("prompts must hold at least one prompt, got none")
    return checked


def _shorten(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Conditioning of a batch: ``tokens`` [B, T, E] float, ``mask`` [B, T] bool, True where a token is real.

    padded: False where all tokens are known to be real, so that attention needs no mask.
    """

    tokens: Tensor
    mask: Tensor
    padded: bool = True

    def __post_init__(self) -> None:
        if self.tokens.dim() != 3 or self.mask.shape != self.tokens.shape[:2] or self.mask.dtype != torch.bool:
            raise ValueError(
                "conditioning must be tokens [B, T, E] with a bool mask [B, T], "
                f"got {tuple(self.tokens.shape)} with {self.mask.dtype} {tuple(self.mask.shape)}"
            )

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Conditioning:
        """Move to ``device``. ``dtype`` applies to the tokens; the mask stays bool."""
        return Conditioning(self.tokens.to(device, dtype), self.mask.to(device), self.padded)

    def select(self, index: Tensor | Sequence[int]) -> Conditioning:
        """Items ``index`` [B'] of the batch, repeats allowed -> a batch of B'."""
        index = torch.as_tensor(index, dtype=torch.long, device=self.tokens.device)
        return Conditioning(self.tokens[index], self.mask[index], self.padded)

    @property
    def pooled(self) -> Tensor:
        """[B, E] the last real token of each item, which holds the encoder's pooled vector, scaled to unit norm."""
        last = self.mask.sum(dim=1) - 1
        return nn.functional.normalize(self.tokens[torch.arange(len(last), device=last.device), last].float(), dim=-1)

    def trim(self) -> Conditioning:
        """Remove the columns after the last real token of all items, to which no token attends."""
        used = int(self.mask.any(dim=0).nonzero().max()) + 1
        mask = self.mask[:, :used]
        return Conditioning(self.tokens[:, :used], mask, not bool(mask.all()))

    def pad(self, length: int) -> Conditioning:
        """Pad with masked zeros to T = ``length``. Raises ValueError if T is already longer."""
        extra = length - self.tokens.shape[1]
        if extra < 0:
            raise ValueError(f"length must be at least {self.tokens.shape[1]}, got {length!r}")
        return Conditioning(nn.functional.pad(self.tokens, (0, 0, 0, extra)), nn.functional.pad(self.mask, (0, extra)))


class NullCondition(nn.Module):
    """The unconditional branch of guidance: one learned vector in place of every token of a dropped item."""

    def __init__(self, dim: int):
        super().__init__()
        self.vector = nn.Parameter(torch.empty(dim).normal_(0.0, 0.02))  # [E]

    def forward(self, conditioning: Conditioning, drop: Tensor) -> Conditioning:
        """``drop`` [B] bool -> the same conditioning, every real token of dropped items replaced; the mask is kept."""
        replaced = (drop[:, None] & conditioning.mask)[..., None]
        tokens = torch.where(replaced, self.vector.to(conditioning.tokens.dtype), conditioning.tokens)
        return Conditioning(tokens, conditioning.mask, conditioning.padded)


class TextEncoder(ABC):
    """Frozen encoders of one configuration."""

    Config: ClassVar[type[ConditioningConfig]]
    title: ClassVar[str]  # shown in model cards

    dim: int  # E
    digest: str  # differs between encoders that give other values for the same prompt

    @classmethod
    @abstractmethod
    def build(cls, config: ConditioningConfig, device: torch.device | str, dtype: torch.dtype, audio: bool) -> Self:
        """The encoder with its weights.

        dtype: of the weights. Results are float32.
        audio: also prepare to encode sounds without captions.
        Raises ConfigError for settings and ValueError for a dtype that this kind does not support, and EncoderError if
        a file is absent or wrong.
        """

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """``prompts`` (B of them) -> tokens [B, T, E] float32 on the encoder's device, mask [B, T].

        Real tokens come first, the pooled vector of the whole prompt last among them; padding is zero. An item does
        not depend on its neighbours in the batch, up to rounding.
        """

    def embed(self, texts: Sequence[str], batch: int = 64) -> Tensor:
        """The pooled vectors of ``texts`` (N of them), of unit norm: [N, E] float32 on the CPU."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # so that little of a batch is padding
        vectors = torch.zeros(len(texts), self.dim)
        for at in range(0, len(texts), batch):
            chosen = order[at : at + batch]
            vectors[chosen] = self.encode([texts[i] for i in chosen]).pooled.cpu()
        return vectors

    def encode_audio(self, waveforms: Iterable[np.ndarray | Tensor], sample_rate: int) -> Conditioning:
        """Encode sounds without captions as sequences of the same space. Raises EncoderError if this kind cannot."""
        raise EncoderError(f"{self.title} encodes captions, not sounds")
