"""Waveform to natural-log mel spectrogram, by AudioLDM's protocol (Section 4.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dear.config import MelConfig
from dear.melscale import mel_filters


class MelSpectrogram(nn.Module):
    """Log magnitude mel of clips, framed as HiFi-GAN does: reflect padding, frame i centred near sample i * hop."""

    filters: Tensor  # [bins, M]
    window: Tensor  # [n_fft]

    def __init__(self, config: MelConfig):
        super().__init__()
        self.config = config
        filters = mel_filters(config.n_fft // 2 + 1, config.n_mels, config.f_min, config.f_max, config.sample_rate)
        self.register_buffer("filters", torch.tensor(filters, dtype=torch.float32), persistent=False)  # [bins, M]
        self.register_buffer("window", torch.hann_window(config.n_fft, dtype=torch.float32), persistent=False)

    @property
    def padding(self) -> int:
        """Samples of reflection on each side, so that S = F * hop samples give F frames."""
        return (self.config.n_fft - self.config.hop_length) // 2

    def magnitudes(self, waveform: Tensor) -> Tensor:
        """waveform [B, S] -> STFT magnitudes [B, F, n_fft // 2 + 1]."""
        padded = nn.functional.pad(waveform[:, None], (self.padding, self.padding), mode="reflect")[:, 0]
        spectrum = torch.stft(
            padded,
            self.config.n_fft,
            self.config.hop_length,
            window=self.window,
            center=False,
            return_complex=True,
        )
        return spectrum.abs().transpose(1, 2)

    def forward(self, waveform: Tensor) -> Tensor:
        """waveform [B, S] float in [-1, 1] -> log-mel [B, S // hop, M], natural logarithm."""
        mel = self.magnitudes(waveform.float()) @ self.filters
        return torch.log(mel.clamp_min(self.config.floor))

    def clip(self, waveform: Tensor) -> Tensor:
        """waveform [B, S] of any length -> log-mel [B, F, M] of one clip: zero-padded or cropped to F * hop samples."""
        wanted = self.config.frames * self.config.hop_length
        waveform = waveform[:, :wanted]
        return self(nn.functional.pad(waveform, (0, wanted - waveform.shape[1])))
