"""Prompts to conditioning sequences: the frozen encoders, and the learned null condition of guidance.

A condition is always a pair (tokens [B, T, E], mask [B, T]). The paper joins the token states of Flan-T5 with the
pooled vectors of CLAP (Section 4.2). The small model has the same form with one sentence encoder: its token states,
then its pooled vector as one more token.

``docs/contributing.md`` explains how to add a text encoder, with an example that the tests run.
"""

from __future__ import annotations

import torch

from dear.conditioning.base import (
    MAX_PROMPT,
    Conditioning,
    EncoderError,
    NullCondition,
    TextEncoder,
    check_prompt,
    control_character,
)
from dear.config import ConditioningConfig, ConfigError
from dear.registry import load_kinds

__all__ = [
    "ENCODERS",
    "MAX_PROMPT",
    "Conditioning",
    "EncoderError",
    "NullCondition",
    "TextEncoder",
    "build_text_encoder",
    "check_prompt",
    "control_character",
]

ENCODERS: dict[str, type[TextEncoder]] = load_kinds(
    {
        "minilm": "dear.conditioning.minilm:MiniLMEncoder",
        "paper": "dear.conditioning.paper:PaperEncoder",
    }
)


def build_text_encoder(
    conditioning: ConditioningConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    audio: bool = False,
) -> TextEncoder:
    """The frozen encoders of a configuration, with their weights.

    dtype: of the weights, float32 or bfloat16; results are float32. audio: sounds without captions are to be encoded
        as well.
    Raises ConfigError for a kind that is not in ``ENCODERS`` or cannot honour its settings, and EncoderError where a
    file is absent or wrong.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype must be torch.float32 or torch.bfloat16, got {dtype!r}")
    if conditioning.kind not in ENCODERS:
        raise ConfigError(f"conditioning.kind must be one of {', '.join(ENCODERS)}, got {conditioning.kind!r}")
    return ENCODERS[conditioning.kind].build(conditioning, device, dtype, audio)
