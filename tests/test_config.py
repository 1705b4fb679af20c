import dataclasses
import json
import typing

import pytest

from dear.codec import CODECS, VOCODERS
from dear.codec.conv import ConvConfig
from dear.codec.patch import PatchConfig
from dear.config import (
    BackboneConfig,
    Config,
    ConfigError,
    MelConfig,
    SamplingConfig,
    Savings,
    VAEConfig,
    as_kind,
)
from dear.heads import HEADS
from dear.heads.energy import EnergyConfig
from dear.kinds import KINDS
from dear.presets import PRESETS, preset
from dear.settings import field_annotations

JOINT = {"attention": "joint", "masked_attention": "full", "positions": "learned", "conv_width": 0}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_the_way_through_json(name):
    config = preset(name)
    assert Config.from_json(config.to_json(), KINDS) == config


def test_the_paper_sizes():
    base = preset("base")
    assert (base.length, base.grid, base.vae.token_dim) == (256, (64, 4), 128)
    assert (base.conditioning.max_tokens, base.conditioning.dim) == (78, 1024)
    assert (base.backbone.depth, base.backbone.width) == (24, 768)
    assert base.backbone.attention == "joint" and base.backbone.conv_width == 0
    assert preset("base-visible").backbone.masked_attention == "visible"
    assert (base.mel.frames, base.mel.n_mels, base.mel.sample_rate, base.mel.hop_length) == (1024, 64, 16000, 160)
    assert base.variants["student"].sampling == SamplingConfig(cfg_scale=4.0, iterations=64)
    assert preset("base-teacher").variants["teacher"].sampling.steps == 100


def test_an_unknown_field_is_refused_by_its_path():
    data = json.loads(preset("mini").to_json())
    data["backbone"]["widht"] = 7
    with pytest.raises(ConfigError, match=r"unknown field backbone\.widht; allowed are width, depth"):
        Config.from_dict(data, KINDS)
    data = json.loads(preset("mini").to_json())
    data["variants"]["student"]["head"]["x"] = 7
    with pytest.raises(ConfigError, match=r"unknown field variants\.student\.head\.x"):
        Config.from_dict(data, KINDS)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"backbone": {"width": "wide"}}, "backbone.width must be of type int, got 'wide'"),
        ({"backbone": {"width": True}}, "backbone.width must be of type int, got True"),
        ({"backbone": 3}, "backbone must be an object with fields, got 3"),
        ({"mel": {"floor": 0.0}}, "mel.floor must be a number from 1e-12 to 1, got 0.0"),
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
        Config.from_dict(data, KINDS)
    assert sentence in str(refusal.value)


def test_what_is_not_json_is_refused():
    with pytest.raises(ConfigError, match="not valid JSON"):
        Config.from_json("{", KINDS)
    with pytest.raises(ConfigError, match="must be an object"):
        Config.from_json("[]", KINDS)
    with pytest.raises(ConfigError, match="not valid JSON"):
        Config.from_json("[" * 100_000, KINDS)


@pytest.mark.parametrize(
    ("cls", "options", "name"),
    [
        (BackboneConfig, {"heads": 5}, "backbone.heads"),
        (BackboneConfig, {"conv_width": 4}, "backbone.conv_width"),
        (BackboneConfig, {"masked_attention": "some"}, "backbone.masked_attention"),
        (
            BackboneConfig,
            {"attention": "joint", "conv_width": 0},
            "backbone.masked_attention must be 'full' for attention",
        ),
        (BackboneConfig, JOINT | {"positions": "both"}, "backbone.positions must be 'learned' for attention"),
        (BackboneConfig, JOINT | {"conv_width": 5}, "backbone.conv_width must be 0 for attention"),
        (BackboneConfig, JOINT | {"depth": 5}, "backbone.depth must be even"),
        (EnergyConfig, {"samples": 1}, "head.samples"),
        (EnergyConfig, {"groups": (4, 0)}, "head.groups"),
        (SamplingConfig, {"cfg_scale": float("nan")}, "sampling.cfg_scale"),
        (VAEConfig, {}, "vae.kind"),
        (PatchConfig, {"kind": "conv"}, "vae.kind"),
    ],
)
def test_values_out_of_range_are_refused_by_name(cls, options, name):
    with pytest.raises(ConfigError, match=name):
        cls(**options)


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("mini").name = "other"


