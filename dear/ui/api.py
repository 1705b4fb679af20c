"""The endpoints for programs. What they refuse, they refuse with the pipeline's own sentence.

Annotations are evaluated here: Gradio reads from them what an endpoint takes and returns.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder, is_in_or_equal

from dear.audio import AudioError, read_channels
from dear.conditioning import check_prompt
from dear.output import Output
from dear.pipeline import AudioDEAR
from dear.request import check_number
from dear.ui.components.parts import QUEUE, store
from dear.ui.gpu import on_gpu
from dear.ui.shelf import Shelf
from dear.ui.tabs.compare import pairs
from dear.ui.tabs.edit import LONGEST


def endpoints(shelf: Shelf, folder: Path) -> None:
    """Add the endpoints to the current Blocks. Files of results go into ``folder``."""

    def model_of(variant: str | None) -> AudioDEAR:
        return shelf.get(None, variant)

    @on_gpu(30)
    def generate(
        prompt: str,
        cfg_scale: float | None = None,
        iterations: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        steps: int | None = None,
        variant: str | None = None,
    ) -> tuple[gr.FileData, dict[str, Any]]:
        """Generate ten seconds of sound from a prompt. Returns the WAV file, and the seed, settings and seconds.

        Parameters:
            prompt: what should be heard, 1 to 1000 characters
            cfg_scale: how closely to follow the prompt, 0 to 20; null for the model's own default, as for all others
            iterations: passes in which the tokens are drawn, 1 to their number
            temperature: 0 to 2
            seed: a whole number from 0; the same seed gives the same sound; null for a random one
            steps: of the head for each token; 1 for a one-step model
            variant: of the checkpoint, such as student or teacher; null for the one that the page uses
        """
        with _told():
            check_prompt(prompt)  # the pipeline would take a list
            out = model_of(variant).generate(
                prompt, cfg_scale=cfg_scale, iterations=iterations, temperature=temperature, seed=seed, steps=steps
            )
        return _file(out), _facts(out)

    @on_gpu(60)
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
            iterations: whole numbers from 1 to the number of tokens; null for the model's own default
            temperature: 0 to 2; null for the model's own default
            seed: a whole number from 0, the same for all; null for a random one
            steps: of the head for each token; null for the model's own default
            variant: of the checkpoint, such as student or teacher; null for the one that the page uses
        """
        with _told():
            check_prompt(prompt)
            model = model_of(variant)
            iterations = [model.sampling.iterations] if iterations is None else iterations
            for name, given in (("cfg_scales", cfg_scales), ("iterations", iterations)):
                if not isinstance(given, list) or any(isinstance(each, list | dict) for each in given):
                    raise ValueError(f"{name} must be a list of numbers, got {given!r:.60}")
            settings = pairs(cfg_scales, iterations)
            first = secrets.randbelow(2**32) if seed is None else seed
            options: dict[str, Any] = {"temperature": temperature, "seed": first, "steps": steps}
            for scale, passes in settings:  # all are checked before the first is drawn
                model.stream(prompt, cfg_scale=scale, iterations=passes, **options)
            outs = [model.generate(prompt, cfg_scale=scale, iterations=passes, **options) for scale, passes in settings]
        return [_file(out) for out in outs], [_facts(out) for out in outs]

    @on_gpu(30)
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
        """Draw a region of a sound anew and keep the rest sample for sample. Returns the WAV file and its facts.

        Parameters:
            audio: a sound of at most a minute; over MCP its public address, or data:audio/wav;base64,...
            start: seconds at which the region begins
            end: seconds at which it ends, at most one clip later
            prompt: what should be heard there, 1 to 1000 characters
            cfg_scale: 0 to 20; null for the model's own default, as for all others
            iterations: passes in which the tokens are drawn, 1 to their number; in a region at most one for each
            temperature: 0 to 2
            seed: a whole number from 0; null for a random one
            steps: of the head for each token; 1 for a one-step model
            variant: of the checkpoint, such as student or teacher; null for the one that the page uses
            context: seconds on either side that are heard, up to a clip; the more, the less the prompt counts
        """
        with _told():
            check_prompt(prompt)
            samples, rate = _read(audio)
            out = model_of(variant).redraw(
                samples, rate, start, end, prompt, context=context,
                cfg_scale=cfg_scale, iterations=iterations, temperature=temperature, seed=seed, steps=steps,
            )  # fmt: skip
        return _file(out), _facts(out)

    @on_gpu(60)
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
            audio: a sound of at most a minute; over MCP its public address, or data:audio/wav;base64,...
            seconds: how much to add, at most a minute
            prompt: what should be heard there, 1 to 1000 characters
            cfg_scale: 0 to 20; null for the model's own default, as for all others
            iterations: of each clip's length
            temperature: 0 to 2
            seed: a whole number from 0; null for a random one
            steps: of the head for each token; 1 for a one-step model
            variant: of the checkpoint, such as student or teacher; null for the one that the page uses
        """
        with _told():
            check_prompt(prompt)
            check_number("seconds", seconds, 0.1, LONGEST)
            samples, rate = _read(audio)
            out = model_of(variant).extend(
                samples, rate, seconds, prompt,
                cfg_scale=cfg_scale, iterations=iterations, temperature=temperature, seed=seed, steps=steps,
            )  # fmt: skip
        return _file(out), _facts(out)

    def _file(out: Output) -> gr.FileData:
        path = store(out, folder)
        return gr.FileData(path=path, orig_name=Path(path).name, mime_type="audio/wav")

    for endpoint in (generate, compare, inpaint, extend):
        gr.api(endpoint, api_name=endpoint.__name__, **QUEUE)


def _facts(out: Output) -> dict[str, Any]:
    return {"seed": out.seed, "settings": out.settings, "timings": out.timings}


def _read(audio: Any) -> tuple[Any, int]:
    """An uploaded file's sound. Other files of this machine are not for callers to name."""
    path = audio.get("path") if isinstance(audio, dict) else getattr(audio, "path", None)
    if not isinstance(path, str) or not is_in_or_equal(path, get_upload_folder()):
        raise AudioError(f"audio must be an uploaded file, got {audio!r:.80}")
    return read_channels(path, LONGEST)


@contextmanager
def _told() -> Iterator[None]:
    """The pipeline's sentence, as it is, and no traceback."""
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        raise gr.Error(str(error), print_exception=False) from None
