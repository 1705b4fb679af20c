from __future__ import annotations

import copy
import math

import pytest
import torch
from small_codecs import Noises

from dear.codec import build_vocoder
from dear.codec.frames import Frames, MelInverse, limit
from dear.codec.griffin_lim import GriffinLim, GriffinLimConfig
from dear.codec.istft import ISTFTConfig, ISTFTVocoder
from dear.codec.mel import MelSpectrogram
from dear.config import MelConfig
from training.engine.codec import TrainVocoder, measure_vocoder, spectral_energy_distance

MEL = MelConfig(frames=64, samples=10_000)
SAMPLES = MEL.frames * MEL.hop_length
SMALL = ISTFTConfig(width=16, depth=1)


@pytest.fixture(scope="module")
def spectrogram() -> MelSpectrogram:
    return MelSpectrogram(MEL)


@pytest.fixture(scope="module")
def griffin_lim() -> GriffinLim:
    return GriffinLim(GriffinLimConfig(), MEL)


def tone(frequency: float) -> torch.Tensor:
    return 0.5 * torch.sin(2 * math.pi * frequency / MEL.sample_rate * torch.arange(SAMPLES))[None]


def noises(count: int) -> torch.Tensor:
    return torch.stack([torch.from_numpy(Noises().scene(index).waveform) for index in range(count)])


