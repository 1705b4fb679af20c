"""The paper's conditioning: 77 states of Flan-T5, then CLAP's embedding of the prompt (Section 4.2, Appendix J.1)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from dear.audio import check_audio
from dear.conditioning.base import Conditioning, EncoderError, TextEncoder, check_prompts
from dear.conditioning.clap import find_checkpoint, load_clap
from dear.conditioning.laion_module import LaionModule
from dear.conditioning.t5 import T5Encoder
from dear.config import ConditioningConfig, ConfigError


@dataclass(frozen=True)
class PaperConfig(ConditioningConfig):
    kind: str = "paper"
    text_embeddings: Literal["clap+t5", "t5", "clap"] = "clap+t5"  # what a caption becomes (Table 6)
    t5: str = "google/flan-t5-large"  # a folder, or owner/name on the Hub
    # LAION's checkpoint: a path, or owner/name/file.pt on the Hub; or a ClapModel: a folder, or owner/name
    clap: str = "lukewys/laion_clap/630k-audioset-fusion-best.pt"
    # transformers, or laion_clap: LAION's own code, only for its checkpoints
    clap_backend: Literal["transformers", "laion_clap"] = "transformers"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clap_backend == "laion_clap" and not self.clap.endswith(".pt"):
            raise ConfigError(f"conditioning.clap must be a .pt file for clap_backend 'laion_clap', got {self.clap!r}")


class Embedder(Protocol):
    """CLAP, computed by either code: texts and sounds to embeddings [B, P] of unit norm."""

    @property
    def dim(self) -> int: ...

    @property
    def digest(self) -> str: ...

    def embed_text(self, prompts: Sequence[str]) -> Tensor: ...

    def embed_audio(self, waveforms: Iterable[np.ndarray], sample_rate: int) -> Tensor: ...


class PaperEncoder(TextEncoder):
    """Frozen Flan-T5 and CLAP. Captions and sounds without captions become sequences of the same space.

    ``config.text_embeddings`` selects the sequence of a caption (Table 6). CLAP's P values are repeated to E.
    - "clap+t5": up to ``max_tokens`` - 1 states, directly followed by the embedding, padded to ``max_tokens``.
    - "t5": only the states, padded to ``max_tokens`` - 1.
    - "clap": only the embedding, ``max_tokens`` times, which is the paper's form for sounds without captions.
    """

    Config = PaperConfig
    title = "Flan-T5-large and CLAP"

    def __init__(
        self,
        config: PaperConfig,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        audio: bool = False,
    ):
        """dtype: of the text encoders, except LAION's own code. audio: load CLAP even if captions do not need it.

        Raises ConfigError if ``config.dim`` does not fit the encoders, and EncoderError if a file is missing or wrong.
        """
        self.config = config
        self.dim = config.dim
        self.device = torch.device(device)
        self.dtype = dtype
        self.t5: T5Encoder | None = None
        self.clap: Embedder | None = None
        if "t5" in config.text_embeddings:
            self.t5 = T5Encoder(config.t5, config.dim, config.max_tokens - 1, device, dtype)
        if "clap" in config.text_embeddings or audio:
            if config.clap_backend == "laion_clap":
                clap: Embedder = LaionModule(find_checkpoint(config.clap), device)
            else:
                clap = load_clap(config.clap, device, dtype)
            self.clap = clap
            if config.dim % clap.dim:
                raise ConfigError(
                    f"conditioning.dim must be a multiple of {clap.dim}, the width of {config.clap}, got {config.dim!r}"
                )

    @classmethod
    def build(cls, config: ConditioningConfig, device: torch.device | str, dtype: torch.dtype, audio: bool) -> Self:
        assert isinstance(config, PaperConfig)  # the registry matches settings and encoders
        return cls(config, device, dtype, audio)

    @cached_property
    def digest(self) -> str:  # type: ignore[override]  # computed when it is first asked for: it reads the weights
        """sha256 over the digests of both encoders' weights and the settings that change their results."""
        parts = {
            "t5": self.t5.digest if self.t5 else None,
            "clap": self.clap.digest if self.clap else None,
            "clap_backend": self.config.clap_backend,
            "text_embeddings": self.config.text_embeddings,
            "max_tokens": self.config.max_tokens,
            "dtype": str(self.dtype),
        }
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def _clap(self) -> Embedder:
        """CLAP, where the kind of embeddings makes sure that it was loaded."""
        assert self.clap is not None
        return self.clap

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """``prompts`` (B of them) -> tokens [B, T, E] float32, mask [B, T] (Case 1 of Appendix J.1).

        T does not depend on the prompts. Real tokens come first and padding is zero. Longer prompts lose their end: T5
        reads ``max_tokens`` - 1 pieces with the mark of the end, CLAP 77.
        """
        prompts = check_prompts(prompts)
        kind = self.config.text_embeddings
        if kind == "clap":
            return self._repeated(self._clap.embed_text(prompts))
        assert self.t5 is not None  # every other kind loads it
        states, counts = self.t5(prompts)
        length = self.config.max_tokens - (kind == "t5")
        tokens = states.new_zeros(len(prompts), length, self.dim)
        tokens[:, : states.shape[1]] = states
        if kind == "clap+t5":
            items = torch.arange(len(prompts), device=self.device)
            tokens[items, counts] = self._widened(self._clap.embed_text(prompts))
            counts = counts + 1
        return Conditioning(tokens, torch.arange(length, device=self.device) < counts[:, None])

    def encode_audio(self, waveforms: Iterable[np.ndarray | Tensor], sample_rate: int) -> Conditioning:
        """Sounds without captions -> tokens [B, ``max_tokens``, E] float32, all real (Case 2 of Appendix J.1).

        waveforms: [B, S], or B sounds [S], floating in [-1, 1] or int16, at ``sample_rate`` Hz. Each token is CLAP's
        embedding of the sound, repeated to E. Raises ValueError naming what is wrong.
        """
        if self.clap is None:
            raise EncoderError(
                f"conditioning.text_embeddings {self.config.text_embeddings!r} loads no CLAP, which sounds without "
                "captions need: build the encoder with audio=True"
            )
        if isinstance(sample_rate, bool) or not isinstance(sample_rate, int) or not 1000 <= sample_rate <= 384_000:
            raise ValueError(f"sample_rate must be a whole number from 1000 to 384000, got {sample_rate!r}")
        sounds = []
        for waveform in waveforms:
            samples = check_audio(waveform)
            if len(samples) != 1:
                raise ValueError(f"waveforms must be mono, [B, S] or B of [S], got {len(samples)} channels")
            sounds.append(samples[0])
        if not sounds:
            raise ValueError("waveforms must hold at least one sound, got none")
        return self._repeated(self.clap.embed_audio(sounds, sample_rate))

    def _widened(self, embeddings: Tensor) -> Tensor:
        """[B, P] -> [B, E], repeated along its values."""
        return embeddings.repeat(1, self.dim // self._clap.dim)

    def _repeated(self, embeddings: Tensor) -> Conditioning:
        """[B, P] -> a sequence that consists of this embedding."""
        tokens = self._widened(embeddings)[:, None].repeat(1, self.config.max_tokens, 1)
        return Conditioning(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))
