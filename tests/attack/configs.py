"""Checkpoints that ask for too much, do not fit, are damaged, or are no files: loaded, and used where taken."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from factory import tiny_checkpoint, tiny_config
from safetensors.torch import load_file, save_file

from dear import AudioDEAR
from dear.checkpoint import fingerprint, load_card
from dear.codec.conv import ConvConfig
from dear.codec.istft import ISTFTConfig

VALUES = [0, -1, 1, 2**31, 2**63, 10**30, 10**400, 0.5, -0.0, math.inf, math.nan, True, None, "1", "x" * 10_000, [], {}]
# Values that each are in range, and that together would ask for gigabytes or hours.
LARGE_TOGETHER: list[dict[str, Any]] = [
    {"backbone.width": 4096, "backbone.heads": 32, "backbone.depth": 128, "backbone.mlp_ratio": 16.0},
    {"vae.width": 1024, "vae.depth": 32},
    {"vae.token_dim": 2048, "vae.patch_frames": 256},
    {"mel.n_mels": 512, "vae.patch_mels": 1, "vae.token_dim": 512},
    {"mel.frames": 65_536, "mel.n_fft": 16_384},
    {"mel.frames": 65_536, "vae.patch_frames": 1},
    {"mel.hop_length": 16_384, "mel.n_fft": 16_384, "mel.frames": 512, "mel.samples": 8_000_000},
    {"mel.n_fft": 16_384, "mel.n_mels": 512, "vae.patch_mels": 512},
    {"vocoder.width": 1024, "vocoder.depth": 32},
    {"variants.student.head.width": 8192, "variants.student.head.depth": 64},
    {"variants.teacher.head.timesteps": 10_000, "variants.teacher.sampling.steps": 1000},
    {"variants.student.sampling.iterations": 4096},
    {"conditioning.max_tokens": 1024},
    {"conditioning.dim": 8192},
]
NAMES = ("config.json", "student.safetensors", "codec/vae.safetensors", "codec/vocoder.safetensors", "README.md")


def cases(large: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    work = Path(tempfile.mkdtemp())
    config = dataclasses.replace(
        tiny_config(),
        vae=ConvConfig(patch_frames=8, patch_mels=64, token_dim=16, width=8, depth=1),
        vocoder=ISTFTConfig(width=8, depth=1),
    )
    whole = tiny_checkpoint(work / "whole", config)
    AudioDEAR.from_pretrained(whole, device="cpu").generate("a dog", seed=0)  # what is imported late is no cost
    data = json.loads((whole / "config.json").read_text())
    fields = sorted(_fields(data))

    def changed(changes: dict[str, Any]) -> Callable[[], None]:
        def case() -> None:
            with _copy(whole, work) as folder:
                _write_config(folder, data, changes)
                _use(folder)

        return case

    for changes in LARGE_TOGETHER:
        yield str(changes), changed(changes)
    for field in fields if large else fields[:: len(fields) // 12]:
        for value in VALUES if large else VALUES[3:5]:
            yield f"{field} = {value!r:.20}", changed({field: value})
    yield from _files(whole, work)
    yield from _weights(whole, work, large)
    rng = np.random.default_rng(0)
    for number in range(500 if large else 5):
        name = NAMES[number % len(NAMES)]
        content = bytearray((whole / name).read_bytes())
        for at in rng.integers(min(len(content), 400), size=3):
            content[at] = rng.integers(256)
        yield f"damaged {name} {number}", _replaced(whole, work, name, bytes(content))


def _use(folder: Path) -> None:
    fingerprint(folder)
    load_card(folder)
    out = AudioDEAR.from_pretrained(folder, device="cpu").generate("a dog", seed=0)
    assert out.sound.isfinite().all() and out.mel.isfinite().all()


def _fields(data: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in data.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from _fields(value, f"{prefix}{name}.")


def _write_config(folder: Path, data: dict[str, Any], changes: dict[str, Any]) -> None:
    data = json.loads(json.dumps(data))
    for path, value in changes.items():
        *parts, name = path.split(".")
        part = data
        for each in parts:
            part = part[each]
        part[name] = value
    (folder / "config.json").write_text(json.dumps(data))


class _copy:
    """A copy of the checkpoint for the time of a block."""

    def __init__(self, whole: Path, work: Path):
        self.whole, self.work = whole, work

    def __enter__(self) -> Path:
        self.folder = Path(tempfile.mkdtemp(dir=self.work))
        shutil.copytree(self.whole, self.folder, dirs_exist_ok=True)
        return self.folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder)


def _replaced(whole: Path, work: Path, name: str, content: bytes | Callable[[Path], object]) -> Callable[[], None]:
    def case() -> None:
        with _copy(whole, work) as folder:
            (folder / name).unlink()
            if callable(content):
                content(folder / name)
            else:
                (folder / name).write_bytes(content)
            _use(folder)

    return case


def _sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(2**40)


def _files(whole: Path, work: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    kinds: dict[str, bytes | Callable[[Path], object]] = {
        "pipe": os.mkfifo,
        "folder": os.mkdir,
        "endless device": lambda path: path.symlink_to("/dev/zero"),
        "link to itself": lambda path: path.symlink_to(path.name),
        "link to nowhere": lambda path: path.symlink_to("nowhere"),
        "no rights": lambda path: path.touch(0o000),
        "a terabyte of zeros": _sparse,
        "empty": b"",
        "UTF-16": "{}".encode("utf-16"),
        "Latin-1": "é".encode("latin-1"),
        "deep": b"[" * 200_000,
        "long number": b'{"name": ' + b"9" * 100_000 + b"}",
        "huge header": (2**62).to_bytes(8, "little") + b"{}",
        "wide header": (10_000_000).to_bytes(8, "little") + b" " * 10_000_000,
    }
    for name in NAMES:
        for kind, content in kinds.items():
            yield f"{name}: {kind}", _replaced(whole, work, name, content)


def _weights(whole: Path, work: Path, large: bool) -> Iterator[tuple[str, Callable[[], None]]]:
    for name in NAMES[1:4]:
        tensors = load_file(whole / name)
        keys = list(tensors)
        for key in keys if large else keys[:2] + keys[-1:]:
            for value in (math.nan, math.inf, -math.inf, 0.0, -1.0, 65_504.0, 1e-7):
                filled = tensors | {key: torch.full_like(tensors[key], value)}
                yield (
                    f"{name}: {key} = {value}",
                    _replaced(whole, work, name, lambda path, filled=filled: save_file(filled, path)),
                )
            for wrong in (tensors[key][..., None], tensors[key].to(torch.int64), tensors[key].to(torch.float64)):
                other = tensors | {key: wrong.contiguous()}
                yield (
                    f"{name}: {key} as {wrong.dtype} {list(wrong.shape)}",
                    _replaced(whole, work, name, lambda path, other=other: save_file(other, path)),
                )
