"""Log-mel to waveform: Griffin-Lim, which needs no weights, a small trained ISTFT vocoder, and AudioLDM's HiFi-GAN.

All give F * hop samples for F frames, and the same samples for the same mel: the first two frame sound as
:class:`dear.mel.MelSpectrogram` does and start from the phases of one fixed noise, the third draws nothing.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from dear import audioldm
from dear.config import MelConfig, VocoderConfig
from dear.convolution import accelerate, in_groups
from dear.layers import ConvNeXtBlock
from dear.mel import MelSpectrogram

TINY = 1e-9
PEAK = 0.99
DRAFT_SHARE = 4  # Griffin-Lim: a draft takes one iteration in so many


class MelInverse(nn.Module):
    """Log-mel to the magnitudes that explain it: multiplicative updates of the generalised KL divergence.

    Non-negative by construction, and far closer than the clamped pseudo-inverse: the start spreads each band evenly
    over its bins, twelve updates leave a log-mel error of about 0.001 on recordings. (Lee and Seung 2001, eq. 5.)
    """

    def __init__(self, mel: MelConfig, updates: int = 12):
        super().__init__()
        self.updates = updates
        self.floor = math.log(mel.floor) + 1e-4  # a decoder's clamp rounds
        filters = MelSpectrogram(mel).filters  # [bins, M]
        share = filters / filters.sum(1, keepdim=True).clamp_min(TINY)  # how a bin divides over the bands
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("bands", filters.sum(0).clamp_min(TINY), persistent=False)
        self.register_buffer("spread", share.T.contiguous(), persistent=False)

    def forward(self, mel: Tensor) -> Tensor:
        """mel [B, F, M] log-mel -> STFT magnitudes [B, F, n_fft // 2 + 1]."""
        mel = mel.float()
        # The floor stands for all that is quieter, silence included.
        target = torch.where(mel > self.floor, mel.exp(), 0.0)
        magnitudes = (target / self.bands) @ self.spread
        for _ in range(self.updates):
            magnitudes = magnitudes * ((target / (magnitudes @ self.filters).clamp_min(TINY)) @ self.spread)
        return magnitudes


class Frames(nn.Module):
    """Windowed frames of a signal and back by least-squares overlap-add: F frames, (F - 1) * hop + n_fft samples."""

    def __init__(self, n_fft: int, hop: int):
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def spectrum(self, signal: Tensor) -> Tensor:
        """signal [B, (F - 1) * hop + n_fft] -> complex [B, F, bins]."""
        return torch.fft.rfft(signal.unfold(1, self.n_fft, self.hop) * self.window)

    def signal(self, spectrum: Tensor, share: Tensor | None = None) -> Tensor:
        """spectrum complex [B, F, bins] -> [B, (F - 1) * hop + n_fft]. share: that of F frames, where it is at hand."""
        share = self.share(spectrum.shape[1]) if share is None else share
        return self._overlap(torch.fft.irfft(spectrum, self.n_fft)) * share

    def share(self, count: int) -> Tensor:
        """[1, (F - 1) * hop + n_fft]: one over the sum of the squared windows of ``count`` = F frames."""
        return self._overlap(self.window.expand(1, count, -1)).clamp_min(TINY).reciprocal()

    def _overlap(self, frames: Tensor) -> Tensor:
        """frames [B, F, n_fft] -> their sum under the window [B, (F - 1) * hop + n_fft]."""
        # One addition per hop of the window: three times faster than nn.functional.fold.
        count, hops = frames.shape[1], -(-self.n_fft // self.hop)
        total = frames.new_zeros(frames.shape[0], count + hops - 1, self.hop)
        for index in range(hops):
            part = slice(index * self.hop, min((index + 1) * self.hop, self.n_fft))
            into = total[:, index : index + count, : part.stop - part.start]
            into.addcmul_(frames[:, :, part], self.window[part])
        return total.flatten(1)[:, : (count - 1) * self.hop + self.n_fft]

    def noise(self, count: int, generator: torch.Generator | None = None, items: int = 1) -> Tensor:
        """Phases of white noise, unit complex [items, count, bins], from a CPU generator; None: one fixed noise.

        Unlike independent phases, these belong to a signal: sounds that are noise are right from the start.
        """
        length = (count - 1) * self.hop + self.n_fft
        if generator is None:
            return _unit(self.spectrum(_fixed_noise(length, self.window.device)))
        return _unit(self.spectrum(torch.randn(items, length, generator=generator).to(self.window.device)))

    def crop(self, signal: Tensor) -> Tensor:
        """signal [B, (F - 1) * hop + n_fft] -> [B, F * hop]: takes off the padding of the analysis on each side."""
        padding = (self.n_fft - self.hop) // 2
        return signal[:, padding : signal.shape[1] - (self.n_fft - self.hop - padding)]


@lru_cache(maxsize=8)
def _fixed_noise(length: int, device: torch.device) -> Tensor:
    """[1, length]; kept on the device, as a copy from the host would wait for all that the device has to do."""
    with torch.inference_mode(False):
        return torch.randn(1, length, generator=torch.Generator().manual_seed(0)).to(device)


def _unit(spectrum: Tensor) -> Tensor:
    return spectrum * _inverse_abs(torch.view_as_real(spectrum))


def _inverse_abs(spectrum: Tensor) -> Tensor:
    """spectrum [..., 2] real and imaginary -> [...], one over its modulus."""
    # Squares instead of abs(): hypot costs more than the transforms.
    real, imaginary = spectrum.unbind(-1)
    return torch.addcmul(real.square(), imaginary, imaginary).clamp_min(TINY**2).rsqrt()


def limit(waveform: Tensor) -> Tensor:
    """waveform [B, S] -> the same, each item that would clip made softer as a whole: its peak becomes PEAK."""
    peak = waveform.abs().amax(dim=1, keepdim=True)
    return waveform * (PEAK / peak.clamp_min(PEAK))


class GriffinLim(nn.Module):
    """Fast Griffin-Lim (Perraudin et al. 2013, alpha from ``momentum``) from a fixed phase; it has no weights."""

    def __init__(self, vocoder: VocoderConfig, mel: MelConfig):
        super().__init__()
        self.iterations, self.momentum = vocoder.iterations, vocoder.momentum
        self.inverse = MelInverse(mel)
        self.frames = Frames(mel.n_fft, mel.hop_length)

    @torch.no_grad()
    def forward(self, mel: Tensor) -> Tensor:
        """mel [B, F, M] log-mel -> waveform [B, F * hop] float32 in [-1, 1]."""
        return limit(in_groups(lambda part: self._signal(part, self.iterations), mel))

    @torch.no_grad()
    def draft(self, mel: Tensor) -> Tensor:
        """As forward, sooner: with a quarter of the iterations its log-mel is about a tenth further off."""
        return limit(in_groups(lambda part: self._signal(part, -(-self.iterations // DRAFT_SHARE)), mel))

    def _signal(self, mel: Tensor, iterations: int) -> Tensor:
        magnitudes, share = self.inverse(mel), self.frames.share(mel.shape[1])
        spectrum = magnitudes * self.frames.noise(mel.shape[1])
        previous = torch.zeros_like(spectrum)
        weight = self.momentum / (1 + self.momentum)
        for _ in range(iterations):
            consistent = self.frames.spectrum(self.frames.signal(spectrum, share))
            parts = torch.view_as_real(torch.sub(consistent, previous, alpha=weight))
            parts *= (magnitudes * _inverse_abs(parts)).unsqueeze(-1)
            spectrum, previous = torch.view_as_complex(parts), consistent
        return self.frames.crop(self.frames.signal(spectrum, share))


class ISTFTVocoder(nn.Module):
    """ConvNeXt blocks over frames that shape a fixed noise into sound in the STFT domain, after Vocos.

    A convolution over frames alone maps a steady mel to identical frames, whose overlap holds only harmonics of the
    frame rate. Therefore the phases of the fixed noise are an input, and the output is

        S = A exp(a) (N + c),  A the magnitudes that the mel implies, N the noise's phases,

    with a (real) and c (complex) from the network. Its last layer starts at zero: an untrained vocoder is
    noise filtered by the mel, already right for rain and surf.
    """

    def __init__(self, vocoder: VocoderConfig, mel: MelConfig):
        super().__init__()
        self.frames = Frames(4 * mel.hop_length, mel.hop_length)
        self.bins = 2 * mel.hop_length + 1
        self.inverse = MelInverse(mel, updates=0)
        # A shorter window sees proportionally smaller magnitudes of noise (its energy) at proportionally spaced bins.
        self.ratio = (self.frames.n_fft / mel.n_fft) ** 0.5
        self.centre = math.log(mel.floor) / 2
        self.mel_in = nn.Conv1d(mel.n_mels, vocoder.width, 7, padding=3)
        self.noise_in = nn.Linear(2 * self.bins, vocoder.width)
        self.blocks = nn.ModuleList(ConvNeXtBlock(vocoder.width, taps=7, expansion=3) for _ in range(vocoder.depth))
        self.norm = nn.LayerNorm(vocoder.width)
        self.out = nn.Linear(vocoder.width, 3 * self.bins)
        generator = torch.Generator().manual_seed(0)  # initial weights depend on nothing but the configuration
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv1d):
                nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5, generator=generator)
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.out.weight)

    def forward(self, mel: Tensor) -> Tensor:
        """mel [B, F, M] log-mel -> waveform [B, F * hop] float32 in [-1, 1]."""
        noise = self.frames.noise(mel.shape[1])
        return limit(in_groups(lambda part: self.synthesise(part, noise), mel))

    def synthesise(self, mel: Tensor, noise: Tensor) -> Tensor:
        """As forward, unclamped, from the phases ``noise`` complex [1 or B, F, bins]: what training differentiates.

        Training draws the noise anew at each step, else the network would learn one noise by heart.
        """
        phases = torch.view_as_real(noise).flatten(2)
        x = self.mel_in((mel.float() - self.centre).transpose(1, 2) / 4).transpose(1, 2) + self.noise_in(phases)
        for block in self.blocks:
            x = block(x)
        gain, real, imaginary = self.out(self.norm(x)).chunk(3, dim=-1)
        base = nn.functional.interpolate(self.inverse(mel), self.bins, mode="linear", align_corners=True) * self.ratio
        # The bound keeps one bad frame of early training from overflowing.
        magnitudes = base * gain.clamp(max=8).exp()
        return self.frames.crop(self.frames.signal(magnitudes * (noise + torch.complex(real, imaginary))))


class AudioLDMVocoder(nn.Module):
    """AudioLDM's frozen HiFi-GAN, kind "audioldm": the paper's.

    folder: where the files lie (see ``dear.audioldm``); None: untrained, at the published size.
    Raises ValueError where the files are not such a vocoder, or it is not one for this mel.
    """

    def __init__(self, vocoder: VocoderConfig, mel: MelConfig, folder: Path | None = None):
        super().__init__()
        audioldm.check_mel(mel)
        self.network = accelerate(audioldm.hifigan(folder).requires_grad_(False))
        self.hop = mel.hop_length
        config = self.network.config
        found = (config.model_in_dim, math.prod(config.upsample_rates), config.sampling_rate)
        if found != (mel.n_mels, mel.hop_length, mel.sample_rate):
            told = "{} mel bins, {} samples a frame and {} Hz"
            wanted = told.format(mel.n_mels, mel.hop_length, mel.sample_rate)
            raise ValueError(f"vocoder.source must hold a vocoder of {wanted}, got {told.format(*found)}")

    def forward(self, mel: Tensor) -> Tensor:
        """mel [B, F, M] log-mel -> waveform [B, F * hop] float32 in [-1, 1]."""
        # A kernel of 16 over a stride of 5 makes the network write 32 samples more than F * hop. As in AudioLDM's own
        # pipeline, the first ones count.
        return limit(in_groups(self.network, mel.float())[:, : mel.shape[1] * self.hop])


def build_vocoder(vocoder: VocoderConfig, mel: MelConfig, folder: Path | None = None) -> nn.Module:
    """The vocoder that ``vocoder.kind`` names, untrained; audioldm: with the weights of ``folder`` where given."""
    if vocoder.kind == "audioldm":
        return AudioLDMVocoder(vocoder, mel, folder)
    return {"griffin-lim": GriffinLim, "istft": ISTFTVocoder}[vocoder.kind](vocoder, mel)
