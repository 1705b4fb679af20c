import math

import numpy as np
import pytest
import torch

from dear.codec.mel import MelSpectrogram
from dear.config import MelConfig


@pytest.fixture(scope="module")
def mel():
    return MelSpectrogram(MelConfig())


def tone(hertz, seconds=1.0, amplitude=0.5):
    time = torch.arange(int(16000 * seconds), dtype=torch.float64) / 16000
    return (amplitude * torch.sin(2 * math.pi * hertz * time)).float()[None]


def test_a_hop_of_samples_gives_a_frame(mel):
    assert mel(torch.zeros(2, 163_840)).shape == (2, 1024, 64)
    assert mel(tone(440)).shape == (1, 100, 64)


def test_silence_is_the_floor(mel):
    assert torch.equal(mel(torch.zeros(1, 16_000)), torch.full((1, 100, 64), math.log(1e-5)))


@pytest.mark.parametrize("hertz", [200, 1000, 3000, 7000])
def test_a_tone_is_loudest_in_the_band_around_its_pitch(mel, hertz):
    band = mel(tone(hertz))[0, 50].argmax().item()
    bins = torch.arange(513) * 16000 / 1024
    centre = (mel.filters[:, band] * bins).sum() / mel.filters[:, band].sum()
    width = 2 * (bins[mel.filters[:, band] > 0].max() - bins[mel.filters[:, band] > 0].min()) / 2
    assert abs(centre - hertz) <= width


def test_ten_times_the_amplitude_is_the_logarithm_of_ten_more(mel):
    quiet, loud = mel(tone(1000, amplitude=0.05)), mel(tone(1000, amplitude=0.5))
    band = loud[0, 50].argmax()
    assert (loud - quiet)[0, 50, band].item() == pytest.approx(math.log(10), abs=1e-4)


def test_equals_a_transform_written_out_in_numpy(mel):
    sound = torch.randn(1, 3200, generator=torch.Generator().manual_seed(0)) * 0.1
    padded = np.pad(sound[0].numpy().astype(np.float64), 432, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    frames = np.stack([np.abs(np.fft.rfft(window * padded[i * 160 : i * 160 + 1024])) for i in range(20)])
    wanted = np.log(np.maximum(frames @ mel.filters.numpy().astype(np.float64), 1e-5))
    np.testing.assert_allclose(mel(sound)[0].numpy(), wanted, atol=1e-4)


def test_golden_values_hold_the_protocol_in_place(mel):
    """Values of a sweep at three frames and four bands depend on filterbank, window and framing."""
    time = torch.arange(16_000, dtype=torch.float64) / 16000
    sweep = (0.3 * torch.sin(2 * math.pi * (100 * time + 1900 * time**2))).float()[None]
    values = mel(sweep)[0][[10, 50, 90]][:, [2, 16, 32, 48]]
    torch.testing.assert_close(values, torch.tensor(GOLDEN), rtol=0, atol=2e-3)


GOLDEN = [
    [-8.442, -7.355, -11.513, -11.513],
    [-11.513, -11.513, -7.079, -11.513],
    [-11.513, -11.513, -11.513, -1.769],
]


def test_a_clip_is_padded_or_cropped_to_its_frames(mel):
    assert mel.clip(tone(440, 1.0)).shape == (1, 1024, 64)
    assert mel.clip(tone(440, 11.0)).shape == (1, 1024, 64)
    assert mel.clip(tone(440, 1.0))[0, 200:].eq(math.log(1e-5)).all()
    torch.testing.assert_close(mel.clip(tone(440, 11.0)), mel(tone(440, 11.0)[:, :163_840]))


def slaney_filters() -> torch.Tensor:
    """librosa's mel filters as AudioLDM calls them, written out: [513, 64] over 0 to 8000 Hz, of area one."""

    def hertz(mel: float) -> float:
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    top = 15 + 27 * math.log(8) / math.log(6.4)
    edges = torch.tensor([hertz(top * index / 65) for index in range(66)], dtype=torch.float64)
    bins = torch.linspace(0, 8000, 513, dtype=torch.float64)[:, None]
    rising, falling = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2]), (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp_min(0) * 2 / (edges[2:] - edges[:-2])


def test_the_mel_is_that_of_audioldm():
    """haoheliu/AudioLDM-training-finetuning, `mel_spectrogram_train`; haoheliu/AudioLDM, `TacotronSTFT`."""
    generator = torch.Generator().manual_seed(0)
    wave = 0.1 * torch.randn(1, 64 * 160, generator=generator, dtype=torch.float64)
    wave[:, 5000:8000] = 0  # where the clamp has an effect
    window = torch.hann_window(1024, dtype=torch.float64)

    def by_hand(wave: torch.Tensor, padding: int) -> torch.Tensor:
        padded = torch.nn.functional.pad(wave[:, None], (padding, padding), mode="reflect")[:, 0]
        magnitudes = torch.fft.rfft(padded.unfold(1, 1024, 160) * window).abs()
        return torch.log((magnitudes @ slaney_filters()).clamp_min(1e-5))

    ours = MelSpectrogram(MelConfig())(wave.float()).double()
    torch.testing.assert_close(ours, by_hand(wave, (1024 - 160) // 2), atol=1e-3, rtol=0)
    assert ours.min() == pytest.approx(math.log(1e-5))
    # TacotronSTFT, with which AudioLDM generates, pads half a window: the same frames half a hop earlier.
    tacotron = by_hand(wave[:, 80:], 512)
    torch.testing.assert_close(ours[:, 4:-4], tacotron[:, 4 : 64 - 4], atol=1e-3, rtol=0)
