"""The faster forms against the plain ones, and against double precision."""

from __future__ import annotations

import copy

import pytest
import torch
from small_codecs import NARROW, SMALL
from torch import nn

from dear.codec import audioldm
from dear.codec.convolution import POINTS, Conv1d, ConvTranspose1d, Upsample2d, accelerate, in_groups, transform


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def both(kind: type[nn.Module], faster: type[nn.Module], *args, **options) -> tuple[nn.Module, nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = kind(*args, **options).requires_grad_(False)
    other = copy.deepcopy(plain)
    other.__class__ = faster
    return plain, other


@pytest.mark.parametrize("taps", [3, 7, 11])
def test_the_transform_correlates_exactly(generator, taps):
    forward, kernel, inverse = transform(taps)
    signal, weights = (torch.randn(n, generator=generator, dtype=torch.float64) for n in (POINTS, taps))
    got = inverse @ ((forward @ signal) * (kernel @ weights))
    wanted = (signal.unfold(0, taps, 1) * weights).sum(1)
    assert got.shape == wanted.shape == (POINTS - taps + 1,)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    assert len(forward) == 3 * POINTS // 2 - 1


@pytest.mark.parametrize(("inputs", "outputs"), [(128, 130), (64, 1)])
@pytest.mark.parametrize(("taps", "dilation"), [(3, 1), (7, 1), (7, 3), (11, 5)])
@pytest.mark.parametrize("length", [1, 250, 700])
def test_long_convolutions_are_the_plain_ones(generator, inputs, outputs, taps, dilation, length):
    padding = (taps - 1) * dilation // 2
    plain, faster = both(nn.Conv1d, Conv1d, inputs, outputs, taps, padding=padding, dilation=dilation)
    x = torch.randn(2, inputs, length, generator=generator)
    for each in (x, x.transpose(1, 2).contiguous().transpose(1, 2)):
        got = faster(each)
        assert got.shape == (2, outputs, length)
        torch.testing.assert_close(got, plain(x), rtol=0, atol=1e-5)
    exact = copy.deepcopy(plain).double()(x.double())
    assert (got - exact).abs().max() < 3 * (plain(x) - exact).abs().max() + 1e-6
    assert torch.equal(copy.deepcopy(faster).double()(x.double()), exact)  # the plain form


@pytest.mark.parametrize(("taps", "stride"), [(16, 5), (16, 4), (8, 2), (4, 2)])
def test_transposed_convolutions_are_the_plain_ones(generator, taps, stride):
    plain, faster = both(nn.ConvTranspose1d, ConvTranspose1d, 12, 6, taps, stride=stride, padding=(taps - stride) // 2)
    for length in (1, 37):
        x = torch.randn(2, 12, length, generator=generator)
        torch.testing.assert_close(faster(x), plain(x), rtol=0, atol=1e-6)


def test_doubling_an_image_and_convolving_it_takes_four_small_convolutions(generator):
    conv = nn.Conv2d(5, 7, 3, padding=1).requires_grad_(False)
    x = torch.randn(2, 5, 9, 4, generator=generator)
    wanted = conv(nn.functional.interpolate(x, scale_factor=2, mode="nearest"))
    got = Upsample2d(conv)(x)
    assert got.shape == (2, 7, 18, 8)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)


def test_whole_networks_keep_their_names_and_values(generator):
    from diffusers import AutoencoderKL
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(**(audioldm.AUTOENCODER | SMALL)).eval()
        wide = audioldm.HIFIGAN | NARROW | {"upsample_initial_channel": 256, "resblock_kernel_sizes": (3, 11)}
        wide["resblock_dilation_sizes"] = ((1, 3), (1, 5))
        vocoder = SpeechT5HifiGan(SpeechT5HifiGanConfig(**wide)).eval()
        for name, value in vocoder.named_parameters():  # it is nearly silent at initialisation
            if name.endswith("weight"):
                nn.init.normal_(value, std=value[0].numel() ** -0.5)
    mel, latents = torch.randn(2, 24, 64, generator=generator), torch.randn(2, 8, 8, 4, generator=generator)
    image = torch.randn(1, 1, 32, 64, generator=generator)
    runs = (
        (vocoder, lambda network: network(mel)),
        (vae, lambda network: network.decode(latents).sample),
        (vae, lambda network: network.encode(image).latent_dist.mean),
    )
    for plain, run in runs:
        faster = accelerate(copy.deepcopy(plain))
        assert list(faster.state_dict()) == list(plain.state_dict())
        with torch.inference_mode():
            wanted = run(plain)
            assert wanted.std() > 0.01
            torch.testing.assert_close(run(faster), wanted, rtol=0, atol=1e-5)
    kinds = {type(module) for module in accelerate(copy.deepcopy(vocoder)).modules()}
    assert {Conv1d, ConvTranspose1d} <= kinds and nn.Conv1d not in kinds


def test_a_batch_is_taken_in_groups():
    sizes = []

    def double(part: torch.Tensor) -> torch.Tensor:
        sizes.append(len(part))
        return 2 * part

    batch = torch.arange(10.0).view(5, 2)
    assert torch.equal(in_groups(double, batch), 2 * batch)
    assert sizes == [1] * 5
    assert in_groups(double, torch.zeros(40, 2, device="meta")).shape == (40, 2)
    assert sizes[5:] == [16, 16, 8]