def test_frames_of_a_signal_give_it_back():
    for n_fft in (1024, 640):
        frames = Frames(n_fft, 160)
        signal = torch.randn(2, 20 * 160 + n_fft, generator=torch.Generator().manual_seed(0))
        spectrum = frames.spectrum(signal)
        assert spectrum.shape == (2, 21, n_fft // 2 + 1)
        back = frames.signal(spectrum)
        assert back.shape == signal.shape
        torch.testing.assert_close(frames.crop(back), frames.crop(signal), atol=1e-4, rtol=0)
        assert frames.crop(back).shape == (2, 21 * 160)


def test_frames_are_those_of_the_mel(spectrogram):
    wave = noises(1)
    frames = Frames(MEL.n_fft, MEL.hop_length)
    padded = torch.nn.functional.pad(wave[:, None], (spectrogram.padding,) * 2, mode="reflect")[:, 0]
    torch.testing.assert_close(frames.spectrum(padded).abs(), spectrogram.magnitudes(wave), atol=1e-3, rtol=1e-3)


def test_inverted_magnitudes_explain_the_mel(spectrogram):
    mel = spectrogram(noises(2))
    magnitudes = MelInverse(MEL)(mel)
    assert magnitudes.min() >= 0
    assert ((magnitudes @ spectrogram.filters).clamp_min(MEL.floor).log() - mel).abs().mean() < 0.01


@pytest.mark.parametrize("frequency", [330.0, 1000.0, 3000.0])
def test_griffin_lim_sings_the_right_note(griffin_lim, spectrogram, frequency):
    wave = griffin_lim(spectrogram(tone(frequency)))
    assert wave.shape == (1, SAMPLES)
    assert wave.dtype == torch.float32
    peak = torch.fft.rfft(wave[0]).abs().argmax().item() * MEL.sample_rate / SAMPLES
    # The mel resolves no pitch finer than its bands: about 40 Hz wide at the bottom, 7 % of the frequency above.
    assert abs(peak - frequency) < max(40, 0.07 * frequency)
    # Its magnitude spreads over the bins of a band, and the same sum over more bins is less energy.
    assert 0.4 < wave.square().mean().sqrt().item() / (0.5 / math.sqrt(2)) < 1.2


def test_griffin_lim_gives_the_mel_that_it_was_given(griffin_lim, spectrogram):
    measured = measure_vocoder(griffin_lim, spectrogram, spectrogram(noises(2)), batch=1)
    assert measured["l1"] < 0.15
    assert abs(measured["bias"]) < 0.1


def test_griffin_lim_is_deterministic_and_independent_of_its_batch(griffin_lim, spectrogram):
    mel = spectrogram(noises(3))
    together = griffin_lim(mel)
    assert torch.equal(together, griffin_lim(mel))
    for index in range(3):
        torch.testing.assert_close(griffin_lim(mel[index : index + 1])[0], together[index], atol=1e-4, rtol=0)


def test_griffin_lim_is_the_published_iteration(griffin_lim, spectrogram):
    """Perraudin et al. 2013, Algorithm 1: c <- P_C1(P_C2(t)), t <- c + alpha (c - c before), in double precision."""
    mel, alpha = spectrogram(noises(2)), griffin_lim.momentum
    frames, magnitudes = copy.deepcopy(griffin_lim.frames).double(), griffin_lim.inverse(mel).double()
    phases, before = frames.noise(64), 0.0
    for _ in range(griffin_lim.iterations):
        consistent = frames.spectrum(frames.signal(magnitudes * phases))
        moved = consistent + alpha * (consistent - before)
        phases, before = moved / moved.abs().clamp_min(1e-9), consistent
    wanted = limit(frames.crop(frames.signal(magnitudes * phases)))
    error = griffin_lim(mel) - wanted
    assert error.square().mean() < 1e-6 * wanted.square().mean()


def test_a_draft_takes_a_quarter_of_the_iterations_and_stays_near(griffin_lim, spectrogram):
    mel = spectrogram(noises(2))
    quarter = GriffinLim(GriffinLimConfig(iterations=8), MEL)
    assert griffin_lim.iterations == 32
    assert torch.equal(griffin_lim.draft(mel), quarter(mel))
    whole, draft = ((spectrogram(wave) - mel).abs().mean() for wave in (griffin_lim(mel), griffin_lim.draft(mel)))
    assert whole < draft < 1.25 * whole


def test_silence_stays_silent_and_loudness_is_bounded(griffin_lim):
    silent = griffin_lim(torch.full((1, 64, 64), math.log(MEL.floor)))
    assert silent.abs().max() == 0
    loud = griffin_lim(torch.full((1, 64, 64), 5.0))
    assert torch.isfinite(loud).all()
    assert loud.abs().max().item() == pytest.approx(0.99)


def test_griffin_lim_has_no_weights(griffin_lim):
    assert griffin_lim.state_dict() == {}


def test_istft_vocoder_starts_as_noise_with_the_level_of_the_mel(spectrogram):
    vocoder = ISTFTVocoder(SMALL, MEL).eval()
    mel = spectrogram(noises(2))
    with torch.no_grad():
        wave = vocoder(mel)
    assert wave.shape == (2, SAMPLES)
    assert wave.abs().max() <= 1
    assert torch.equal(wave, vocoder(mel).detach())
    torch.testing.assert_close(vocoder(mel[1:])[0], wave[1], atol=1e-5, rtol=0)
    assert abs(measure_vocoder(vocoder, spectrogram, mel)["bias"]) < 0.2
    other = ISTFTVocoder(SMALL, MEL)
    assert all(torch.equal(a, b) for a, b in zip(vocoder.parameters(), other.parameters(), strict=True))


def test_istft_vocoder_learns_one_batch_with_finite_gradients():
    vocoder = ISTFTVocoder(SMALL, MEL)
    task = TrainVocoder(vocoder, Noises(), MEL, batch_size=4, held_out=torch.zeros(1, 64, 64))
    batch = task.batch(0)
    assert batch["mel"].shape == (4, 64, 64)
    assert batch["waveform"].shape == (4, SAMPLES)
    optimizer = torch.optim.AdamW(vocoder.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        # The same noise each time, so that the loss is comparable.
        loss = task.loss(batch, torch.Generator().manual_seed(0))["loss"]
        loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in vocoder.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_a_vocoder_that_was_in_use_can_be_trained():
    vocoder, mel = ISTFTVocoder(SMALL, MEL), torch.zeros(1, 60, 64)  # a length of its own: its noise is kept
    with torch.inference_mode():
        wanted = vocoder(mel)
    wave = vocoder(mel)
    torch.testing.assert_close(wave, wanted)
    wave.square().mean().backward()
    assert vocoder.noise_in.weight.grad is not None


def test_silent_crops_have_finite_gradients():
    vocoder = ISTFTVocoder(SMALL, MEL)
    task = TrainVocoder(vocoder, Noises(), MEL, batch_size=4, held_out=torch.zeros(1, 64, 64))
    batch = {"mel": torch.full((4, 64, 64), math.log(MEL.floor)), "waveform": torch.zeros(4, SAMPLES)}
    task.loss(batch, torch.Generator().manual_seed(0))["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in vocoder.parameters())


def test_crops_hold_the_sound_of_their_mel(spectrogram):
    config = MelConfig(frames=256, samples=40_000)

    class Longer(Noises):
        def scene(self, index: int):
            scene = super().scene(index)
            wave = torch.randn(256 * 160, generator=torch.Generator().manual_seed(index)) / 8
            return type(scene)(wave.numpy(), scene.caption, scene.labels, scene.kind)

    task = TrainVocoder(ISTFTVocoder(SMALL, config), Longer(), config, batch_size=8, held_out=torch.zeros(1, 256, 64))
    batch = task.batch(2)
    assert batch["mel"].shape == (8, 100, 64)
    torch.testing.assert_close(spectrogram(batch["waveform"])[:, 4:-4], batch["mel"][:, 4:-4], atol=1e-3, rtol=0)
    assert torch.equal(batch["waveform"], task.batch(2)["waveform"])
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        TrainVocoder(ISTFTVocoder(SMALL, config), Longer(), config, batch_size=6, held_out=torch.zeros(1, 256, 64))


def test_energy_distance_prefers_the_true_distribution():
    generator = torch.Generator().manual_seed(0)

    def noise(level: float) -> torch.Tensor:
        return level * torch.randn(8, 8000, generator=generator)

    right = spectral_energy_distance(noise(0.1), noise(0.1), noise(0.1))
    for level in (0.05, 0.2):
        assert spectral_energy_distance(noise(0.1), noise(level), noise(level)) > right
    # A distribution without spread, at the right level, is worse than the right one: the distance rewards variety.
    once = noise(0.1)
    assert spectral_energy_distance(noise(0.1), once, once) > right


def test_build_names_the_kinds():
    assert type(build_vocoder(GriffinLimConfig(), MEL)) is GriffinLim
    assert type(build_vocoder(SMALL, MEL)) is ISTFTVocoder


def test_a_sound_that_would_clip_is_made_softer_as_a_whole():
    quiet, loud = torch.linspace(-0.5, 0.5, 100), torch.linspace(-3.0, 3.0, 100)
    out = limit(torch.stack((quiet, loud)))
    torch.testing.assert_close(out[0], quiet)
    torch.testing.assert_close(out[1], loud * 0.33)
    assert not limit(torch.zeros(1, 10)).any()
