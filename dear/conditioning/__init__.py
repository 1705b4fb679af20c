'''Prompts to conditioning sequences: the frozen encoders, and the learned null condition of guidance.

A condition is always a pair (tokens [B, T, E], mask [B, T]). The paper joins the token states of Flan-T5 with the
pooled vectors of CLAP (Section 4.2); the small model keeps that form with one sentence encoder: its token states, then
its pooled vector as one more token.

A further text encoder is one new file with a subclass of ``TextEncoder``, here ``dear/conditioning/hashed.py``, ::

    import hashlib
    from dataclasses import dataclass

    import torch

    from dear.conditioning.base import Conditioning, TextEncoder, check_prompts
    from dear.config import ConditioningConfig


    @dataclass(frozen=True)
    class HashConfig(ConditioningConfig):
        kind: str = "hashed"


    class HashEncoder(TextEncoder):
        """Each word is a fixed random vector; their mean follows as the pooled one."""

        Config = HashConfig
        title = "hashed words"

        def __init__(self, config, device):
            self.config = config
            self.dim = config.dim
            self.device = torch.device(device)
            self.digest = f"hashed-{config.dim}-{config.max_tokens}"

        @classmethod
        def build(cls, config, device, dtype, audio):
            return cls(config, device)

        def encode(self, prompts):
            words = [prompt.split()[: self.config.max_tokens - 1] for prompt in check_prompts(prompts)]
            tokens = torch.zeros(len(words), max(map(len, words)) + 1, self.dim)
            mask = torch.zeros(tokens.shape[:2], dtype=torch.bool)
            for item, each in enumerate(words):
                vectors = torch.stack([self.vector(word) for word in each])
                tokens[item, : len(each)] = vectors
                tokens[item, len(each)] = vectors.mean(dim=0)
                mask[item, : len(each) + 1] = True
            return Conditioning(tokens, mask).to(self.device)

        def vector(self, word):
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8]) >> 1
            return torch.randn(self.dim, generator=torch.Generator().manual_seed(seed))

and one entry in ``ENCODERS`` with its import, ``"hashed": HashEncoder``. The contract in
``tests/conditioning/test_encoder_contract.py`` covers it, and ``tests/test_extending.py`` runs this example.
'''

from __future__ import annotations

import torch

from dear.conditioning.base import MAX_PROMPT, Conditioning, EncoderError, NullCondition, TextEncoder, check_prompt
from dear.conditioning.minilm import MiniLMEncoder
from dear.conditioning.paper import PaperEncoder
from dear.config import ConditioningConfig, ConfigError

__all__ = [
    "ENCODERS",
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

ENCODERS: dict[str, type[TextEncoder]] = {
    "minilm": MiniLMEncoder,
    "paper": PaperEncoder,
}


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
