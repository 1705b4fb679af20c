"""Compare a LAION checkpoint in transformers' ClapModel with the same one in LAION's own code.

    python -m training.clap --checkpoint 630k-audioset-fusion-best.pt --audio dog.wav --text "a dog barking"

Prints the cosine similarity of both embeddings of every text and sound, and their largest difference. The exit status
is 1 where a difference exceeds ``--tolerance``, 2 where something cannot be loaded. Needs laion_clap,
torchvision, torchaudio and the Hub's roberta-base.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from dear.audio import read_sound
from dear.conditioning.clap import find_checkpoint, load_clap
from dear.conditioning.laion_module import LaionModule
from dear.conditioning.paper import Embedder, PaperConfig
from training.runtime.commands import guarded

RATE = 48_000  # Hz, CLAP's own
TEXTS = ("a dog barking", "rain on a tin roof, then a rooster crows far away", "waves " * 100)


def sounds() -> dict[str, np.ndarray]:
    """Sounds at 48 kHz for a comparison without files: of ten seconds or less, loud and quiet."""
    time = np.arange(10 * RATE) / RATE
    noise = np.random.default_rng(0).standard_normal(10 * RATE)
    return {
        "noise of 10 s": (0.1 * noise).astype(np.float32),
        "quiet chirp of 7.3 s": (0.003 * np.sin((200 + 900 * time) * time))[: int(7.3 * RATE)].astype(np.float32),
        "silence of 1 s": np.zeros(RATE, dtype=np.float32),
    }


def compare(
    first: Embedder, second: Embedder, texts: Sequence[str], waveforms: Mapping[str, np.ndarray]
) -> dict[str, tuple[float, float]]:
    """Per text and sound (48 kHz): cosine similarity, and the largest difference of any of the P values."""
    pairs = {text: (first.embed_text([text]), second.embed_text([text])) for text in texts}
    for name, waveform in waveforms.items():
        pairs[name] = (first.embed_audio([waveform], RATE), second.embed_audio([waveform], RATE))
    return {name: (torch.cosine_similarity(a, b).item(), (a - b).abs().max().item()) for name, (a, b) in pairs.items()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.clap", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default=PaperConfig().clap, help="a .pt file, or owner/name/file.pt")
    parser.add_argument("--text", nargs="+", default=TEXTS)
    parser.add_argument("--audio", nargs="+", type=Path, help="sound files; their first ten seconds are compared")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest difference of any value (1e-4)")
    options = parser.parse_args(arguments)

    def run() -> int:
        if options.audio:
            waveforms = {str(path): read_sound(path, RATE)[: 10 * RATE] for path in options.audio}
        else:
            waveforms = sounds()
        path = find_checkpoint(options.checkpoint)
        table = compare(load_clap(str(path)), LaionModule(path), options.text, waveforms)
        for name, (cosine, difference) in table.items():
            print(f"cosine {cosine:.8f}   largest difference {difference:.1e}   {name[:60]}")
        return int(not all(difference <= options.tolerance for _, difference in table.values()))

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
