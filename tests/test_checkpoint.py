from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os

import pytest
import torch
from factory import tiny_checkpoint, tiny_config, tiny_models
from safetensors.torch import load_file, save_file
from torch import nn

from dear import AudioDEAR, checkpoint
from dear.checkpoint import (
    CheckpointError,
    digest,
    fingerprint,
    load_codec,
    load_config,
    load_model,
    resolve,
    save_checkpoint,
)
from dear.codec import build_vae, build_vocoder
from dear.codec.conv import ConvConfig
from dear.codec.istft import ISTFTConfig
from dear.config import ConfigError
from dear.kinds import KINDS


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_round_trip_is_exact_up_to_half_precision(tiny_folder):
    config = load_config(tiny_folder)
    assert config == tiny_config()
    assert set(files(tiny_folder)) == {
        "README.md",
        "config.json",
        "student.safetensors",
        "teacher.safetensors",
        "codec/vae.safetensors",
    }
    for variant, original in tiny_models(config).items():
        stored = load_file(tiny_folder / f"{variant}.safetensors")
        assert {value.dtype for value in stored.values()} == {torch.float16}
        loaded = load_model(tiny_folder, config, variant)
        assert not loaded.training
        assert loaded.variant == variant
        for name, value in original.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value.half().float()), name
        assert load_model(tiny_folder, config, variant, dtype=torch.bfloat16).null.vector.dtype == torch.bfloat16


def test_loading_leaves_the_global_generator_alone(tiny_folder):
    config, state = load_config(tiny_folder), torch.get_rng_state()
    load_model(tiny_folder, config, "student")
    load_codec(tiny_folder, config)
    assert torch.equal(torch.get_rng_state(), state)


def test_codec_buffers_keep_full_precision(tmp_path):
    config = tiny_config()
    vae, vocoder = build_vae(config.vae, config.mel), build_vocoder(config.vocoder, config.mel)
    vae.mean.copy_(torch.randn(vae.mean.shape))
    folder = save_checkpoint(tmp_path / "c", config, tiny_models(config), vae, vocoder)
    assert not (folder / "README.md").exists()
    loaded, _ = load_codec(folder, config)
    assert torch.equal(loaded.mean, vae.mean)
    mel = torch.randn(1, config.mel.frames, config.mel.n_mels)
    assert torch.equal(loaded.encode(mel), vae.encode(mel))


