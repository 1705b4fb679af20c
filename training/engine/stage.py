"""The shared parts of the commands that train one model: arguments, data, codec, monitoring, and the checkpoint."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dear.card import model_card
from dear.checkpoint import load_codec, save_checkpoint
from dear.codec import CODECS, VOCODERS
from dear.codec.base import Codec, Vocoder
from dear.conditioning import build_text_encoder
from dear.config import ConfigError
from dear.files import DamagedError, write_json
from dear.model import MaskedModel
from dear.pipeline import AudioDEAR
from training.cache.tokens import Cache, CacheError
from training.data.manifest import read_manifest
from training.engine.board import Board
from training.engine.plan import plan, shown
from training.engine.provenance import command_line, facts, git_commit
from training.engine.recipe import ModelRecipe
from training.engine.task import Task
from training.engine.throughput import measured_peak, peak_memory, step_flops
from training.engine.trainer import train
from training.store.encoding import encode_for
from training.store.sharding import EncodeConfig
from training.store.shards import ShardedCache


class TokenCache(Protocol):
    """A source of tokens: :class:`training.cache.tokens.Cache` or :class:`training.store.shards.ShardedCache`."""

    stamp: dict[str, Any]

    def __len__(self) -> int: ...

    def indices(self, step: int, batch_size: int, seed: int) -> np.ndarray: ...

    def batch(self, indices: Sequence[int] | np.ndarray) -> dict[str, Tensor]: ...


def open_cache(source: str, rank: int = 0, world: int = 1, parts: int = 0) -> TokenCache:
    """The finished cache at ``source``: a folder of arrays, or shards in a folder or at an address.

    rank, world: of this process among those that share each batch. Shards are then read by their own process only.
    parts: micro-batches of a step over all processes, which the order of shards depends on; 0: one per process.
    Raises CacheError.
    """
    if (Path(source) / "tokens.npy").exists():
        return Cache(source)
    return ShardedCache(source, rank=rank, world=world, lanes=parts)


def command(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with the arguments that the commands share."""
    parser = argparse.ArgumentParser(
        prog=f"python -m training.{name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="a recipe, as in training/configs")
    parser.add_argument("--data", help="a cache: a folder, or the address of shards; or a manifest")
    parser.add_argument("--cache", help="where the shards of a manifest lie, or are encoded to on first use")
    parser.add_argument("--held-out", help="a cache to measure the loss on, every validate_every steps")
    parser.add_argument("--codec", type=Path, help="a checkpoint folder, for codecs that are trained here")
    parser.add_argument("--out", type=Path, help="states, logs, samples and the checkpoint")
    parser.add_argument("--max-steps", type=int, help="stop after that many steps of the run; the schedule stays")
    parser.add_argument("--peak", type=float, help="TFLOP/s of one device, for its utilisation; measured where absent")
    parser.add_argument("--dry-run", action="store_true", help="print shapes, memory, days and loads, and stop")
    return parser


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, needed: Sequence[str] = ("data", "out")
) -> argparse.Namespace:
    """The options, and the command line as ``prog`` and ``arguments``. arguments: None for those of the process.

    needed: options without which only a dry run can do.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(arguments, argparse.Namespace(prog=parser.prog, arguments=arguments))
    missing = [f"--{name}" for name in needed if getattr(options, name) is None]
    if missing and not options.dry_run:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    return options


def dry_run(recipe: ModelRecipe, options: argparse.Namespace) -> None:
    """Print what the run would need. Reads no more of ``--data``, if it is given, than its size."""
    conditioning, items = recipe.model.conditioning.max_tokens, None
    if options.data and options.data.endswith(".jsonl"):
        items = len(read_manifest(options.data))
    elif options.data:
        cache = open_cache(options.data)
        conditioning, items = cache.batch([0])["conditioning"].shape[1], len(cache)
    print(shown(plan(recipe, conditioning, items, options.peak)))


class Stage:
    """One run of a command, in each of its processes."""

    def __init__(self, recipe: ModelRecipe, options: argparse.Namespace):
        if options.max_steps is not None and options.max_steps < 1:
            raise ConfigError(f"--max-steps must be at least 1, got {options.max_steps}")
        if options.peak is not None and not options.peak > 0:
            raise ConfigError(f"--peak must be above 0, got {options.peak}")
        self.recipe = recipe
        self.options = options
        self.process = Accelerator(mixed_precision="no")  # as in training.engine.trainer
        self.commit = git_commit()  # of the loaded code, even if another commit is checked out during the run
        self.conditioning = 0  # T of the training data, once it is open
        self.data: tuple[dict[str, Any], int] = ({}, 0)  # its stamp and number of items, once it is open
        self.codec = self._codec()

    def _codec(self) -> tuple[Codec, Vocoder] | None:
        """(vae, vocoder) in the first process, if the checkpoint or the samples need them; otherwise None."""
        config, folder = self.recipe.model, self.options.codec
        vae, vocoder = CODECS[config.vae.kind], VOCODERS[config.vocoder.kind]
        own = not vae.files or not (vocoder.files or vocoder.weightless)  # the checkpoint must hold their weights
        if own and folder is None:
            raise ConfigError(
                "--codec must name a checkpoint with the weights of "
                f"vae.kind {config.vae.kind!r} and vocoder.kind {config.vocoder.kind!r}, got none"
            )
        if not self.process.is_main_process or not (own or self.recipe.samples.every):
            return None
        try:
            return load_codec(folder or Path(), config, self.process.device)
        except (ValueError, OSError) as error:
            if own:
                raise
            print(f"no samples: {error}", file=sys.stderr)  # samples are optional
            return None

    def new_model(self) -> MaskedModel:
        """A new model, whose initial weights depend only on the recipe."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.train.seed)
            return MaskedModel(self.recipe.model)

    def caches(self) -> tuple[TokenCache, TokenCache | None]:
        """The training data and the held-out data, after checks that their shapes fit the model."""
        rank, world = self.process.process_index, self.process.num_processes
        held_out = open_cache(self.options.held_out) if self.options.held_out else None
        cache = open_cache(self._data(), rank, world, self.recipe.train.parts(world))
        for name, one in (("--held-out", held_out), ("--data", cache)):
            if one is not None:
                self.conditioning = self._check(name, one)
        self.data = (cache.stamp, len(cache))
        return cache, held_out

    def _data(self) -> str:
        """The cache that ``--data`` names. A manifest is encoded first, by all processes together."""
        data, cache, config = self.options.data, self.options.cache, self.recipe.model
        if not data.endswith(".jsonl"):
            return data
        if cache is None:
            raise ConfigError(
                f"--cache must name a folder for the encoded manifest {data}, got none; or encode it first: "
                f"python -m training.encode --manifest {data} --config {self.options.config} --out CACHE"
            )
        entries, device, codec = read_manifest(data), self.process.device, self.options.codec
        worker = (self.process.process_index, self.process.num_processes)
        encode_for(config, entries, Path(cache), codec, device, EncodeConfig(), worker)
        self.process.wait_for_everyone()
        return cache

    def _check(self, name: str, cache: TokenCache) -> int:
        """T of a cache. Raises CacheError where its shapes do not fit the model."""
        batch, config = cache.batch([0]), self.recipe.model
        found = (*batch["tokens"].shape[1:], batch["conditioning"].shape[2])
        wanted = (config.length, config.vae.token_dim, config.conditioning.dim)
        if found != wanted:
            shapes = "{} tokens of {} values behind conditioning of {} values"
            raise CacheError(f"{name} must hold {shapes.format(*wanted)}, got {shapes.format(*found)}")
        return batch["conditioning"].shape[1]

    def train(self, task: Task[MaskedModel], name: str) -> None:
        """Train, and write the checkpoint and the summary."""
        recipe, options, config = self.recipe, self.options, self.recipe.train
        work = self._work(task)
        amounts = {"steps": 1.0, "tokens": work["tokens_per_step"]}
        amounts["utilisation"] = work["flops_per_step"] / work["processes"] / work["peak_flops_per_second"]
        options.out.mkdir(parents=True, exist_ok=True)
        pipeline = self._pipeline(task)
        samples = recipe.samples
        generate = None if pipeline is None else partial(pipeline.generate, samples.prompts, seed=samples.seed)
        history = recipe.history
        keep = partial(self._keep, task.module, work)
        board = Board(options.out, amounts, recipe.model.mel, samples.every, generate, history.every, keep)
        with contextlib.closing(board):
            averaged = train(task, config, options.out, name, board, options.max_steps)
        if self.process.is_main_process:
            steps, seconds = done(options.out / "log.jsonl")
            self._export(averaged.cpu(), steps, work, options.out / "checkpoint")
            rates = {f"{key}_per_second": value * steps / seconds for key, value in amounts.items()}
            rates["utilisation"] = rates.pop("utilisation_per_second")
            memory = peak_memory(self.process.device)
            summary = {"steps": steps, "seconds": seconds, **rates, **work, "peak_memory": memory}
            write_json(options.out / "summary.json", summary)
            print(
                f"{name}: {steps} steps, {rates['steps_per_second']:.3g} steps/s, "
                f"{rates['tokens_per_second']:.3g} tokens/s, {work['flops_per_step']:.3g} FLOP per step, "
                f"{rates['utilisation']:.1%} of {work['processes']} x {work['peak_flops_per_second']:.3g} FLOP/s "
                f"({work['peak']}), {memory / 2**30:.2f} GiB",
                file=sys.stderr,
            )

    def _work(self, task: Task[MaskedModel]) -> dict[str, Any]:
        """The work of a step, and the peak rate of the device."""
        recipe, options, config = self.recipe, self.options, self.recipe.train
        distill = recipe.distill
        flops = step_flops(
            recipe.model,
            recipe.variant,
            config.batch_size,
            self.conditioning,
            recipe.masking.mean_share,
            teacher=distill is not None and distill.weight > 0,
            frozen=distill is not None and distill.freeze,
            targets=recipe.masking.targets,
        )
        device = self.process.device
        return {
            "parameters": sum(parameter.numel() for parameter in task.module.parameters()),
            "trained_parameters": sum(p.numel() for p in task.module.parameters() if p.requires_grad),
            "tokens_per_step": config.batch_size * recipe.model.length,
            "flops_per_step": flops,
            "peak": "stated" if options.peak else "measured",
            "peak_flops_per_second": options.peak * 1e12 if options.peak else measured_peak(device, config.precision),
            "processes": self.process.num_processes,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        }

    def _pipeline(self, task: Task[MaskedModel]) -> AudioDEAR | None:
        """The model in training as a pipeline; None where no samples are wanted or possible."""
        recipe = self.recipe
        if self.codec is None or not recipe.samples.every:
            return None
        try:
            text_encoder = build_text_encoder(recipe.model.conditioning, self.process.device)
        except (ValueError, OSError) as error:
            print(f"no samples: {error}", file=sys.stderr)
            return None
        return AudioDEAR(recipe.model, recipe.variant, task.module, *self.codec, text_encoder)

    def _keep(self, model: MaskedModel, work: Mapping[str, Any], step: int) -> None:
        """Keep a checkpoint of these weights, and remove the earliest ones beyond the number of the recipe."""
        folder = self.options.out / "history"
        self._export(model, step, work, folder / f"step-{step:07d}")
        if keep := self.recipe.history.keep:
            for old in sorted(folder.glob("step-*"))[:-keep]:
                shutil.rmtree(old)

    def _export(self, model: MaskedModel, steps: int, work: Mapping[str, Any], folder: Path) -> None:
        recipe, options, config = self.recipe, self.options, self.recipe.model
        about = (
            f"Averaged weights after {steps:,} of {recipe.train.steps:,} steps of {recipe.train.batch_size:,} sounds; "
            f"{work['trained_parameters']:,} of {work['parameters']:,} parameters were trained."
        )
        command = command_line(options.prog, options.arguments, work["processes"])
        card = model_card(config, facts(config, *self.data, about, command, self.commit))
        # A codec whose source the configuration names is not part of the checkpoint.
        parts: tuple[nn.Module, nn.Module] = self.codec or (nn.Module(), nn.Module())
        vae, vocoder = parts
        save_checkpoint(folder, config, {recipe.variant: model}, vae, vocoder, card)


def done(log: Path) -> tuple[int, float]:
    """Steps and seconds of a run so far, from the last line of its log. Raises DamagedError where that holds none."""
    try:
        line = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
        return line["step"], line["seconds"]
    except (ValueError, LookupError, TypeError) as error:
        raise DamagedError(f"{log} is damaged ({error!r:.200}); remove it") from None
