"""Reading of a sound file into the waveform that a network hears. Published results differ in it, by up to 30 in FD.

``PANNS`` and ``VGGISH`` follow audioldm_eval 0.0.3 for these networks. ``PLAIN`` is the reading of the rest of this
package.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dear.audio import AudioError, resample


@dataclass(frozen=True)
class Window:
    """A windowed-sinc low-pass filter, by which a sound is resampled."""

    rolloff: float  # cut-off frequency, as a share of the lower Nyquist frequency
    zeros: float  # half-width, in samples at the lower rate
    beta: float | None = None  # of a Kaiser window; None: a Hann window
    table: int | None = None  # values from one zero to the next of a tabulated filter; see `positions`

    def positions(self, places: Tensor, scale: float) -> Tensor:
        """Distances [...] in samples of a waveform -> in samples at the lower rate, ``scale`` of which make one.

        resampy walks through its table in whole entries, so that a filter which lowers the rate is a little wider.
        """
        if self.table is None:
            return places.abs() * scale
        whole = torch.where(places > 0, places.ceil() - 1, (-places).floor())
        return (places.abs() - whole) * scale + whole * (math.floor(scale * self.table) / self.table)

    def __call__(self, time: Tensor) -> Tensor:
        """The filter at ``time``, in samples at the lower rate."""
        place = (time / self.zeros).clamp(-1, 1)
        if self.beta is None:
            window = torch.cos(place * (math.pi / 2)).square()
        else:
            beta = torch.tensor(self.beta, dtype=time.dtype)
            window = torch.special.i0(beta * (1 - place.square()).sqrt()) / torch.special.i0(beta)
        return self.rolloff * torch.sinc(self.rolloff * time) * window * (place.abs() < 1)


@dataclass(frozen=True)
class Reading:
    """The way in which files are read for a network. The defaults are this package's own."""

    channel: str = "mean"  # "mean" of all, or "first"
    centred: bool = False  # whether the mean of the samples is subtracted, before resampling
    quantised: bool = False  # whether samples are rounded to 16 bits first
    resampler: str = "polyphase"  # SciPy's; or one of RESAMPLERS
    shortest: int = 0  # samples up to which silence is appended


RESAMPLERS = {
    "torchaudio": Window(0.99, 6 / 0.99),  # torchaudio.functional.resample, by its defaults
    "resampy": Window(0.917347, 50, 12.9846, 2**13),  # resampy's kaiser_best
}
PLAIN = Reading()
PANNS = Reading(channel="first", centred=True, resampler="torchaudio", shortest=32_000)
VGGISH = Reading(quantised=True, resampler="resampy")


def read_waveform(
    path: str | Path, sample_rate: int, reading: Reading = PLAIN, start: float = 0.0, duration: float | None = None
) -> Tensor:
    """A file's sound, or the ``duration`` seconds from ``start`` on, as mono float32 [S] at ``sample_rate`` Hz.

    Raises :class:`AudioError` naming a broken file.
    """
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            file.seek(min(round(start * rate), file.frames))
            count = -1 if duration is None else round(duration * rate)
            samples = file.read(count, dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as error:
        raise AudioError(f"{path} can't be read as a sound: {error}") from None
    if not (len(samples) and np.isfinite(samples).all()):
        raise AudioError(f"{path} must hold a finite sound of at least one sample")
    waveform = samples.astype(np.float64)
    if reading.quantised:
        waveform = (waveform * 32768).round().clip(-32768, 32767) / 32768
    waveform = waveform[:, 0] if reading.channel == "first" else waveform.mean(axis=1)
    if reading.centred:
        waveform = waveform - waveform.mean()
    if reading.resampler == "polyphase":
        found = torch.from_numpy(np.ascontiguousarray(resample(waveform, rate, sample_rate)))
    else:
        found = resample_by(torch.from_numpy(waveform), rate, sample_rate, RESAMPLERS[reading.resampler])
    return nn.functional.pad(found, (0, max(0, reading.shortest - len(found)))).float()


def resample_by(waveform: Tensor, rate: int, wanted: int, window: Window) -> Tensor:
    """waveform [S] float64 at ``rate`` Hz -> [ceil(S * wanted / rate)] at ``wanted`` Hz, silence beyond both ends."""
    if rate == wanted:
        return waveform
    divisor = math.gcd(rate, wanted)
    before, after = rate // divisor, wanted // divisor
    scale = min(1.0, after / before)  # samples at the lower rate in one of the waveform
    reach = math.ceil(window.zeros / scale) + 1
    # Every ``before`` samples of the waveform make ``after`` of the result, each by a filter of its own offset.
    offsets = torch.arange(after, dtype=torch.float64)[:, None] * (before / after)
    places = torch.arange(-reach, before + reach + 1, dtype=torch.float64)[None]
    filters = scale * window(window.positions(places - offsets, scale))
    padded = nn.functional.pad(waveform, (reach, reach + before + 1))
    parts = nn.functional.conv1d(padded[None, None], filters[:, None], stride=before)[0]
    return parts.T.reshape(-1)[: -(-len(waveform) * after // before)]
