"""Operations on a finished sound: a variation, a loop, or another length."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from dear.audio import check_audio, fit_clip, resample
from dear.editing import CROSSFADE, encode, extend, redraw, request_tokens
from dear.masking import random_order
from dear.options import SamplingOptions
from dear.output import Output
from dear.randomness import seeded
from dear.rendering import Synthesizer
from dear.request import Progress, check_number, check_whole

SHORTEST, LONGEST = 1.0, 30.0  # seconds that a sound can be given
WRAP = 1.0  # seconds that are redrawn around the wrap of a loop, on either side
HEARD = 2.0  # seconds beyond them that the model hears


def vary(
    synthesizer: Synthesizer,
    audio: np.ndarray | Tensor,
    sample_rate: int,
    strength: float,
    prompt: str | Sequence[str],
    *,
    seed: int | None = None,
    num_samples: int = 1,
    progress: Progress | None = None,
    **options: Unpack[SamplingOptions],
) -> Output:
    """See :meth:`dear.AudioDEAR.vary`."""
    mel, length = synthesizer.config.mel, synthesizer.model.length
    samples = check_audio(audio)
    sample_rate = check_whole("sample_rate", sample_rate, 1000, 384_000)
    wanted = max(1, round(check_number("strength", strength, 0, 1) * length))
    if options.get("iterations") is not None:
        options["iterations"] = min(check_whole("iterations", options["iterations"], 1, length), wanted)
    request = request_tokens(
        synthesizer, prompt, options, wanted, seed=seed, num_samples=num_samples, progress=progress
    )
    clip = fit_clip(samples, sample_rate, mel.sample_rate, mel.frames * mel.hop_length)
    tokens, gain = encode(synthesizer, clip)
    # Each item chooses by its own seed what it redraws.
    chosen = [random_order(length, seeded(each)) for each in request.seeds]
    kept = torch.stack([order >= wanted for order in chosen])
    request = dataclasses.replace(
        request,
        given=tokens.expand(len(kept), -1, -1),
        given_mask=kept,
        settings=request.settings | {"strength": strength},
    )
    (out,) = synthesizer.run(request)
    return dataclasses.replace(out, waveform=(out.sound / gain).clamp(-1, 1), mel=out.mel - float(np.log(gain)))


def loop(
    synthesizer: Synthesizer,
    audio: np.ndarray | Tensor,
    sample_rate: int,
    prompt: str,
    *,
    seed: int | None = None,
    progress: Progress | None = None,
    **options: Unpack[SamplingOptions],
) -> Output:
    """See :meth:`dear.AudioDEAR.loop`."""
    rate = synthesizer.config.mel.sample_rate
    clip = synthesizer.config.mel.samples / rate
    mono = resample(check_audio(audio).mean(axis=0), check_whole("sample_rate", sample_rate, 1000, 384_000), rate)
    seconds, half = len(mono) / rate, len(mono) // 2
    if seconds < 2 * CROSSFADE + 0.1:
        raise ValueError(f"audio must last at least {2 * CROSSFADE + 0.1:g} seconds to be looped, got {seconds:g}")
    # The wrap lies in the middle, where it is redrawn like any region.
    turned, reach = np.roll(mono, half), min(WRAP, seconds / 4)
    middle = half / rate
    out = redraw(
        synthesizer, turned, rate, middle - reach, middle + reach, prompt, context=min(HEARD, clip), seed=seed,
        progress=progress, **options,
    )  # fmt: skip
    sound = out.sound[0].roll(-half)
    settings = {name: value for name, value in out.settings.items() if name not in ("start", "end", "context")}
    return dataclasses.replace(
        out,
        waveform=sound[None],
        mel=synthesizer.log_mel(sound, rate)[None],
        settings=settings | {"loop": reach},
    )


def fit(synthesizer: Synthesizer, out: Output, seconds: float, *, progress: Progress | None = None) -> Output:
    """See :meth:`dear.AudioDEAR.fit`."""
    seconds = check_number("seconds", seconds, SHORTEST, LONGEST)
    if len(out) != 1:
        raise ValueError(f"out must hold one sound, got {len(out)}")
    wanted, rate = round(seconds * out.sample_rate), out.sample_rate
    sound = out.sound[0]
    if wanted > len(sound):
        names = SamplingOptions.__annotations__
        options: Any = {name: value for name, value in _sampling(synthesizer, out).items() if name in names}
        added = (wanted - len(sound)) / rate
        longer = extend(
            synthesizer, sound, rate, max(added, 0.1), out.prompts[0], seed=out.seed + 1, progress=progress, **options
        )
        sound = longer.sound[0, :wanted]
        out = dataclasses.replace(out, timings={key: out.timings[key] + longer.timings[key] for key in out.timings})
    elif wanted < len(sound):
        fade = round(CROSSFADE * rate)
        sound = sound[:wanted].clone()
        sound[-fade:] *= torch.linspace(1, 0, fade)
    return dataclasses.replace(
        out,
        waveform=sound[None],
        mel=synthesizer.log_mel(sound, rate)[None],
        settings=out.settings | {"seconds": seconds},
    )


def _sampling(synthesizer: Synthesizer, out: Output) -> dict[str, Any]:
    """The options that ``out`` was drawn with."""
    names = [each.name for each in dataclasses.fields(synthesizer.sampling)]
    chosen = {name: out.settings[name] for name in names}
    savings = type(synthesizer.sampling.savings)
    return chosen | {
        "savings": savings(**chosen["savings"]) if isinstance(chosen["savings"], dict) else chosen["savings"]
    }
