"""Generators of random numbers from seeds of up to 64 bits."""

from __future__ import annotations

import numpy as np
import torch

SEEDS = 2**63 - 1  # of a generator
WORDS = 624  # of the Mersenne Twister's state
FIRST = 3  # 64-bit word of torch's state where they begin: behind the seed, two counts of 32 bits, and the position


def seeded(seed: int) -> torch.Generator:
    """A CPU generator whose every bit depends on all bits of ``seed``, 0 to 2**64 - 1.

    torch uses only the lower 32 bits. Seeds below 2**32 give the same numbers as ``torch.Generator().manual_seed``.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed & 0xFFFF_FFFF)
    if seed >> 32:
        state = generator.get_state()
        words = state.view(torch.int64)[FIRST : FIRST + WORDS]
        words.copy_(torch.from_numpy(np.random.SeedSequence(seed).generate_state(WORDS).astype(np.int64)))
        words[0] |= 1 << 31  # a state of zeros alone would stay at zero
        generator.set_state(state)
    return generator


def generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """``generator`` itself on the CPU. On another device, a generator of that device, seeded with its next value."""
    if device.type == "cpu":
        return generator
    return torch.Generator(device).manual_seed(int(torch.randint(SEEDS, (), generator=generator)))
