import dataclasses
import json

import pytest

from dear.config import PRESETS, BackboneConfig, Config, ConfigError, HeadConfig, SamplingConfig, VAEConfig, preset


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_the_way_through_json(name):
    config = preset(name)
    assert Config.from_json(config.to_json()) == config


def test_the_paper_sizes():
    base = preset("base")
    assert (base.length, base.grid, base.vae.token_dim) == (256, (64, 4), 128)
    assert (base.conditioning.max_tokens, base.conditioning.dim) == (78, 1024)
    assert (base.backbone.depth, base.backbone.width) == (24, 768)
    assert base.backbone.masked_attention == "full" and base.backbone.conv_width == 0
    assert (base.mel.frames, base.mel.n_mels, base.mel.sample_rate, base.mel.hop_length) == (1024, 64, 16000, 160)
    assert base.variants["student"].sampling == SamplingConfig(cfg_scale=4.0, iterations=64)
    assert preset("base-teacher").variants["teacher"].sampling.steps == 100


def test_an_unknown_field_is_refused_by_its_path():
    data = json.loads(preset("mini").to_json())
    data["backbone"]["widht"] = 7
    with pytest.raises(ConfigError, match=r"unknown field backbone\.widht; allowed are width, depth"):
        Config.from_dict(data)
    data = json.loads(preset("mini").to_json())
    data["variants"]["student"]["head"]["x"] = 7
    with pytest.raises(ConfigError, match=r"unknown field variants\.student\.head\.x"):
        Config.from_dict(data)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"backbone": {"width": "wide"}}, "backbone.width must be of type int, got 'wide'"),
        ({"backbone": {"width": True}}, "backbone.width must be of type int, got True"),
        ({"backbone": 3}, "backbone must be an object with fields, got 3"),
        ({"mel": {"floor": 0.0}}, "mel.floor must be above 0, got 0.0"),
        ({"backbone": {"mlp_ratio": float("inf")}}, "backbone.mlp_ratio must be a finite number, got inf"),
        ({"mel": {"f_max": None}}, "mel.f_max must be of type float, got None"),
        ({"variants": {}}, "variants must name at least one variant"),
        (
            {"variants": {"student": {"sampling": {"iterations": 4096}}}},
            "iterations must be at most 128 tokens, got 4096",
        ),
    ],
)
def test_bad_values_are_refused_by_name(data, sentence):
    with pytest.raises(ConfigError) as refusal:
        Config.from_dict(data)
    assert sentence in str(refusal.value)


def test_what_is_not_json_is_refused():
    with pytest.raises(ConfigError, match="not valid JSON"):
        Config.from_json("{")
    with pytest.raises(ConfigError, match="must be an object"):
        Config.from_json("[]")
    with pytest.raises(ConfigError, match="not valid JSON"):
        Config.from_json("[" * 100_000)


@pytest.mark.parametrize(
    ("cls", "options", "name"),
    [
        (BackboneConfig, {"heads": 5}, "backbone.heads"),
        (BackboneConfig, {"conv_width": 4}, "backbone.conv_width"),
        (BackboneConfig, {"masked_attention": "some"}, "backbone.masked_attention"),
        (HeadConfig, {"samples": 1}, "head.samples"),
        (HeadConfig, {"groups": (4, 0)}, "head.groups"),
        (SamplingConfig, {"cfg_scale": float("nan")}, "sampling.cfg_scale"),
        (VAEConfig, {"kind": "none"}, "vae.kind"),
        (Config, {"vae": VAEConfig(patch_frames=7)}, "vae.patch_frames"),
    ],
)
def test_values_out_of_range_are_refused_by_name(cls, options, name):
    with pytest.raises(ConfigError, match=name):
        cls(**options)


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("mini").name = "other"


def test_an_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match="preset must be one of mini, base, base-teacher, got 'huge'"):
        preset("huge")