def test_an_unknown_preset_is_refused():
    with pytest.raises(
        ConfigError, match="preset must be one of mini, base, base-teacher, base-visible, base-visible-teacher, got"
    ):
        preset("huge")


def test_the_fields_of_other_kinds_are_left_out_and_typing_errors_are_not():
    """Configurations once listed the fields of every kind."""
    data = json.loads(preset("mini").to_json())
    data["vocoder"] |= {"width": 192, "depth": 6, "source": "cvssp/audioldm-s-full-v2"}
    assert Config.from_dict(data, KINDS) == preset("mini")
    data["vocoder"]["widht"] = 192
    with pytest.raises(ConfigError, match=r"unknown field vocoder\.widht; allowed are kind, iterations, momentum"):
        Config.from_dict(data, KINDS)


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [("vocoder", "width", 192), ("vae", "source", "a/b"), ("conditioning", "t5", "a/b"), ("head", "timesteps", 1000)],
)
def test_a_setting_of_another_kind_is_refused_by_name(section, name, value):
    data = json.loads(preset("mini").to_json())
    part = data["variants"]["student"]["head"] if section == "head" else data[section]
    part[name] = value
    with pytest.raises(ConfigError, match=rf"unknown field (variants\.student\.)?{section}\.{name}; allowed are kind"):
        Config.from_dict(data, KINDS)


# Sections of config.json files of the bundled model, from its first version on.
PUBLISHED_HEADS = [
    {"kind": "energy", "width": 192, "depth": 3, "samples": 2, "levels": 4, "timesteps": 1000, "eta": 1.0},
    {
        "kind": "diffusion",
        "width": 192,
        "depth": 3,
        "guidance_level": "default",
        "noise_as": "input",
        "samples": 2,
        "groups": [],
        "levels": 4,
        "timesteps": 1000,
        "eta": 1.0,
        "prediction": "velocity",
        "times": "logit-normal",
        "flow_share": 0.75,
        "adaptive_power": 1.0,
        "max_steps": 128,
    },
]


@pytest.mark.parametrize("head", PUBLISHED_HEADS)
def test_published_heads_load_without_the_settings_of_other_kinds(head):
    data = json.loads(preset("mini").to_json())
    data["variants"]["student"]["head"] = head
    loaded = Config.from_dict(data, KINDS).variants["student"].head
    assert {name: head.get(name, value) for name, value in vars(loaded).items()} == vars(loaded)
    assert loaded.kind == head["kind"] and loaded.width == 192


@pytest.mark.parametrize("section", ["vae", "vocoder", "conditioning"])
def test_an_unknown_kind_is_refused_by_name(section):
    data = json.loads(preset("mini").to_json())
    for kind in ("magic", None, ["patch"]):
        data[section] = {"kind": kind}
        with pytest.raises(ConfigError, match=rf"{section}\.kind must be one of .*, got "):
            Config.from_dict(data, KINDS)


