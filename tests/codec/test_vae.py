from __future__ import annotations

import math

import pytest
import torch
from factory import tiny_config
from small_codecs import Noises, improve

from dear.codec import build_vae
from dear.codec.conv import ConvConfig, ConvVAE
from dear.codec.mel import MelSpectrogram
from dear.codec.patch import PatchConfig, PatchVAE, without_steps
from dear.codec.texture import broad, fine_fluctuation, noisiness, slow, steadiness
from dear.config import MelConfig
from dear.pipeline import AudioDEAR
from training.engine.codec import RefineCodec, fit_patch_vae, measure_codec

MEL = MelConfig(frames=64, samples=10_000)
BANDED = ConvConfig(patch_frames=4, patch_mels=16, token_dim=12, width=16, depth=2)


def random_mels(count: int, generator: torch.Generator) -> torch.Tensor:
    """Smooth in time and frequency, [count, 64, 64], between -8 and -2."""
    coarse = torch.rand(count, 1, 16, 12, generator=generator) * 6 - 8
    return torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear")[:, 0]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_patches_are_ordered_by_time_then_frequency(generator):
    codec = PatchVAE(BANDED, MEL)
    mel = random_mels(2, generator)
    patches = codec.patches(mel)
    assert patches.shape == (2, 64, 64)
    # Grid 16 x 4: token 6 is the second stretch of time, third band.
    assert torch.equal(patches[1, 6].view(4, 16), mel[1, 4:8, 32:48])
    assert torch.equal(codec.unpatch(patches), mel)


def test_decode_is_the_exact_inverse_on_the_span_of_the_components(generator):
    codec = fit_patch_vae(random_mels(8, generator), BANDED, MEL).double()
    assert codec.token_shape == (64, 12)
    tokens = 0.3 * torch.randn(2, 64, 12, generator=generator, dtype=torch.float64)
    mel = codec.project(tokens)
    assert mel.min() > codec.floor  # nothing is clamped here
    torch.testing.assert_close(codec.encode(mel), tokens, atol=1e-5, rtol=0)
    torch.testing.assert_close(codec.decode(codec.encode(mel)), mel, atol=1e-5, rtol=0)


