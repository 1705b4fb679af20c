"""The lapped codec: an orthogonal filter between patches that keeps constants and leaves no step at a border."""

import pytest
import torch

from dear.codec.lapped import LappedConfig, LappedVAE, border_filter
from dear.codec.mel import MelSpectrogram
from dear.codec.patch import PatchConfig, PatchVAE
from dear.config import MelConfig
from training.engine.codec import fit_patch_vae, noise_covariance

MEL = MelConfig(frames=64, samples=10_000)
WHOLE = {"patch_frames": 8, "patch_mels": 64, "token_dim": 512}


@pytest.fixture
def mels():
    """Noise that is smooth in time, as log-mels of long windows are."""
    noise = torch.randn(24, 80, 64, generator=torch.Generator().manual_seed(0))
    return noise.unfold(1, 17, 1).mean(-1)[:, :64] * 4 - 5


@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_the_filter_is_orthogonal_and_keeps_constants(size):
    matrix = border_filter(size)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size, dtype=torch.float64))
    torch.testing.assert_close(matrix.sum(1), torch.ones(size, dtype=torch.float64))


def test_all_components_give_the_mel_back(mels):
    codec = LappedVAE(LappedConfig(**WHOLE), MEL)
    torch.testing.assert_close(codec.decode(codec.encode(mels)), mels.clamp_min(codec.floor), rtol=0, atol=1e-5)


def test_a_louder_token_is_a_bump_without_steps():
    codecs = LappedVAE(LappedConfig(**WHOLE), MEL), PatchVAE(PatchConfig(**WHOLE), MEL)
    patches = torch.zeros(1, 8, 512)
    patches[:, 4] = 1.0
    smooth, block = (codec.unpatch(patches)[0, :, 0] for codec in codecs)
    assert block.diff().abs().max() == 1
    assert smooth.diff().abs().max() < 0.3
    torch.testing.assert_close(smooth.square().sum(), block.square().sum())
    assert smooth[:28].abs().max() == 0 and smooth[44:].abs().max() == 0  # half a patch on either side


def test_fewer_components_lose_less_than_those_of_plain_patches(mels):
    errors = {}
    for config in (PatchConfig(token_dim=64), LappedConfig(token_dim=64)):
        codec = fit_patch_vae(mels, config, MEL)
        assert type(codec).Config is type(config)
        errors[config.kind] = (codec.project(codec.encode(mels)) - mels).square().mean().item()
    assert errors["lapped"] < errors["patch"]


def test_noise_and_data_are_uncorrelated_in_the_channels(mels):
    codec = fit_patch_vae(mels, LappedConfig(token_dim=32), MEL, exponent=0.0).double()
    analysis, synthesis = codec.components * codec.scale, codec.synthesis / codec.scale[:, None]
    torch.testing.assert_close(synthesis @ analysis, torch.eye(32).double(), rtol=0, atol=1e-4)
    tokens = codec.encode(mels.double()).flatten(0, 1)
    noise = analysis.T @ noise_covariance(codec, MEL) @ analysis
    for covariance in (tokens.T.cov(correction=0), noise):
        size = covariance.diag().sqrt()
        torch.testing.assert_close(covariance / torch.outer(size, size), torch.eye(32).double(), rtol=0, atol=1e-3)
    assert noise.diag().std() / noise.diag().mean() < 1e-3  # in units of the noise but for one factor
    assert tokens.std(0).diff().max() < 0


def test_noise_of_any_colour_has_one_covariance():
    """What the fit relies on: filtered noise fluctuates as white noise does."""
    codec, generator = LappedVAE(LappedConfig(**WHOLE), MEL), torch.Generator().manual_seed(1)
    noise = torch.randn(64, MEL.frames * MEL.hop_length + 7, generator=generator)
    coloured = 0.1 * (noise[:, 7:] + 0.9 * noise[:, :-7])  # a comb that is wider than the bands
    patches = codec.patches(MelSpectrogram(MEL)(coloured))[:, 1:-1].double()
    found = (patches - patches.mean(dim=(0, 1))).flatten(0, 1).T.cov().diag()
    ratio = found / noise_covariance(codec, MEL).diag()
    assert ratio.min() > 0.7 and ratio.max() < 1.5


def test_an_odd_patch_is_refused():
    with pytest.raises(ValueError, match="patch_frames must be even for the lapped codec, got 1"):
        LappedVAE(LappedConfig(patch_frames=1, token_dim=8), MEL)
