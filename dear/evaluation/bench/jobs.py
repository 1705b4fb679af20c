"""The benchmark's own rows: the base size with random weights, a checkpoint, and a fresh process."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from tqdm import tqdm

import dear
from dear.checkpoint import load_config, resolve
from dear.codec import build_vae, build_vocoder
from dear.codec.base import Codec
from dear.conditioning import Conditioning
from dear.config import FAST, Config, SamplingConfig, Savings
from dear.evaluation.bench.machine import resident_bytes
from dear.evaluation.bench.naive import naive_generate, sampled
from dear.evaluation.bench.timing import Job, Meter, Setting
from dear.layers import shapes_alone
from dear.masking import random_mask
from dear.model import MaskedModel
from dear.output import Output
from dear.presets import preset
from dear.sampling import generate

if TYPE_CHECKING:
    from dear.pipeline import AudioDEAR

BASE = (
    "base-ours",
    "base-fast",
    "base-compiled",
    "base-full",
    "base-naive-student",
    "base-naive-teacher",
    "base-end-to-end",
)
STAGES = ("text", "decode", "codec", "vocoder")
PROMPT = "a dog barks in the distance"
MANY = 4  # consecutive batches


def base_job(
    name: str,
    setting: Setting,
    student: Config | None = None,
    teacher: Config | None = None,
    sampling: SamplingConfig | None = None,
) -> Job:
    """A row of the base size.

    student, teacher: configurations; None for ``base-visible`` in rows with "visible" attention, for ``base`` and
    ``base-teacher``, the paper's, in the others. sampling: options of this project's rows; None for those of the
    configuration, in "base-fast" with the recommended savings.
    """
    visible = name in ("base-ours", "base-fast", "base-compiled", "base-end-to-end")
    compiled = name == "base-compiled"
    if name == "base-naive-teacher":
        config = teacher or preset("base-teacher")
    else:
        config = student or preset("base-visible" if visible else "base")
    model = _model(config, "visible" if visible else "full", setting, compiled)
    if name.startswith("base-naive"):
        return _naive_job(name, model, setting)
    sampling = sampling or config.variants[config.default_variant].sampling
    if name == "base-fast":
        sampling = dataclasses.replace(sampling, savings=FAST)
    job = _own_job(name, model, setting, sampling, codec=name == "base-end-to-end")
    return compiled_job(job, model) if compiled else job


def _model(config: Config, attention: Literal["full", "visible"], setting: Setting, compiled: bool) -> MaskedModel:
    """A model with random weights, which all forms of it share."""
    changed = dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, masked_attention=attention))

    def first() -> MaskedModel:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return MaskedModel(config)

    def view() -> MaskedModel:
        with shapes_alone():
            model = MaskedModel(changed)
        model.load_state_dict(setting.place(config.name, first).state_dict(), assign=True)
        return model

    return setting.place((config.name, attention, compiled), view)


def _conditioning(model: MaskedModel, setting: Setting) -> Conditioning:
    """Random conditioning with the text encoder's largest number of tokens."""
    wanted = model.config.conditioning
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(setting.batch, wanted.max_tokens, wanted.dim, generator=generator)
    return Conditioning(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool)).to(setting.device, setting.dtype)


def _own_job(name: str, model: MaskedModel, setting: Setting, sampling: SamplingConfig, codec: bool) -> Job:
    config = model.config
    conditioning = _conditioning(model, setting)
    others: tuple[Codec, nn.Module] | None = None
    notes = "random weights, only decoding"
    if codec:
        others = (
            setting.place("base-vae", lambda: build_vae(config.vae, config.mel), torch.float32),
            setting.place("base-vocoder", lambda: build_vocoder(config.vocoder, config.mel), torch.float32),
        )
        notes = "random weights, text encoding left out, codec in float32"
    if sampling.savings != Savings():
        notes += f", {_shown(sampling.savings)}"

    @torch.no_grad()
    def run(meter: Meter) -> None:
        with meter.stage("decode"):
            for state in generate(model, conditioning, range(setting.batch), sampling):
                tokens = state.tokens
        if others is not None:
            with meter.stage("codec"):
                mel = others[0].decode(tokens.float())
            with meter.stage("vocoder"):
                others[1](mel)

    return Job(
        name,
        run,
        setting.batch,
        config.mel.samples / config.mel.sample_rate,
        model,
        others or (),
        precision_name(setting.dtype),
        sampling.iterations,
        sampling.steps,
        f"all {sampling.iterations} iterations",
        f'"{config.backbone.masked_attention}" attention, {notes}',
    )


def _naive_job(name: str, model: MaskedModel, setting: Setting) -> Job:
    config = model.config
    sampling = config.variants[model.variant].sampling
    conditioning = _conditioning(model, setting)
    every = sampling.iterations
    timed = every if setting.timed is None else min(setting.timed, every)
    weights = sampled(every, timed)

    def run(meter: Meter) -> None:
        states = naive_generate(model, conditioning, range(setting.batch), sampling, weights)
        for weight in weights.values():
            with meter.stage("decode", weight):
                next(states)

    return Job(
        name,
        run,
        setting.batch,
        config.mel.samples / config.mel.sample_rate,
        model,
        (),
        precision_name(setting.dtype),
        every,
        sampling.steps,
        f"all {every} iterations" if timed == every else f"timed {timed} of {every} iterations, multiplied",
        f'"{config.backbone.masked_attention}" attention, random weights, only decoding',
    )


def pipeline_run(generate: Callable[[], Sequence[Output]], threads: int | None = None) -> Callable[[Meter], None]:
    """A job's ``run`` for calls of a pipeline, whose own timings split the stages; the remainder is "rest"."""

    def run(meter: Meter) -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads or before)
        try:
            with meter.stage("rest"):
                outputs = generate()
        finally:
            torch.set_num_threads(before)
        for out in outputs:
            meter.split("rest", {name: out.timings[name] for name in STAGES})

    return run


