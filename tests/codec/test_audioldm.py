"""AudioLDM's codec against tiny random networks, saved as the published repository lays them out."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from factory import tiny_config, tiny_models
from safetensors.torch import load_file, save_file
from small_codecs import NARROW, SMALL

from dear import checkpoint
from dear.checkpoint import CheckpointError, load_codec, load_config, save_checkpoint
from dear.codec import audioldm, build_vae, build_vocoder
from dear.codec.audioldm import AudioLDMVAE, AudioLDMVAEConfig, AudioLDMVocoder, AudioLDMVocoderConfig
from dear.codec.frames import limit
from dear.codec.istft import ISTFTConfig
from dear.config import Config, ConfigError, MelConfig
from dear.pipeline import AudioDEAR
from dear.presets import preset

MEL = MelConfig(frames=64, samples=10_000)
PUBLISHED_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def save_networks(folder: Path, small: dict | None = None, narrow: dict | None = None) -> tuple:
    """Save a tiny random (AutoencoderKL, SpeechT5HifiGan) in ``folder`` with the files and names of 2023."""
    from diffusers import AutoencoderKL
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        vae = AutoencoderKL(**(audioldm.AUTOENCODER | SMALL | (small or {}))).eval()
        vocoder = SpeechT5HifiGan(SpeechT5HifiGanConfig(**(audioldm.HIFIGAN | NARROW | (narrow or {})))).eval()
        vae.decoder.conv_out.bias.fill_(-11)  # mels around the floor
        for name, value in vocoder.named_parameters():  # it is nearly silent at initialisation
            if name.endswith("weight"):
                torch.nn.init.normal_(value, std=value[0].numel() ** -0.5)
        vocoder.conv_post.weight /= 10
    vae.save_pretrained(folder / "vae")
    vocoder.save_pretrained(folder / "vocoder")
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({published(name): value for name, value in load_file(weights).items()}, weights)
    change(folder / "vocoder" / "config.json", model_type="hifigan")
    return vae, vocoder


def published(name: str) -> str:
    for new, old in PUBLISHED_NAMES.items():
        name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
    return name


def change(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def named_config(source: Path | str, **vae) -> Config:
    """L = 16 tokens of D = 128 values over 64 frames, with both halves of the codec from ``source``."""
    settings = {"patch_frames": 16, "patch_mels": 16, "token_dim": 128, "source": str(source)} | vae
    return dataclasses.replace(
        tiny_config(),
        vae=AudioLDMVAEConfig(**settings),
        vocoder=AudioLDMVocoderConfig(source=str(source)),
    )


@pytest.fixture(scope="module")
def published_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("audioldm")
    save_networks(folder)
    return folder


@pytest.fixture
def own(published_folder, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(published_folder, tmp_path / "own"))


@pytest.fixture(scope="module")
def codec(published_folder) -> tuple[AudioLDMVAE, AudioLDMVocoder]:
    return load_codec("nowhere", named_config(published_folder))


@pytest.fixture
def mel() -> torch.Tensor:
    """[3, 64, 64], between the floor and -2."""
    return torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 9 - 11


def test_tokens_are_scaled_latents_in_patches(codec, mel):
    vae, _ = codec
    tokens = vae.encode(mel)
    assert tokens.shape == (3, *vae.token_shape) == (3, 16, 128)
    latents = vae.network.encode(mel[:, None]).latent_dist.mean * 0.5
    assert latents.shape == (3, 8, 16, 16)
    assert torch.equal(vae.latents(tokens), latents)
    assert torch.equal(vae.patchify(vae.latents(tokens)), tokens)
    # Grid 4 x 4: token 6 is the second stretch of time, third of frequency; channels are outermost in it.
    assert torch.equal(tokens[1, 6].view(8, 4, 4), latents[1, :, 4:8, 8:12])
    assert not tokens.requires_grad


def test_tokens_of_the_published_size_follow_the_grid_of_the_configuration():
    config = preset("base")
    with torch.device("meta"):
        vae = build_vae(config.vae, config.mel)
    assert vae.token_shape == (config.length, config.vae.token_dim) == (256, 128)
    assert vae.bands == config.grid[1] == 4
    tokens = torch.arange(256 * 128.0).view(1, 256, 128)
    latents = vae.latents(tokens)
    assert latents.shape == (1, 8, 256, 16)
    assert torch.equal(latents[0, :, 8:12, 12:16], tokens[0, 2 * 4 + 3].view(8, 4, 4))
    assert torch.equal(vae.patchify(latents), tokens)


def test_decoding_is_what_diffusers_does_by_hand(codec):
    vae, _ = codec
    tokens = 3 * torch.randn(2, 16, 128, generator=torch.Generator().manual_seed(0))
    by_hand = vae.network.decode(vae.latents(tokens) / 0.5).sample[:, 0]
    mel = vae.decode(tokens)
    assert mel.shape == (2, 64, 64)
    torch.testing.assert_close(mel, by_hand.clamp_min(math.log(1e-5)), rtol=0, atol=1e-4)
    assert by_hand.min() < mel.min() < mel.max()
    longer = vae.decode(torch.zeros(1, 32, 128))
    assert longer.shape == (1, 128, 64)


def test_loaded_networks_are_those_that_were_saved(tmp_path, mel):
    vae, vocoder = save_networks(tmp_path, narrow={"normalize_before": True})
    vocoder.mean.fill_(-5)
    vocoder.scale.fill_(2)
    vocoder.save_pretrained(tmp_path / "vocoder")
    loaded_vae, loaded_vocoder = load_codec("nowhere", named_config(tmp_path))
    assert not loaded_vae.training and not loaded_vocoder.training
    for saved, loaded in ((vae, loaded_vae.network), (vocoder, loaded_vocoder.network)):
        assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}
        assert loaded.state_dict().keys() == saved.state_dict().keys()
        for name, value in saved.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name
    with torch.no_grad():
        tokens = loaded_vae.patchify(vae.encode(mel[:, None]).latent_dist.mean * 0.5)
        torch.testing.assert_close(loaded_vae.encode(mel), tokens, atol=1e-4, rtol=0)
        torch.testing.assert_close(loaded_vocoder(mel), limit(vocoder(mel)[:, : 64 * 160]), atol=1e-5, rtol=0)
        assert not torch.allclose(vocoder((mel + 5) / 2), vocoder(mel))  # the normalisation matters here


def test_a_waveform_has_a_hop_of_samples_a_frame(codec, mel):
    _, vocoder = codec
    by_hand = vocoder.network(mel)
    assert by_hand.shape == (3, 64 * 160 + 32)
    waveform = vocoder(mel)
    assert waveform.shape == (3, 64 * 160)
    assert waveform.dtype == torch.float32
    assert 0.01 < waveform.abs().max() <= 0.99
    torch.testing.assert_close(waveform, by_hand[:, : 64 * 160], atol=1e-5, rtol=0)
    assert vocoder(mel[:, :16]).shape == (3, 16 * 160)


def test_a_loud_waveform_is_limited_as_with_the_other_vocoders(own, mel):
    path = own / "vocoder" / "model.safetensors"
    weights = load_file(path)
    save_file(weights | {"conv_post.weight": 1000 * weights["conv_post.weight"]}, path, {"format": "pt"})
    _, vocoder = load_codec("nowhere", named_config(own))
    torch.testing.assert_close(vocoder(mel).abs().amax(1), torch.full((3,), 0.99))


def test_an_item_is_the_same_alone_and_in_a_batch(codec, mel):
    vae, vocoder = codec
    tokens = vae.encode(mel)
    decoded, waveform = vae.decode(tokens), vocoder(mel)
    for index in range(3):
        one = slice(index, index + 1)
        torch.testing.assert_close(vae.encode(mel[one]), tokens[one], atol=1e-4, rtol=0)
        torch.testing.assert_close(vae.decode(tokens[one]), decoded[one], atol=1e-4, rtol=0)
        torch.testing.assert_close(vocoder(mel[one]), waveform[one], atol=1e-4, rtol=0)


def test_published_sizes_cost_nothing_on_the_meta_device():
    config = preset("base")
    state = torch.get_rng_state()
    with torch.device("meta"):
        vae, vocoder = build_vae(config.vae, config.mel), build_vocoder(config.vocoder, config.mel)
    assert torch.equal(torch.get_rng_state(), state)
    assert {value.device.type for value in (*vae.parameters(), *vocoder.parameters())} == {"meta"}
    assert sum(value.numel() for value in vae.parameters()) == 55_376_873
    assert sum(value.numel() for value in vocoder.parameters()) == 55_264_897
    waveform = vocoder(vae.decode(torch.zeros(2, *vae.token_shape, device="meta")))
    assert waveform.shape == (2, config.mel.frames * config.mel.hop_length)


def test_untrained_networks_depend_on_nothing_but_their_configuration(monkeypatch):
    monkeypatch.setattr(audioldm, "HIFIGAN", audioldm.HIFIGAN | NARROW)
    torch.manual_seed(0)
    first = audioldm.hifigan().state_dict()
    torch.manual_seed(1)
    second = audioldm.hifigan().state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_checkpoint_names_its_source_and_holds_no_copy(published_folder, tmp_path, mel):
    config = named_config(published_folder)
    vae, vocoder = load_codec("nowhere", config)
    folder = save_checkpoint(tmp_path / "c", config, tiny_models(config), vae, vocoder)
    assert list((folder / "codec").iterdir()) == []
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 1_000_000
    loaded_vae, loaded_vocoder = load_codec(folder, load_config(folder))
    assert torch.equal(loaded_vae.encode(mel), vae.encode(mel))
    assert torch.equal(loaded_vocoder(mel), vocoder(mel))


def test_a_checkpoint_that_names_its_source_sounds(published_folder, tmp_path):
    config = named_config(published_folder)
    folder = save_checkpoint(tmp_path / "c", config, tiny_models(config), *load_codec("nowhere", config))
    out = AudioDEAR.from_pretrained(folder, device="cpu").generate("rain", iterations=2, seed=0)
    assert out.waveform.shape == (1, config.mel.samples)
    assert out.mel.shape == (1, 64, 64)
    assert out.latents.shape == (1, 8, 16, 16)


def test_own_and_named_halves_mix(published_folder, tmp_path):
    config = dataclasses.replace(named_config(published_folder), vocoder=ISTFTConfig(width=16, depth=1))
    vae = build_vae(config.vae, config.mel, published_folder)
    folder = save_checkpoint(
        tmp_path / "c", config, tiny_models(config), vae, build_vocoder(config.vocoder, config.mel)
    )
    assert [path.name for path in (folder / "codec").iterdir()] == ["vocoder.safetensors"]
    assert type(load_codec(folder, load_config(folder))[0]) is AudioLDMVAE


def test_the_hub_is_asked_for_the_two_files_of_each_half(published_folder, monkeypatch):
    asked = []

    def fetch(repository, names):
        asked.append((repository, list(names)))
        return published_folder

    monkeypatch.setattr(checkpoint, "fetch", fetch)
    config = preset("base")
    with pytest.raises(CheckpointError, match="vae.token_dim must be 128"):
        load_codec("nowhere", dataclasses.replace(config, vae=dataclasses.replace(config.vae, token_dim=64)))
    assert asked == [
        ("cvssp/audioldm-s-full-v2", ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]),
        ("cvssp/audioldm-s-full-v2", ["vocoder/config.json", "vocoder/model.safetensors"]),
    ]


@pytest.mark.usefixtures("offline")
def test_a_failed_download_says_which_file_from_where_and_what_to_do():
    message = (
        r"vae/diffusion_pytorch_model\.safetensors from https://huggingface\.co/cvssp/audioldm-s-full-v2 .* folder$"
    )
    with pytest.raises(CheckpointError, match=message):
        load_codec("nowhere", preset("base"))
    with pytest.raises(CheckpointError, match=r"vae\.source must be a folder or owner/name on the Hub, got '\./none'"):
        load_codec("nowhere", named_config("./none"))


@pytest.mark.parametrize(
    "name",
    ["vae/config.json", "vae/diffusion_pytorch_model.safetensors", "vocoder/config.json", "vocoder/model.safetensors"],
)
def test_missing_and_damaged_files_are_named(own, name):
    path = own / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=rf"{name} (cannot be read|is truncated or damaged)"):
        load_codec("nowhere", named_config(own))
    path.unlink()
    with pytest.raises(CheckpointError, match=rf"{name} is missing: (vae|vocoder)\.source must hold .*{name}"):
        load_codec("nowhere", named_config(own))
    shutil.rmtree(path.parent)
    with pytest.raises(CheckpointError, match="is missing"):
        load_codec("nowhere", named_config(own))


def test_other_classes_are_refused(own):
    config = named_config(own)
    change(own / "vocoder" / "config.json", architectures=["SpeechT5ForTextToSpeech"])
    with pytest.raises(CheckpointError, match=r"must describe SpeechT5HifiGan, got 'SpeechT5ForTextToSpeech'"):
        load_codec("nowhere", config)
    change(own / "vae" / "config.json", _class_name="VQModel")
    with pytest.raises(CheckpointError, match=r"vae/config\.json must describe AutoencoderKL, got 'VQModel'"):
        load_codec("nowhere", config)
    (own / "vae" / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"vae/config\.json cannot be read"):
        load_codec("nowhere", config)


def test_weights_that_do_not_fit_their_configuration_are_named(own):
    config, path = named_config(own), own / "vocoder" / "model.safetensors"
    weights = load_file(path)
    normed = {name.replace("conv_pre.weight", "conv_pre.weight_v"): value for name, value in weights.items()}
    save_file(normed, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"conv_pre\.weight is missing; conv_pre\.[\w.]+ is unknown$"):
        load_codec("nowhere", config)
    save_file(weights | {"mean": torch.zeros(80)}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"mean has shape \[80\], not \[64\]$"):
        load_codec("nowhere", config)
    path = own / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    save_file({name: value for name, value in weights.items() if "quant_conv" not in name}, path)
    with pytest.raises(CheckpointError, match=r"does not fit .*: post_quant_conv\.bias is missing; .* and 1 more$"):
        load_codec("nowhere", config)
    save_file(weights | {"quant_conv.bias": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"quant_conv\.bias has shape \[3\], not \[16\]$"):
        load_codec("nowhere", config)


def test_a_codec_of_another_kind_is_refused(tmp_path):
    save_networks(tmp_path, {"latent_channels": 4}, {"upsample_rates": (5, 4, 4, 2, 2)})
    config = named_config(tmp_path)
    with pytest.raises(CheckpointError, match=r"vae\.token_dim must be 64 \(4 latent channels x 4 x 4\), got 128"):
        load_codec("nowhere", config)
    fitting = named_config(tmp_path, token_dim=64)
    with pytest.raises(CheckpointError, match=r"64 mel bins, 160 samples .* got 64 mel bins, 320 samples a frame"):
        load_codec("nowhere", fitting)
    with pytest.raises(CheckpointError, match="must be multiples of 4, got 2 x 16"):
        load_codec("nowhere", named_config(tmp_path, patch_frames=2))
    with pytest.raises(CheckpointError, match=r"mel\.hop_length must be 160 for AudioLDM, got 80"):
        load_codec("nowhere", dataclasses.replace(config, mel=MelConfig(frames=64, hop_length=80, samples=99)))


def test_a_source_must_be_named():
    for name, kind in (("vae", AudioLDMVAEConfig), ("vocoder", AudioLDMVocoderConfig)):
        with pytest.raises(ConfigError, match=rf"{name}\.source must be owner/name on the Hub or a folder, got ''"):
            kind(source="")


def test_mels_of_another_shape_are_refused(codec):
    with pytest.raises(ValueError, match=r"\[B, F, 64\] with F a multiple of 16, got \(1, 60, 64\)"):
        codec[0].encode(torch.zeros(1, 60, 64))
    with pytest.raises(ValueError, match=r"got \(1, 64, 80\)"):
        codec[0].encode(torch.zeros(1, 64, 80))
