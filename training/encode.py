"""Encode manifests to a sharded cache: tokens by the codec, conditioning by the text encoder.

    python -m training.encode --manifest audiocaps.jsonl wavcaps.jsonl --config training/configs/mini.yaml \\
        --codec assets/mini --out cache

    torchrun --nproc_per_node 8 -m training.encode ...

Under ``torchrun`` or ``accelerate launch``, on one machine or several that share ``--out``, each process is a worker
with a GPU of its own. Without a launcher, start workers with ``--worker 0/4``, ``--worker 1/4`` and so on. A killed
worker resumes when it is started again; the last worker writes the stamp. The cache does not depend on the number of
workers or on interruptions (on devices that compute alike).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path

import torch

from dear.config import Config
from dear.pipeline import check_device
from training.data.manifest import read_manifest
from training.engine.recipe import load_recipe
from training.runtime.commands import guarded
from training.store.encoding import encode_for
from training.store.sharding import EncodeConfig


def worker(text: str) -> tuple[int, int]:
    first, _, count = text.partition("/")
    return int(first), int(count)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.encode", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", type=Path, nargs="+", required=True, help="one or several, mixed")
    parser.add_argument("--config", type=Path, required=True, help="a recipe; only its section model is used")
    parser.add_argument("--codec", type=Path, help="checkpoint folder, for codecs that are trained here")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cache")
    launched = tuple(int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    parser.add_argument(
        "--worker",
        type=worker,
        default=launched,
        help="i/n: every n-th shard, from shard i on; default: the launcher's",
    )
    gpu = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    parser.add_argument("--device", default=gpu if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true", help="text encoders in bfloat16")
    for field in dataclasses.fields(EncodeConfig):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    options = parser.parse_args(arguments)

    def run() -> None:
        config = EncodeConfig(
            **{field.name: getattr(options, field.name) for field in dataclasses.fields(EncodeConfig)}
        )
        model = load_recipe(options.config, Config, "model")
        entries = [entry for path in options.manifest for entry in read_manifest(path)]
        device = check_device(options.device, "--device")
        precision = torch.bfloat16 if options.bf16 else torch.float32
        finished = encode_for(model, entries, options.out, options.codec, device, config, options.worker, precision)
        print(f"{options.out}: {'finished' if finished else 'this part is finished, others are not'}")

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
