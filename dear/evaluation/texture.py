"""What a waveform has that its log-mel does not show, as pure functions: beats of the envelope, and clean harmonics."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

ENVELOPE_RATE = 250  # Hz: a value of the envelope every 4 ms
BEATS = (10.0, 30.0)  # Hz: Griffin-Lim raises these rates in noise; they are heard as an engine
WINDOW = 4096  # samples: 0.26 s at 16 kHz, so that harmonics 16 Hz apart are told from each other
NEIGHBOURS = 101  # bins around a peak, whose median is the floor: 390 Hz
HARMONICS = 5
QUIET = 40.0  # dB below the loudest frame, at which a frame is left out


def envelope_db(waveform: Tensor, sample_rate: int = 16_000, rates: tuple[float, float] = BEATS) -> Tensor:
    """waveform [B,S] -> [B]: power of the envelope's spectrum at ``rates`` (Hz), in dB of its squared mean.

    The envelope is the root mean square of 4 ms. A tone whose amplitude is modulated by a share m at a rate in the band
    gives 10 log10(m^2 / 2). A silent waveform gives -inf.
    Raises ValueError for less than half a second.
    """
    step = sample_rate // ENVELOPE_RATE
    if waveform.ndim != 2 or waveform.shape[1] < sample_rate // 2:
        raise ValueError(
            f"waveform must be [B, S] with at least {sample_rate // 2} samples, got {list(waveform.shape)}"
        )
    count = waveform.shape[1] // step
    envelope = waveform[:, : count * step].double().unflatten(1, (count, step)).square().mean(dim=2).sqrt()
    mean = envelope.mean(dim=1, keepdim=True)
    window = torch.hann_window(count, dtype=torch.float64, device=waveform.device)
    spectrum = torch.fft.rfft((envelope - mean) * window).abs().square() * 2 / (count * window.square().sum())
    frequency = torch.fft.rfftfreq(count, step / sample_rate)
    inside = (frequency >= rates[0]) & (frequency <= rates[1])
    power = spectrum[:, inside].sum(dim=1)
    return (10 * (power / mean[:, 0].square()).log10()).nan_to_num(nan=-math.inf, neginf=-math.inf)


def harmonic_ratio_db(waveform: Tensor, harmonics: int = HARMONICS) -> Tensor:
    """waveform [B,S] -> [B]: how far the strongest spectral peaks stand above the floor around them, in dB.

    In each frame of 4096 samples, the mean over the ``harmonics`` strongest local maxima of their level above the
    median of the 101 bins around; then the mean over frames that are at most 40 dB below the loudest. A steady tone of
    amplitude A in white noise of variance s^2 gives 10 log10(A^2 (sum w)^2 / (4 s^2 ln 2 sum w^2)) for the window w.
    A rough tone, as of a vocoder that loses phase, has a higher floor.
    Raises ValueError for fewer samples than a frame.
    """
    if waveform.ndim != 2 or waveform.shape[1] < WINDOW:
        raise ValueError(f"waveform must be [B, S] with at least {WINDOW} samples, got {list(waveform.shape)}")
    window = torch.hann_window(WINDOW, dtype=torch.float64, device=waveform.device)
    frames = waveform.double().unfold(1, WINDOW, WINDOW // 2) * window  # [B, frames, WINDOW]
    level = 10 * torch.fft.rfft(frames).abs().square().clamp_min(1e-12).log10()
    side = NEIGHBOURS // 2
    around = nn.functional.pad(level, (side, side), mode="reflect").unfold(2, NEIGHBOURS, 1)
    inner = level[..., 1:-1]
    is_peak = (inner > level[..., :-2]) & (inner >= level[..., 2:])
    # The median is taken around the strongest peaks alone: of all bins it would be most of the work.
    strongest = torch.where(is_peak, inner, -math.inf).topk(harmonics, dim=2).indices + 1
    floor = around.gather(2, strongest[..., None].expand(-1, -1, -1, NEIGHBOURS)).median(dim=3).values
    above = (level.gather(2, strongest) - floor).mean(dim=2)
    energy = 10 * frames.square().sum(dim=2).clamp_min(1e-12).log10()
    loud = energy >= energy.amax(dim=1, keepdim=True) - QUIET
    return torch.where(loud, above, 0).sum(dim=1) / loud.sum(dim=1)