def test_decoded_mels_stay_above_the_floor(generator):
    codec = fit_patch_vae(random_mels(4, generator), BANDED, MEL)
    mel = codec.decode(50 * torch.randn(1, 64, 12, generator=generator))
    assert mel.min() == pytest.approx(math.log(MEL.floor))


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_fit_recovers_a_planted_subspace_and_scales_the_tokens(generator, exponent):
    codec = PatchVAE(PatchConfig(patch_frames=8, patch_mels=64, token_dim=5), MEL)
    basis = torch.linalg.qr(torch.randn(512, 5, generator=generator)).Q
    deviation = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    mels = codec.unpatch(-5 + (torch.randn(60, 8, 5, generator=generator) * deviation) @ basis.T)
    fitted = fit_patch_vae(mels, PatchConfig(patch_frames=8, patch_mels=64, token_dim=5), MEL, exponent)
    torch.testing.assert_close(fitted.components.T @ fitted.components, torch.eye(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(fitted.components @ fitted.components.T, basis @ basis.T, atol=1e-4, rtol=0)
    torch.testing.assert_close(fitted.project(fitted.encode(mels)), mels, atol=1e-3, rtol=0)
    tokens = fitted.encode(mels).flatten(0, 1)
    assert tokens.square().mean().sqrt().item() == pytest.approx(1, abs=1e-3)
    # Raw coefficients spread like the planted deviations; an exponent takes that power of them away.
    spread = tokens.std(0)
    expected = deviation ** (1 - exponent)
    torch.testing.assert_close(spread / spread[0], expected / expected[0], atol=0.1, rtol=0)
    peaks = fitted.components.gather(0, fitted.components.abs().argmax(0, keepdim=True))
    assert (peaks > 0).all()


def test_fit_does_not_depend_on_how_the_mels_are_split(generator):
    mels = random_mels(6, generator)
    whole, parts = (fit_patch_vae(mels, BANDED, MEL, batch=batch) for batch in (6, 1))
    for name, value in whole.named_buffers():
        torch.testing.assert_close(getattr(parts, name), value, atol=1e-5, rtol=1e-5)


def test_fit_needs_enough_patches(generator):
    with pytest.raises(ValueError, match="at least 128 patches, got 16"):
        fit_patch_vae(random_mels(2, generator), PatchConfig(patch_frames=8, patch_mels=64, token_dim=128), MEL)


def test_latents_show_the_grid():
    tokens = torch.arange(64 * 12).view(1, 64, 12)
    latents = PatchVAE(BANDED, MEL).latents(tokens)
    assert latents.shape == (1, 12, 16, 4)
    assert torch.equal(latents[0, :, 1, 2], tokens[0, 6])


def test_conv_starts_exactly_as_the_linear_codec(generator):
    linear = fit_patch_vae(random_mels(8, generator), BANDED, MEL)
    conv = ConvVAE.from_linear(linear, BANDED, MEL)
    tokens = linear.encode(random_mels(2, generator))
    assert torch.equal(
        conv.encode(random_mels(2, generator.manual_seed(1))), linear.encode(random_mels(2, generator.manual_seed(1)))
    )
    assert torch.equal(conv.decode(tokens), linear.decode(tokens))
    assert conv.token_shape == linear.token_shape


def test_conv_weights_do_not_depend_on_the_global_random_state():
    first, second = ConvVAE(BANDED, MEL), ConvVAE(BANDED, MEL)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_refinement_learns_what_the_components_leave_out(generator):
    # A second, quieter component whose coefficient is the square of the first: uncorrelated, but determined by it.
    vae = ConvConfig(patch_frames=8, patch_mels=64, token_dim=1, width=16, depth=1)
    codec = PatchVAE(vae, MEL)
    basis = torch.linalg.qr(torch.randn(512, 2, generator=generator)).Q

    def mels(count: int) -> torch.Tensor:
        first = torch.randn(count, 8, 1, generator=generator)
        return codec.unpatch(-6 + torch.cat([8 * first, 3 * (first**2 - 1)], -1) @ basis.T)

    conv = ConvVAE.from_linear(fit_patch_vae(mels(64), vae, MEL), vae, MEL)
    held_out = mels(16)
    task = RefineCodec(conv, Noises(), MEL, batch_size=16, held_out=held_out)
    before = task.validate()
    improve(task, lambda: mels(16), generator)
    assert task.validate()["l1"] < 0.6 * before["l1"]


def test_refinement_batches_are_a_pure_function_of_the_step():
    task = RefineCodec(ConvVAE(BANDED, MEL), Noises(), MEL, batch_size=2, held_out=torch.zeros(1, 64, 64))
    first, again, other = task.batch(3)["mel"], task.batch(3)["mel"], task.batch(4)["mel"]
    assert first.shape == (2, 64, 64)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_measure_of_a_lossless_codec_and_of_a_constant_one(generator):
    mels = random_mels(3, generator)
    lossless = PatchVAE(PatchConfig(patch_frames=4, patch_mels=4, token_dim=16), MEL)
    assert measure_codec(lossless, mels, batch=2) == pytest.approx({"l1": 0, "bias": 0, "detail": 1}, abs=1e-5)
    flat = PatchVAE(PatchConfig(patch_frames=4, patch_mels=4, token_dim=1), MEL)
    flat.components.zero_()
    measured = measure_codec(flat, mels)
    assert measured["detail"] == pytest.approx(0)
    assert measured["l1"] == pytest.approx((mels - flat.mean[0]).abs().mean().item(), rel=1e-4)


def test_bad_shapes_and_kinds_are_named():
    config = tiny_config()
    with pytest.raises(ValueError, match=r"F a multiple of 8, got \(1, 60, 64\)"):
        build_vae(config.vae, config.mel).encode(torch.zeros(1, 60, 64))
    with pytest.raises(ValueError, match="token_dim must be at most 64"):
        PatchVAE(PatchConfig(patch_frames=4, patch_mels=16, token_dim=65), MEL)
    with pytest.raises(ValueError, match="must divide 64 x 64, got 7 x 64"):
        PatchVAE(PatchConfig(patch_frames=7), MEL)
    assert type(build_vae(ConvConfig(width=8, depth=1), MEL)) is ConvVAE


def tonal(mel: torch.Tensor, limit: float, noisy: float = 0.0) -> torch.Tensor:
    return without_steps(mel, 8, limit, torch.full((1, mel.shape[1] // 8, 1), noisy))


class TestDeblocking:
    def test_a_staircase_becomes_straight_but_for_its_ends(self):
        stairs = torch.arange(5.0).repeat_interleave(8)[None, :, None].expand(2, -1, 64)
        smooth = tonal(stairs, 0.0)
        torch.testing.assert_close(smooth[:, 4:36].diff(dim=1), torch.full((2, 31, 64), 0.125))
        assert torch.equal(smooth[:, :4], stairs[:, :4]) and torch.equal(smooth[:, 36:], stairs[:, 36:])

    def test_steps_up_to_the_limit_stay(self):
        stairs = torch.arange(5.0).repeat_interleave(8)[None, :, None].expand(1, -1, 64)
        torch.testing.assert_close(tonal(stairs, 1.0), stairs)
        steps = tonal(stairs, 0.5).diff(dim=1)
        torch.testing.assert_close(steps[:, 7::8], torch.full((1, 4, 64), 0.5 + 0.5 / 8))

    def test_what_is_smooth_stays(self):
        ramp = torch.linspace(-8, -2, 40)[None, :, None].expand(1, -1, 64)
        torch.testing.assert_close(tonal(ramp, 0.0), ramp)

    def test_both_sides_of_a_border_change_by_the_same(self, generator):
        mel = torch.randn(2, 64, 64, generator=generator)
        change = (tonal(mel, 0.3) - mel)[:, 4:60].unflatten(1, (-1, 8))
        assert change.abs().max() > 0.1
        torch.testing.assert_close(change, -change.flip(2), rtol=0, atol=1e-5)

    def test_of_noise_only_steps_that_neighbouring_bands_share_are_limited(self):
        stairs = torch.arange(5.0).repeat_interleave(8)[None, :, None].expand(1, -1, 64)
        signs = 1 - 2 * (torch.arange(64) % 2)  # neighbouring bands step in turn up and down
        kept = tonal(signs * stairs, 0.3, noisy=1.0)
        assert torch.equal(kept[..., 4:-4], (signs * stairs)[..., 4:-4])  # the outermost bands are repeated
        torch.testing.assert_close(tonal(stairs, 0.3, noisy=1.0), tonal(stairs, 0.3))
        half = (tonal(signs * stairs, 0.3) + kept) / 2
        torch.testing.assert_close(tonal(signs * stairs, 0.3, noisy=0.5), half)

    def test_it_is_an_option_of_the_decoder_alone(self, generator):
        mels = random_mels(8, generator)
        plain = fit_patch_vae(mels, PatchConfig(token_dim=24), MEL)
        smooth = PatchVAE(PatchConfig(token_dim=24, deblock=0.3), MEL)
        smooth.load_state_dict(plain.state_dict())
        tokens = 2 * torch.randn(2, 8, 24, generator=generator)
        assert torch.equal(smooth.encode(mels), plain.encode(mels))
        mel = plain.project(tokens)
        noisy = noisiness(mel, 8, plain.noise(64, mel.device)[2])
        assert torch.equal(smooth.decode(tokens), without_steps(mel, 8, 0.3, noisy).clamp_min(smooth.floor))

    def test_a_single_patch_has_no_border(self, generator):
        mel = random_mels(1, generator)[:, :8]
        assert torch.equal(tonal(mel, 0.3), mel)


class TestTexture:
    @pytest.fixture(scope="class")
    @classmethod
    def codecs(cls):
        """{texture: the codec of the bundled model} without limited steps."""
        bundled = AudioDEAR.from_pretrained(device="cpu")
        codecs = {}
        for texture in (0.0, 1.0):
            codecs[texture] = PatchVAE(PatchConfig(texture=texture), bundled.config.mel)
            codecs[texture].load_state_dict(bundled.vae.state_dict())
        return codecs

    @staticmethod
    def noise(seed: int, filtered: bool) -> torch.Tensor:
        """The log-mel of another noise than the codec's; filtered: with less energy at high frequencies."""
        waveform = 0.02 * torch.randn(4, 40_961, generator=torch.Generator().manual_seed(seed))
        return MelSpectrogram(MelConfig())(waveform[:, 1:] + (0.9 if filtered else 0.0) * waveform[:, :-1])

    @pytest.mark.parametrize("filtered", [False, True])
    def test_noise_fluctuates_as_before(self, codecs, filtered):
        mel = self.noise(1, filtered)
        deviation = lambda mel: (mel - mel.mean(dim=1, keepdim=True)).std().item()  # noqa: E731
        plain, textured = (codec.decode(codec.encode(mel)) for codec in codecs.values())
        assert deviation(plain) < 0.85 * deviation(mel)
        assert deviation(textured) == pytest.approx(deviation(mel), rel=0.03)

    def test_harmonics_stay(self, codecs):
        time_axis = torch.arange(40_960) / 16_000
        waveform = sum(torch.sin(2 * torch.pi * 400 * k * time_axis) / k for k in range(1, 15))[None] / 4
        tokens = codecs[0.0].encode(MelSpectrogram(MelConfig())(waveform))
        plain, textured = (codec.decode(tokens) for codec in codecs.values())
        assert (textured - plain).square().mean().sqrt() < 0.05 * 0.14  # of the noise that is added elsewhere

    def test_tokens_of_the_decoded_mel_are_the_same(self, codecs):
        tokens = codecs[1.0].encode(self.noise(2, True))
        torch.testing.assert_close(codecs[1.0].encode(codecs[1.0].decode(tokens)), tokens, rtol=0, atol=1e-3)

    def test_the_noise_of_a_place_depends_neither_on_the_batch_nor_on_the_length(self, codecs):
        tokens = codecs[1.0].encode(self.noise(3, False))
        whole = codecs[1.0].decode(tokens)
        torch.testing.assert_close(codecs[1.0].decode(tokens[1:2]), whole[1:2])
        torch.testing.assert_close(codecs[1.0].decode(tokens[:, :16]), whole[:, :128])
        assert torch.equal(codecs[1.0].encode(whole), codecs[0.0].encode(whole))

    def test_silence_stays_at_the_floor(self, codecs):
        silent = codecs[1.0].encode(torch.full((1, 64, 64), codecs[1.0].floor))
        assert codecs[1.0].decode(silent).max() < codecs[1.0].floor + 1


class TestSubstitution:
    RATE = 100.0  # frames per second

    @pytest.fixture(scope="class")
    @classmethod
    def codecs(cls):
        """The codec of the bundled model without and with substitution, and nothing else."""
        bundled = AudioDEAR.from_pretrained(device="cpu")
        codecs = [PatchVAE(PatchConfig(substitution=value), bundled.config.mel) for value in (False, True)]
        for codec in codecs:
            codec.load_state_dict(bundled.vae.state_dict())
        return codecs

    @staticmethod
    def decoded(codecs, waveform):
        plain, substituted = (codec.decode(codec.encode(MelSpectrogram(MelConfig())(waveform))) for codec in codecs)
        return plain, substituted

    @pytest.mark.parametrize("hertz", [0.5, 2.0, 6.0])
    def test_slow_passes_a_frequency_with_the_gain_of_a_gaussian(self, hertz):
        wave = torch.cos(2 * math.pi * hertz * torch.arange(400) / self.RATE)[None, :, None].expand(1, -1, 3)
        torch.testing.assert_close(
            slow(wave, self.RATE)[:, 50:350], math.exp(-((hertz / 2) ** 2)) * wave[:, 50:350], atol=5e-3, rtol=0
        )
        torch.testing.assert_close(slow(torch.full((1, 5, 2), 3.0), self.RATE), torch.full((1, 5, 2), 3.0))

    def test_a_fine_fluctuation_is_fast_and_of_single_bands(self):
        fast = torch.cos(2 * math.pi * 10 * torch.arange(400) / self.RATE)[None, :, None]
        signs = 1.0 - 2 * (torch.arange(64) % 2)
        torch.testing.assert_close(broad(torch.linspace(0, 1, 64))[8:-8], torch.linspace(0, 1, 64)[8:-8])
        assert fine_fluctuation(fast.expand(1, -1, 64), self.RATE).abs().max() < 1e-5
        assert fine_fluctuation(signs.expand(1, 400, -1), self.RATE).abs().max() < 1e-5
        fine = fine_fluctuation(signs * fast, self.RATE)[:, 50:350, 8:-8]
        torch.testing.assert_close(fine, (8 / 9 * signs * fast[:, 50:350])[..., 8:-8], atol=0.15, rtol=0)

    def test_noise_is_steady_and_clicks_are_not(self):
        noise = 0.1 * torch.randn(1, 40_960, generator=torch.Generator().manual_seed(1))
        clicks = noise.clone()
        clicks[:, 4_000::8_000] = 50.0
        steady, beaten = (
            steadiness(MelSpectrogram(MelConfig())(each), self.RATE)[0, 20:-20] for each in (noise, clicks)
        )
        assert steady.min() == 1 and beaten[5::50].max() == 0

    def test_ridges_of_noise_give_way_to_its_own_fluctuation(self, codecs):
        """Offsets of single bands that change with each token, as a model draws them."""
        waveform = 0.1 * torch.randn(2, 40_960, generator=torch.Generator().manual_seed(1))
        mel = MelSpectrogram(MelConfig())(waveform)
        ridges = 0.1 * torch.randn(2, 32, 64, generator=torch.Generator().manual_seed(2)).repeat_interleave(8, dim=1)
        tokens = codecs[0].encode(mel + ridges)
        of_noise = codecs[1].noise(256, mel.device)[1][:, 8:-8]
        plain, substituted = (fine_fluctuation(codec.decode(tokens), self.RATE)[:, 8:-8] for codec in codecs)
        assert (substituted - of_noise).square().mean() < 0.05 * (plain - of_noise).square().mean()
        slowly = [slow(broad(codec.decode(tokens)), self.RATE)[:, 8:-8] for codec in codecs]
        torch.testing.assert_close(*slowly, atol=0.05, rtol=0)

    def test_harmonics_and_events_stay(self, codecs):
        time_axis = torch.arange(40_960) / 16_000
        harmonics = sum(torch.sin(2 * torch.pi * 400 * k * time_axis) / k for k in range(1, 15))[None] / 4
        bursts = 0.3 * torch.randn(1, 40_960, generator=torch.Generator().manual_seed(3)) * (time_axis % 0.25 < 0.1)
        for waveform in (harmonics, bursts):
            plain, substituted = self.decoded(codecs, waveform)
            assert (substituted - plain)[:, 30:-30].square().mean().sqrt() < 0.03