def test_vocoder_with_weights_round_trips(tmp_path):
    vocoder_config = ISTFTConfig(width=16, depth=1)
    config = dataclasses.replace(tiny_config(), vocoder=vocoder_config)
    vae, vocoder = build_vae(config.vae, config.mel), build_vocoder(config.vocoder, config.mel)
    folder = save_checkpoint(tmp_path / "c", config, tiny_models(config), vae, vocoder)
    _, loaded = load_codec(folder, load_config(folder))
    mel = torch.randn(1, config.mel.frames, config.mel.n_mels)
    torch.testing.assert_close(loaded(mel), vocoder(mel), atol=1e-2, rtol=0)
    (folder / "codec" / "vocoder.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"codec/vocoder\.safetensors is missing"):
        load_codec(folder, config)


def test_digest_is_that_of_the_weight_file(tiny_folder):
    expected = hashlib.sha256((tiny_folder / "teacher.safetensors").read_bytes()).hexdigest()[:12]
    assert digest(tiny_folder, "teacher") == expected != digest(tiny_folder, "student")


def test_weights_that_do_not_fit_half_precision_are_refused_and_the_old_checkpoint_kept(own_folder):
    before = files(own_folder)
    config = tiny_config()
    models = tiny_models(config, seed=1)
    with torch.no_grad():
        models["teacher"].null.vector[0] = 1e6
    vae, vocoder = build_vae(config.vae, config.mel), build_vocoder(config.vocoder, config.mel)
    with pytest.raises(CheckpointError, match=r"teacher\.safetensors: null\.vector must be finite"):
        save_checkpoint(own_folder, config, models, vae, vocoder)
    assert files(own_folder) == before
    assert os.listdir(own_folder.parent) == [own_folder.name]


def test_a_failed_swap_keeps_the_old_checkpoint(own_folder, monkeypatch):
    before, rename = files(own_folder), os.rename

    def fail_once(source, target):
        if str(source).endswith("new"):
            raise OSError("disk full")
        rename(source, target)

    monkeypatch.setattr(checkpoint.os, "rename", fail_once)
    with pytest.raises(OSError, match="disk full"):
        tiny_checkpoint(own_folder, seed=1)
    assert files(own_folder) == before
    assert os.listdir(own_folder.parent) == [own_folder.name]


def test_an_earlier_checkpoint_is_replaced_as_a_whole(own_folder):
    before = files(own_folder)
    (own_folder / "stale.safetensors").write_bytes(b"old")
    tiny_checkpoint(own_folder, seed=1)
    after = files(own_folder)
    assert set(after) == set(before)
    assert after["student.safetensors"] != before["student.safetensors"]
    assert os.listdir(own_folder.parent) == [own_folder.name]
    assert own_folder.stat().st_mode & 0o055 == 0o055


def test_saving_refuses_foreign_folders_and_other_variants(tmp_path):
    (tmp_path / "notes.txt").write_text("keep me")
    with pytest.raises(CheckpointError, match="folder must be new, empty, or an earlier checkpoint"):
        tiny_checkpoint(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "keep me"
    config = tiny_config()
    models = tiny_models(config)
    del models["teacher"]
    with pytest.raises(CheckpointError, match=r"variants \['student', 'teacher'\], got \['student'\]"):
        save_checkpoint(tmp_path / "c", config, models, nn.Identity(), nn.Identity())


@pytest.mark.parametrize("name", ["student.safetensors", "codec/vae.safetensors"])
@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_missing_and_truncated_weights_are_named(own_folder, name, keep):
    config, path = load_config(own_folder), own_folder / name

    def load():
        load_model(own_folder, config, "student")
        load_codec(own_folder, config)

    load()
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=f"{name} is truncated or damaged"):
        load()
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load()


def test_a_missing_file_is_reported_before_a_network_is_built(own_folder, monkeypatch):
    def refuse(*args):
        raise AssertionError("a network was built")

    config = load_config(own_folder)
    (own_folder / "student.safetensors").unlink()
    (own_folder / "codec" / "vae.safetensors").unlink()
    for name in ("MaskedModel", "build_vae", "build_vocoder"):
        monkeypatch.setattr(checkpoint, name, refuse)
    with pytest.raises(CheckpointError, match="is missing"):
        load_model(own_folder, config, "student")
    with pytest.raises(CheckpointError, match="is missing"):
        load_codec(own_folder, config)


def test_wrong_names_and_shapes_are_named(own_folder):
    config, path = load_config(own_folder), own_folder / "student.safetensors"
    weights = load_file(path)
    vector = weights.pop("null.vector")
    save_file(weights | {"extra": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"student.*null\.vector is missing; extra is unknown$"):
        load_model(own_folder, config, "student")
    save_file(weights | {"null.vector": vector[:5].clone()}, path)
    with pytest.raises(CheckpointError, match=r"null\.vector has shape \[5\], not \[384\]$"):
        load_model(own_folder, config, "student")
    save_file({name: value[..., None].clone() for name, value in weights.items()}, path)
    with pytest.raises(CheckpointError, match=r"and \d+ more$"):
        load_model(own_folder, config, "student")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 3}, r"config\.json: unknown field colour; allowed are name, "),
        ({"vae": {"colour": 3}}, r"config\.json: unknown field vae\.colour"),
        ({"backbone": {"width": "wide"}}, r"config\.json: backbone\.width must be of type int, got 'wide'"),
        ({"variants": {}}, r"config\.json: variants must name at least one"),
    ],
)
def test_configuration_errors_name_file_and_field(own_folder, change, message):
    path = own_folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=message):
        load_config(own_folder)