def test_the_first_kind_of_a_registry_is_the_default():
    data = {"variants": {"student": {"head": {"width": 320, "samples": 4, "groups": [4, 12, 48, 64]}}}}
    config = Config.from_dict(data, KINDS)
    assert config.vae == next(iter(CODECS.values())).Config()
    assert config.vocoder == next(iter(VOCODERS.values())).Config()
    assert config.variants["student"].head == next(iter(HEADS.values())).Config(
        width=320, samples=4, groups=(4, 12, 48, 64)
    )
    with pytest.raises(ConfigError, match="missing field variants"):
        Config.from_dict({}, KINDS)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("backbone.depth", 10_000),
        ("backbone.width", 10**6),
        ("backbone.mlp_ratio", 10**400),
        ("backbone.conv_width", 8001),
        ("mel.n_fft", 10**9),
        ("mel.frames", 10**9),
        ("mel.f_max", float("nan")),
        ("vae.token_dim", 10**6),
        ("vae.patch_mels", 10**6),
        ("vocoder.iterations", 10**9),
        ("conditioning.max_tokens", 10**9),
        ("variants.teacher.head.timesteps", 10**9),
        ("variants.student.head.samples", 10**6),
        ("variants.student.sampling.iterations", 10**9),
        ("variants.student.sampling.steps", -1),
    ],
)
def test_hostile_sizes_are_refused_by_name(path, value):
    data = json.loads(preset("mini").to_json())
    part, (*parts, name) = data, path.split(".")
    for each in parts:
        part = part[each]
    part[name] = value
    with pytest.raises(ConfigError, match=rf"{parts[-1]}\.{name} must be "):
        Config.from_dict(data, KINDS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mel": {"frames": 65_536, "n_fft": 16_384}}, "mel.frames * n_fft must be at most 8388608, got 1073741824"),
        ({"mel": {"hop_length": 2048}}, "mel.hop_length must be at most n_fft 1024, got 2048"),
        ({"mel": {"frames": 8192}, "vae": {"patch_frames": 1}}, "a clip must have at most 4096 tokens, got 8192"),
        ({"name": "x" * 100_000}, "name must be a text of at most 1000 printable characters, got 'xxx"),
        ({"name": "a\0"}, "name must be a text of at most 1000 printable characters"),
        ({"variants": {str(number): {} for number in range(17)}}, "variants must name at most 16 variants, got 17"),
        ({"backbone": {"positions": "x" * 100_000}}, "backbone.positions must be one of"),
    ],
)
def test_sizes_that_are_large_together_and_long_texts_are_refused(changes, message):
    data = json.loads(preset("mini").to_json())
    for section, change in changes.items():
        data[section] = data[section] | change if section in ("mel", "vae", "backbone") else change
    with pytest.raises(ConfigError) as refusal:
        Config.from_dict(data, KINDS)
    assert message in str(refusal.value) and len(str(refusal.value)) < 400


SETTINGS = [MelConfig, BackboneConfig, Savings, SamplingConfig]
SETTINGS += [kind.Config for registry in KINDS.values() for kind in registry.values()]


@pytest.mark.parametrize("cls", SETTINGS, ids=lambda cls: cls.__name__)
def test_every_number_has_a_range_and_every_default_lies_in_it(cls):
    cls()
    for name, hint in field_annotations(cls).items():
        if typing.get_origin(hint) is tuple:
            hint = typing.get_args(hint)[0]
        assert hint not in (int, float), f"{cls.__name__}.{name} needs Annotated[..., Range(low, high)]"
        if typing.get_origin(hint) is typing.Annotated:
            _, allowed = typing.get_args(hint)
            assert allowed.low < allowed.high
            for value in (allowed.low - 1, allowed.high + 1, True, "1", float("nan")):
                with pytest.raises(ConfigError, match=rf"{cls.section}\.{name} must be a"):
                    dataclasses.replace(cls(), **{name: (value,) if isinstance(getattr(cls(), name), tuple) else value})


def test_settings_of_another_kind_keep_what_both_have():
    linear = PatchConfig(patch_frames=4, token_dim=7, peak=0.5)
    assert as_kind(linear, ConvConfig) == ConvConfig(patch_frames=4, token_dim=7, peak=0.5)
    assert as_kind(linear, PatchConfig) is linear


@pytest.mark.parametrize("section", ["vae", "vocoder", "conditioning"])
def test_configurations_that_list_the_fields_of_every_kind_still_load(section):
    """As config.json files did before each kind had settings of its own."""
    old = {
        "vae": {
            "patch_frames": 16,
            "patch_mels": 16,
            "token_dim": 128,
            "peak": 0.5,
            "width": 64,
            "depth": 4,
            "source": "a/b",
        },
        "vocoder": {"iterations": 32, "momentum": 0.9, "width": 192, "depth": 6, "source": "a/b"},
        "conditioning": {"dim": 384, "max_tokens": 64, "text_embeddings": "t5", "t5": "a/b", "clap": "a/b/c.pt"},
    }
    data = json.loads(preset("mini").to_json())
    for kind in KINDS[type(getattr(preset("mini"), section)).__mro__[1]]:
        data[section] = {"kind": kind} | old[section]
        loaded = getattr(Config.from_dict(data, KINDS), section)
        assert loaded.kind == kind
        assert all(value == old[section].get(name, value) for name, value in vars(loaded).items())