def checkpoint_job(name: str, pipeline: AudioDEAR, batch: int, **options: Any) -> Job:
    """A checkpoint from prompt to waveform, with its default options except for ``options``."""
    sampling = dataclasses.replace(pipeline.sampling, **options)
    savings = "" if sampling.savings == Savings() else f", {_shown(sampling.savings)}"
    dtype = next(pipeline.model.parameters()).dtype
    codec = tuple(each for each in (pipeline.vae, pipeline.vocoder) if isinstance(each, nn.Module))
    return Job(
        name,
        pipeline_run(lambda: [pipeline.generate(PROMPT, seed=0, num_samples=batch, **options)]),
        batch,
        pipeline.config.mel.samples / pipeline.sample_rate,
        pipeline.model,
        codec,
        precision_name(dtype),
        sampling.iterations,
        sampling.steps,
        "whole calls",
        f"{pipeline.config.name}/{pipeline.variant}{savings}, parameters and memory without the text encoder",
    )


def many_job(name: str, pipeline: AudioDEAR, batch: int) -> Job:
    """Like :func:`checkpoint_job`, per batch of ``MANY``. A GPU renders each batch while it decodes the next."""
    prompts = [PROMPT] * (MANY * batch)

    def run(meter: Meter) -> None:
        with meter.stage("rest", 1 / MANY):
            for _ in pipeline.generate_many(prompts, batch=batch, seed=0):
                pass

    job = checkpoint_job(name, pipeline, batch)
    return dataclasses.replace(job, run=run, timed=f"{MANY} batches in a row, divided")


def compiled_job(job: Job, model: MaskedModel) -> Job:
    """The job with its ``model`` compiled. No other job may share the model."""
    return dataclasses.replace(job, compile=model.compile_sampling, notes=f"{job.notes}, compiled")


def start_job(model: str | None, device: torch.device, threads: int | None) -> Job:
    """A fresh process in the device's default precision, timed until it has written a sound and ended."""
    from dear.pipeline import best_dtype

    environment = os.environ | {"PYTHONPATH": str(Path(dear.__file__).parents[1])}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)

    def run(meter: Meter) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "sound.wav"
            command = [sys.executable, "-m", "dear", "generate", PROMPT, "--seed", "0", "--device", str(device)]
            command += ["-o", str(path), *([] if model is None else ["--model", model])]
            with meter.stage("rest"):
                done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise ValueError(f"python -m dear generate ended with status {done.returncode}: {reason}")

    config = load_config(resolve(model, variants=()))
    sampling = config.variants[config.default_variant].sampling
    return Job(
        "start",
        run,
        1,
        config.mel.samples / config.mel.sample_rate,
        None,
        (),
        precision_name(best_dtype(device, config.backbone.width)),
        sampling.iterations,
        sampling.steps,
        "process start to written file",
    )


def import_job() -> Job:
    """A fresh process that only imports torch, which is the part of a start that this project cannot shorten."""

    def run(meter: Meter) -> None:
        with meter.stage("rest"):
            subprocess.run([sys.executable, "-c", "import torch"], check=True)

    return Job(
        "start-torch", run, 1, 0.0, None, (), precision_name(torch.float32), None, None, "python -c 'import torch'"
    )


def training_job(setting: Setting, config: Config | None = None) -> Job:
    """A training step of the base student without distillation: loss, gradients, AdamW. Random data; on CUDA in
    bfloat16, as the recipes train."""
    config = config or preset("base")
    device = setting.device
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = MaskedModel(config).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(setting.batch, model.length, model.token_dim, generator=generator).to(device)
    conditioning = _conditioning(model, dataclasses.replace(setting, dtype=torch.float32))
    hidden = random_mask(setting.batch, model.length, (0.7, 1.0), generator).to(device)
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

    def run(meter: Meter) -> None:
        with meter.stage("step"):
            with mixed:
                loss = model.loss(tokens, conditioning, hidden, generator).mean()
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()

    return Job(
        "base-training",
        run,
        setting.batch,
        config.mel.samples / config.mel.sample_rate,
        model,
        (),
        "bfloat16" if device.type == "cuda" else "float32",
        None,
        None,
        "one step",
        "random weights and data, no distillation, parameters without gradients and moments",
    )


def soak(pipeline: AudioDEAR, count: int) -> dict[str, Any]:
    """Memory that the process holds before, after the first tenth (at least one), and after ``count`` generations.

    On CUDA also what tensors hold of the device's. None where the system does not tell.
    """
    first = max(1, count // 10)
    memory: dict[str, int | None] = {}

    def note(moment: str) -> None:
        memory[f"{moment}_bytes"] = resident_bytes()
        if pipeline.device.type == "cuda":
            memory[f"{moment}_device_bytes"] = torch.cuda.memory_allocated(pipeline.device)

    note("start")
    for seed in tqdm(range(count), desc="soak", unit="sound", disable=None):
        pipeline.generate(PROMPT, seed=seed)
        if seed + 1 == first:
            note("warm")
    note("end")
    for kind in ("", "device_") if "end_device_bytes" in memory else ("",):
        warm, end = memory[f"warm_{kind}bytes"], memory[f"end_{kind}bytes"]
        memory[f"growth_{kind}bytes"] = None if warm is None or end is None else end - warm
    return {"generations": count, "warm_generations": first, **memory}


def _shown(savings: Savings) -> str:
    """The options that differ from the defaults, as text."""
    default = dataclasses.asdict(Savings())
    return ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(savings).items() if value != default[name])


def precision_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
