"""The endpoints for programs. Their errors are the sentences of the pipeline.

Annotations are evaluated in this file, because Gradio reads the types of an endpoint from them.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder, is_in_or_equal

from dear.audio import AudioError, read_sound
from dear.conditioning import check_prompt
from dear.output import Output
from dear.pipeline import AudioDEAR
from dear.request import check_number, check_whole
from dear.ui.components.axes import grid
from dear.ui.components.controls import MAX_CANDIDATES
from dear.ui.components.files import store
from dear.ui.components.runs import QUEUE
from dear.ui.gpu import on_gpu
from dear.ui.metrics import counted
from dear.ui.model_registry import ModelRegistry
from dear.ui.tabs.compare import MAX_SOUNDS
from dear.ui.tabs.edit import MAX_SECONDS
from dear.ui.turns import stop_if_left


def endpoints(models: ModelRegistry, folder: Path) -> None:
    """Add the endpoints to the current Blocks. Files of results go into ``folder``."""

    def model_of(variant: str | None) -> AudioDEAR:
        return models.get(None, variant)

    @on_gpu()
    def generate(
        prompt: str,
        cfg_scale: float | None = None,
        iterations: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        steps: int | None = None,
        variant: str | None = None,
        candidates: int = 1,
    ) -> tuple[gr.FileData, dict[str, Any]]:
        """Generate ten seconds of sound from a prompt. Returns the WAV file, and the seed, settings, seconds and what
        the model knew of each part of the prompt.

        Parameters:
            prompt: what should be heard, 1 to 1000 characters
            cfg_scale: how closely to follow the prompt, 0 to 20; null for the model's default, here and below
            iterations: decoding iterations, 1 to the number of tokens
            temperature: 0 to 2
            seed: a whole number from 0; the same seed gives the same sound; null for a random one
            steps: of the head for each token; 1 for a one-step model
            variant: of the checkpoint, such as student or teacher; null for the page's own
            candidates: sounds to generate, 1 to 8; the one in which the bundled classifier hears the prompt most
                surely is kept
        """
        with _plain_errors():
            candidates = check_whole("candidates", candidates, 1, MAX_CANDIDATES)
            check_prompt(prompt)  # the pipeline would take a list
            out = model_of(variant).generate(
                prompt,
                cfg_scale=cfg_scale,
                iterations=iterations,
                temperature=temperature,
                seed=seed,
                steps=steps,
                candidates=candidates,
                progress=stop_if_left,
            )
        return _file(out), _facts(out)

    @on_gpu()
    def compare(
        prompt: str,
        cfg_scales: list[float] = [1, 2, 3, 4, 5, 6],  # noqa: B006 - the default that clients are shown
        iterations: list[int] | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        steps: int | None = None,
        variant: str | None = None,
    ) -> tuple[list[gr.FileData], list[dict[str, Any]]]:
        """Generate one prompt and seed under each pair of settings. Returns the WAV files, and the facts of each.

        Parameters:
            prompt: what should be heard, 1 to 1000 characters
            cfg_scales: numbers from 0 to 20
            iterations: whole numbers from 1 to the number of tokens; null for the model's default
            temperature: 0 to 2; null for the model's default
            seed: a whole number from 0, the same for all; null for a random one
            steps: of the head for each token; null for the model's default
            variant: of the checkpoint, such as student or teacher; null for the page's own
        """
        with _plain_errors():
            check_prompt(prompt)
            model = model_of(variant)
            iterations = [model.sampling.iterations] if iterations is None else iterations
            for name, given in (("cfg_scales", cfg_scales), ("iterations", iterations)):
                if not isinstance(given, list) or any(isinstance(each, list | dict) for each in given):
                    raise ValueError(f"{name} must be a list of numbers, got {given!r:.60}")
            if not 1 <= len(set(cfg_scales)) * len(set(iterations)) <= MAX_SOUNDS:
                raise ValueError(
                    f"cfg_scales and iterations must make 1 to {MAX_SOUNDS} sounds together, got "
                    f"{len(cfg_scales)} x {len(iterations)}"
                )
            settings = grid(("cfg_scale", cfg_scales), ("iterations", iterations))
            first = secrets.randbelow(2**32) if seed is None else seed
            options: dict[str, Any] = {"temperature": temperature, "seed": first, "steps": steps}
            for each in settings:  # all are checked before the first is generated
                model.stream(prompt, **each, **options)
            outs = [model.generate(prompt, progress=stop_if_left, **each, **options) for each in settings]
        return [_file(out) for out in outs], [_facts(out) for out in outs]

    @on_gpu()
    def inpaint(
        audio: gr.FileData,
        start: float,
        end: float,
        prompt: str,
        cfg_scale: float | None = None,
        iterations: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        steps: int | None = None,
        variant: str | None = None,
        context: float = 0,
    ) -> tuple[gr.FileData, dict[str, Any]]:
        """Redraw a region of a sound. The rest stays the same, sample for sample. Returns the WAV file and its facts.

        Parameters:
            audio: a sound of at most one minute; over MCP its public address, or data:audio/wav;base64,...
            start: seconds at which the region begins
            end: seconds at which it ends, at most one clip later
            prompt: what should be heard there, 1 to 1000 characters
            cfg_scale: 0 to 20; null for the model's default, here and below
            iterations: decoding iterations, 1 to the number of tokens; at most one per token of the region
            temperature: 0 to 2
            seed: a whole number from 0; null for a random one
            steps: of the head for each token; 1 for a one-step model
            variant: of the checkpoint, such as student or teacher; null for the page's own
            context: seconds on either side that the model hears, up to one clip; less follows the prompt better
        """
        with _plain_errors():
            check_prompt(prompt)
            model = model_of(variant)
            out = model.redraw(
                _read(audio, model), model.sample_rate, start, end, prompt, context=context,
                cfg_scale=cfg_scale, iterations=iterations, temperature=temperature, seed=seed, steps=steps,
                progress=stop_if_left,
            )  # fmt: skip
        return _file(out), _facts(out)

    @on_gpu()
    def extend(
        audio: gr.FileData,
        seconds: float,
        prompt: str,
        cfg_scale: float | None = None,
        iterations: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        steps: int | None = None,
        variant: str | None = None,
    ) -> tuple[gr.FileData, dict[str, Any]]:
        """Continue a sound past its end. Returns the WAV file of the whole, and its facts.

        Parameters:
            audio: a sound of at most one minute; over MCP its public address, or data:audio/wav;base64,...
            seconds: seconds to add, at most 60
            prompt: what should be heard there, 1 to 1000 characters
            cfg_scale: 0 to 20; null for the model's default, here and below
            iterations: decoding iterations per clip, 1 to its number of tokens
            temperature: 0 to 2
            seed: a whole number from 0; null for a random one
            steps: of the head for each token; 1 for a one-step model
            variant: of the checkpoint, such as student or teacher; null for the page's own
        """
        with _plain_errors():
            check_prompt(prompt)
            check_number("seconds", seconds, 0.1, MAX_SECONDS)
            model = model_of(variant)
            out = model.extend(
                _read(audio, model), model.sample_rate, seconds, prompt,
                cfg_scale=cfg_scale, iterations=iterations, temperature=temperature, seed=seed, steps=steps,
                progress=stop_if_left,
            )  # fmt: skip
        return _file(out), _facts(out)

    def _file(out: Output) -> gr.FileData:
        path = store(out, folder)
        return gr.FileData(path=path, orig_name=Path(path).name, mime_type="audio/wav")

    for endpoint in (generate, compare, inpaint, extend):
        gr.api(counted(endpoint), api_name=endpoint.__name__, **QUEUE)


def _facts(out: Output) -> dict[str, Any]:
    nearest = [asdict(part) for part in out.nearest[0].parts] if out.nearest else []
    return {"seed": out.seed, "settings": out.settings, "timings": out.timings, "nearest": nearest}


def _read(audio: Any, model: AudioDEAR) -> np.ndarray:
    """The sound of an uploaded file, mono at the model's rate. Callers must not name other files of this machine."""
    path = audio.get("path") if isinstance(audio, dict) else getattr(audio, "path", None)
    if not isinstance(path, str) or not is_in_or_equal(path, get_upload_folder()):
        raise AudioError(f"audio must be an uploaded file, got {audio!r:.80}")
    return read_sound(path, model.sample_rate, MAX_SECONDS, Path(path).name)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Report the message of the pipeline unchanged, without a traceback."""
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        raise gr.Error(str(error), print_exception=False) from None
