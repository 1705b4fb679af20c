"""Prompts to conditioning sequences: the frozen encoders, and the learned null condition of guidance.

A condition is always a pair (tokens [B, T, E], mask [B, T]). The paper joins the token states of Flan-T5 with the
pooled vectors of CLAP (Section 4.2); the small model keeps that form with one sentence encoder: its token states, then
its pooled vector as one more token.
"""

from __future__ import annotations

import torch

from dear.conditioning.base import MAX_PROMPT, Conditioning, EncoderError, NullCondition, TextEncoder, check_prompt
from dear.conditioning.minilm import MiniLMEncoder
from dear.conditioning.paper import PaperEncoder
from dear.config import ConditioningConfig, ConfigError

__all__ = [
    "MAX_PROMPT",
    "Conditioning",
    "EncoderError",
    "MiniLMEncoder",
    "NullCondition",
    "PaperEncoder",
    "TextEncoder",
    "build_text_encoder",
    "check_prompt",
]


def build_text_encoder(
    conditioning: ConditioningConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    audio: bool = False,
) -> MiniLMEncoder | PaperEncoder:
    """The frozen encoders of a configuration, with their weights.

    dtype: of the paper's text encoders, float32 or bfloat16; results are float32. audio: make sure that sounds without
    captions can be encoded as well. Raises ConfigError where the configuration has no such encoder, and EncoderError
    where a file is absent or wrong.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype must be torch.float32 or torch.bfloat16, got {dtype!r}")
    if conditioning.kind == "paper":
        return PaperEncoder(conditioning, device, dtype, audio)
    if conditioning.dim != MiniLMEncoder.DIM:
        raise ConfigError(f"conditioning.dim must be {MiniLMEncoder.DIM} for 'minilm', got {conditioning.dim!r}")
    if audio:
        raise ConfigError("conditioning.kind must be 'paper' to encode sounds without captions, got 'minilm'")
    if dtype != torch.float32:
        raise ValueError(f"dtype must be torch.float32 for 'minilm', got {dtype!r}")
    return MiniLMEncoder(conditioning.max_tokens, device)
