"""CLAP's front end: 48 kHz sound to log-mel spectrograms, as LAION's training code computes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import ClapFeatureExtractor

FLOOR = 1e-10  # power below which a band counts as silent: -100 dB


class ClapMel:
    """Waveforms of any length to the spectrograms of HTSAT, fused (four of each sound) or unfused (one).

    LAION draws crops of a long sound at random. Here they lie in the middle of their range, so that a sound always has
    the same embedding.
    """

    def __init__(self, extractor: ClapFeatureExtractor, fused: bool):
        """``extractor``: the published settings of the front end."""
        self.fused = fused
        self.sample_rate: int = extractor.sampling_rate
        self.samples: int = extractor.nb_max_samples  # ten seconds
        self.n_fft: int = extractor.fft_window_size
        self.hop_length: int = extractor.hop_length
        # Fused models were trained behind torchaudio's filters (HTK), unfused ones behind librosa's (Slaney).
        filters = extractor.mel_filters if fused else extractor.mel_filters_slaney
        self.filters = torch.tensor(filters, dtype=torch.float32)  # [bins, M]

    def __call__(self, waveform: np.ndarray) -> tuple[Tensor, bool]:
        """[S] in [-1, 1] at ``sample_rate`` -> spectrograms [1 or 4, F, M] in dB, and whether crops are to be fused."""
        # LAION trained on 16-bit sound, where levels below one step are silence.
        quantised = (np.clip(waveform, -1, 1).astype(np.float32) * np.float32(32767)).astype(np.int16)
        samples = torch.from_numpy((quantised / 32767.0).astype(np.float32))
        if not self.fused:
            start = max(0, (len(samples) - self.samples) // 2)
            return self.spectrogram(self._fill(samples[start : start + self.samples]))[None], False
        frames = self.samples // self.hop_length + 1
        mel = self.spectrogram(self._fill(samples))
        if len(mel) == frames:
            return mel.expand(4, -1, -1), False
        whole = nn.functional.interpolate(mel[None, None], (frames, mel.shape[1]), mode="bilinear", align_corners=False)
        thirds = np.array_split(np.arange(len(mel) - frames + 1), 3)  # where a crop may start: front, middle, back
        starts = [int(third[len(third) // 2]) if len(third) else 0 for third in thirds]
        return torch.stack([whole[0, 0], *(mel[start : start + frames] for start in starts)]), True

    def spectrogram(self, samples: Tensor) -> Tensor:
        """[S] -> [F, M] in dB."""
        window = torch.hann_window(self.n_fft, dtype=torch.float32)
        spectrum = torch.stft(samples, self.n_fft, self.hop_length, window=window, center=True, return_complex=True)
        power = spectrum.abs().square().T @ self.filters
        return 10 * torch.log10(power.clamp_min(FLOOR))

    def _fill(self, samples: Tensor) -> Tensor:
        """A short sound repeated a whole number of times, then silence; a long sound unchanged."""
        if len(samples) >= self.samples:
            return samples
        samples = samples.repeat(self.samples // len(samples))
        return nn.functional.pad(samples, (0, self.samples - len(samples)))
