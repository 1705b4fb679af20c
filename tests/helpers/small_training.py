"""Small models, caches and recipes that train in a second."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml
from factory import tiny_checkpoint, tiny_config, tiny_models
from safetensors.torch import save_file

from dear.config import Config
from dear.files import sha256, write_json
from dear.heads import HEADS
from dear.model import MaskedModel
from training import teacher
from training.distill import DistilledModelling
from training.engine.recipe import DistillConfig, MaskingConfig
from training.engine.schedule import TrainConfig
from training.engine.trainer import train
from training.store.shards import Item, shard_name, write_shard

MASKING = MaskingConfig()


class Tokens:
    """A cache in memory: 24 items of the tiny model's shapes, behind 5 conditioning tokens."""

    stamp = {"made": "of noise"}  # noqa: RUF012 - plain data that nobody changes

    def __init__(self, dtype: torch.dtype = torch.float32):
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randn(24, 8, 16, generator=generator).to(dtype)
        self.conditioning = torch.randn(24, 5, 384, generator=generator).to(dtype)

    def __len__(self) -> int:
        return len(self.tokens)

    def indices(self, step: int, batch_size: int, seed: int) -> np.ndarray:
        return (np.arange(step * batch_size, (step + 1) * batch_size) * 5 + seed) % len(self)

    def batch(self, indices) -> dict[str, torch.Tensor]:
        index = torch.as_tensor(np.asarray(indices))
        mask = torch.ones(len(index), 5, dtype=torch.bool)
        return {"tokens": self.tokens[index], "conditioning": self.conditioning[index], "mask": mask}


class Distilled(DistilledModelling):
    """A tiny student under a tiny teacher; ``delay`` seconds per batch."""

    def __init__(
        self,
        distill: DistillConfig,
        dtype: torch.dtype = torch.float32,
        delay: float = 0.0,
        asked: list[slice] | None = None,
    ):
        """asked: receives the items that each batch is asked for."""
        models = {name: model.to(dtype) for name, model in tiny_models(tiny_config()).items()}
        super().__init__(models["student"], models["teacher"], "digest", Tokens(dtype), None, MASKING, distill, 8, 0)
        self.delay = delay
        self.asked = [] if asked is None else asked

    def batch(self, step: int, items: slice = slice(None)) -> dict[str, torch.Tensor]:
        time.sleep(self.delay)
        self.asked.append(items)
        return super().batch(step, items)


def config(**changes) -> TrainConfig:
    values = {"steps": 12, "batch_size": 8, "lr": 1e-3, "warmup": 2, "ema": 0.9, "save_every": 4, "log_every": 3}
    return TrainConfig(**{**values, **changes})


def state(folder: Path) -> dict:
    return torch.load(folder / "state.pt", weights_only=True)


def log(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "speed")} for line in lines]


def by_name(folder: Path, kind: str, **options: int) -> None:
    """A model with the head that ``kind`` names, and that has these options, trained for two steps."""
    base = tiny_config()
    variant = replace(
        base.variants["student"],
        head=HEADS[kind].Config(**{"width": 16, "depth": 1} | HEADS[kind].toy_options | options),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MaskedModel(replace(base, variants={"student": variant}))
    task = teacher.MaskedModelling(model, Tokens(), None, MASKING, 8, 0)
    train(task, config(steps=2, micro_batch=4, precision="bf16", validate_every=1), folder, kind)


def prepare(folder: Path) -> None:
    """A checkpoint with a codec, a cache, and recipes of both commands, all tiny."""
    tiny_checkpoint(folder / "tiny")
    cache(folder / "cache", tiny_config())
    for name in ("teacher", "student"):
        model = tiny_config()
        model = replace(model, name=name, variants={name: model.variants[name]})
        recipe = {
            "model": model.to_dict(),
            "train": {"steps": 6, "batch_size": 4, "micro_batch": 2, "lr": 1e-3, "warmup": 1, "precision": "bf16"},
            "samples": {"prompts": ["rain", "a dog barks"], "every": 2},
        }
        recipe["train"] |= {"validate_every": 2}
        if name == "student":
            recipe["distill"] = {"weight": 100.0}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(recipe))))


def cache(folder: Path, config: Config, items: int = 12, conditioning: int = 5) -> Path:
    """Noise in the format of ``training.cache.tokens``."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    shape = (items, config.length, config.vae.token_dim)
    np.save(folder / "tokens.npy", rng.standard_normal(shape, dtype=np.float32).astype(np.float16))
    tokens = torch.randn(items, conditioning, config.conditioning.dim, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(items, conditioning, dtype=torch.bool)
    save_file({"tokens": tokens.half(), "mask": mask}, folder / "conditioning.safetensors")
    table = {"captions": [str(i) for i in range(items)], "caption": list(range(items))}
    write_json(folder / "captions.json", table | {"labels": [[]] * items, "kind": ["noise"] * items})
    write_json(folder / "stamp.json", {"made": "of noise", "count": items})
    return folder


def write_shards(folder: Path, config: Config) -> None:
    """Noise in the format of ``training.store.shards``: 24 items in 6 shards."""
    folder.mkdir()
    rng, index = np.random.default_rng(0), []
    shapes = (config.length, config.vae.token_dim), (5, config.conditioning.dim)
    for number in range(6):
        items = [
            Item(f"{number}-{i}", *(rng.standard_normal(shape).astype(np.float16) for shape in shapes), {})
            for i in range(4)
        ]
        with open(folder / shard_name(number), "wb") as file:
            write_shard(file, items)
        index.append({"items": 4, "sha256": sha256(folder / shard_name(number))})
    write_json(folder / "index.json", {"shards": index})
    stamp = {"token_shape": shapes[0], "longest": 5, "conditioning_dim": shapes[1][1]}
    write_json(folder / "stamp.json", stamp | {"index": sha256(folder / "index.json")})


def arguments(folder: Path, name: str, *more: str, out: str = "out") -> list[str]:
    paths = {"config": f"{name}.yaml", "data": "cache", "held-out": "cache", "codec": "tiny", "out": out}
    return [text for key, path in paths.items() for text in (f"--{key}", str(folder / path))] + list(more)