def test_unreadable_configurations_are_named(own_folder):
    path = own_folder / "config.json"
    path.write_text('{"name": ')
    with pytest.raises(ConfigError, match=r"config\.json: the configuration is not valid JSON"):
        load_config(own_folder)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        load_config(own_folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_config(own_folder)


def test_variants_are_checked_and_cannot_leave_the_folder(own_folder):
    with pytest.raises(CheckpointError, match="variant must be one of student, teacher, got 'painter'"):
        load_model(own_folder, load_config(own_folder), "painter")
    data = tiny_config().to_dict()
    data["variants"] = {"../student": data["variants"]["student"]}
    with pytest.raises(CheckpointError, match="variant must be a plain name"):
        load_model(own_folder, type(tiny_config()).from_dict(data, KINDS), "../student")


def test_resolve_finds_folders_and_refuses_what_is_neither_folder_nor_repository(tiny_folder, tmp_path, monkeypatch):
    assert resolve(tiny_folder) == resolve(str(tiny_folder)) == tiny_folder
    with pytest.raises(CheckpointError, match="revision applies to a Hub repository only, got 'main'"):
        resolve(tiny_folder, revision="main")
    for bad in (
        tmp_path / "none",
        str(tmp_path / "none"),
        "./none/here",
        "just-a-name",
        "a/b/c",
        "../x",
        "~nobody/x",
        5,
    ):
        with pytest.raises(CheckpointError, match="model must be a checkpoint's folder or owner/name"):
            resolve(bad)
    monkeypatch.setattr(checkpoint, "BUNDLED", tmp_path / "assets")
    with pytest.raises(CheckpointError, match="bundled weights are missing: there is no folder"):
        resolve(None)


@pytest.mark.parametrize("name", ["config.json", "README.md", "student.safetensors", "codec/vae.safetensors"])
def test_pipes_devices_and_folders_are_refused_by_name(own_folder, name):
    path = own_folder / name
    for put in (os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")):
        path.rmdir() if path.is_dir() else path.unlink()
        put(path)
        with pytest.raises(CheckpointError, match=rf"{name}.*not a regular file"):
            AudioDEAR.from_pretrained(own_folder, device="cpu")
        if name != "README.md":
            with pytest.raises(CheckpointError, match=rf"{name}"):
                fingerprint(own_folder)


@pytest.mark.parametrize("name", ["student", "codec/vae"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(own_folder, name, value):
    path = own_folder / f"{name}.safetensors"
    weights = load_file(path)
    key = sorted(weights)[-1]
    save_file(weights | {key: torch.full_like(weights[key], value)}, path)
    with pytest.raises(CheckpointError, match=rf"{path.name} is damaged: {key} holds infinite or NaN values"):
        AudioDEAR.from_pretrained(own_folder, device="cpu")


def test_a_codec_that_would_divide_by_zero_is_refused(own_folder):
    path = own_folder / "codec" / "vae.safetensors"
    weights = load_file(path)
    save_file(weights | {"scale": 0 * weights["scale"]}, path)
    with pytest.raises(CheckpointError, match=r"vae.safetensors is damaged: scale must be above 0, got 0"):
        AudioDEAR.from_pretrained(own_folder, device="cpu")


def test_a_codec_is_compared_with_its_file_before_it_is_built(own_folder, monkeypatch):
    config = dataclasses.replace(tiny_config(), vae=ConvConfig(width=1024, depth=32, token_dim=16))
    built = []
    before = torch.nn.Linear.__init__

    def linear(self, *arguments, **options):
        before(self, *arguments, **options)
        built.append(self.weight.device.type)

    monkeypatch.setattr(torch.nn.Linear, "__init__", linear)
    with pytest.raises(CheckpointError, match=r"vae.safetensors does not fit its configuration"):
        load_codec(own_folder, config)
    assert set(built) == {"meta"}


def test_a_header_that_is_too_long_is_refused(own_folder):
    path = own_folder / "student.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(CheckpointError, match="must have a header of at most 8388608 bytes, got 1099511627776"):
        AudioDEAR.from_pretrained(own_folder, device="cpu")


@pytest.mark.parametrize("name", ["config.json", "student.safetensors", "codec/vae.safetensors"])
def test_a_file_larger_than_its_content_is_refused_before_it_is_read(own_folder, name):
    with open(own_folder / name, "wb") as file:
        file.truncate(2**40)  # takes no space on disk, and an hour to read
    for use in (fingerprint, AudioDEAR.from_pretrained):
        with pytest.raises((CheckpointError, ConfigError), match=name):
            use(own_folder)


def test_an_unreadable_card_is_refused_in_a_sentence(own_folder):
    (own_folder / "README.md").write_bytes(b"# caf\xe9")
    with pytest.raises(CheckpointError, match=r"README.md cannot be read .*0xe9 in line 1"):
        AudioDEAR.from_pretrained(own_folder, device="cpu")
