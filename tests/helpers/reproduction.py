"""Recordings and a recipe for a reproduction at toy size, and its training in a process."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml
from factory import tiny_config

from dear.codec.conv import ConvConfig
from training.reproduce import main

LABELS = {"old": ("dog", "rain", "clock_tick"), "new": ("doorbell", "piano")}  # by the name of a folder of recordings
HELD_OUT = {"old": 4, "new": 5}
SOUNDS = ("dog", "rain", "clock_tick", "bell", "piano")  # a doorbell is a bell
RATE = 16000
TRAINING = ("codec", "cache", "teacher", "student", "plain", "conv", "vocoder", "classifier")  # all random stages


def make_clips(data: Path) -> list[str]:
    """Two folders with four recordings of each label, one of them held out: a tone of its own pitch over noise."""
    number = 0
    for name, labels in LABELS.items():
        (data / name / "audio").mkdir(parents=True)
        rows = ["file,fold,label,title,source,author,license"]
        for label in labels:
            for fold in (1, 2, 3, HELD_OUT[name]):
                rng = np.random.default_rng([number, fold])
                time_axis = np.arange(RATE) / RATE
                sound = 0.3 * np.sin(2 * np.pi * 200 * (number + 1) * time_axis) + 0.05 * rng.standard_normal(RATE)
                soundfile.write(data / name / "audio" / f"{fold}-{label}.wav", sound, RATE)
                rows.append(f"{fold}-{label}.wav,{fold},{label},tone {number},https://example.org/{number},nobody,CC0")
            number += 1
        (data / name / "clips.csv").write_text("\n".join(rows) + "\n")
    return [str(data / name) for name in LABELS]


def make_recipe(path: Path) -> Path:
    """A recipe of all stages, a few steps each."""
    model = dataclasses.replace(tiny_config(), name="toy", vae=ConvConfig(token_dim=16, width=8, depth=1))
    stage = {"batch_size": 4, "lr": 1e-3, "warmup": 1, "save_every": 2, "log_every": 2}
    data = {
        "model": json.loads(model.to_json()),
        "teacher": stage | {"steps": 6, "validate_every": 3},
        "student": stage | {"steps": 6, "validate_every": 3},
        "finish": stage | {"steps": 4, "validate_every": 2, "seed": 1},
        "finish_masking": {"ratio": [0.3, 1.0], "shares": "cosine"},
        "conv": stage | {"steps": 4},
        "vocoder": stage | {"steps": 4},
        "classifier": stage | {"steps": 4},
        "scenes": {
            "count": 48,
            "often": {"rain": 2},
            "in_time": True,
            "recaption": True,
            "wordings": 2,
            "held_out": HELD_OUT,
            "sounds": [*SOUNDS, "beep"],
            "validation": 4,
            "fit": 8,
            "classifier": 10,
        },
        "measure": {
            "cfg_scales": [1.0, 2.0],
            "temperatures": {"student": [1.0], "teacher": [1.0]},
            "tuning_clips": 1,
            "scored_clips": 1,
            "pairs": 12,
        },
    }
    data["model"]["vocoder"] |= {"width": 8, "depth": 1}
    path.write_text(yaml.safe_dump(data))
    return path


def train_all(clips: Sequence[str], recipe: Path, out: Path) -> None:
    """Run all stages that train, then end the process."""
    arguments = ["--clips", *clips, "--out", out, "--recipe", recipe, "--workers", "1", "--stages", *TRAINING]
    sys.exit(main([*map(str, arguments)]))


def same_weights(out: Path, reference: Path) -> None:
    """Assert that two reproductions hold equal weights and tokens, in their stages' files and states."""
    made = [path.relative_to(reference) for path in reference.rglob("*.safetensors") if "toy" not in path.parts]
    assert len(made) == 4  # codec, classifier, and the captions of both caches
    for path in [*made, Path("cache", "tokens.npy"), Path("cache-held-out", "tokens.npy")]:
        assert (out / path).read_bytes() == (reference / path).read_bytes(), path
    states = [path.relative_to(reference) for path in reference.glob("*/state.pt")]
    assert len(states) == 8
    for path in states:
        mine, theirs = (torch.load(folder / path, weights_only=True) for folder in (out, reference))
        assert mine["step"] == theirs["step"]
        for part in ("model", "ema"):
            for name, value in theirs[part].items():
                assert torch.equal(mine[part][name], value), f"{path}: {name}"
