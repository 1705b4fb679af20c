"""Monitoring of a run: curves in TensorBoard, and sounds of the averaged weights."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dear.config import MelConfig
from dear.files import write_atomically
from dear.output import Output

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Board:
    """A :class:`training.engine.task.Observer` for a run's ``tensorboard/`` and ``samples/``."""

    def __init__(
        self,
        folder: Path,
        per_step: Mapping[str, float],
        mel: MelConfig,
        every: int = 0,
        generate: Callable[[], Output] | None = None,
        keep_every: int = 0,
        keep: Callable[[int], object] | None = None,
    ):
        """generate: makes the sounds that are logged every ``every`` steps; None: no sounds.

        keep: called every ``keep_every`` steps, with the step, to keep the averaged weights.
        """
        self.folder = folder
        self.per_step = per_step
        self.mel = mel
        self.every = every if generate else 0
        self.generate = generate
        self.keep_every = keep_every if keep else 0
        self._keep = keep
        self.first: int | None = None  # step of the first event of this session

    @cached_property
    def writer(self) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        # Drop events that an earlier session wrote after the state that this one resumed from.
        return SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.first)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        self._begin(step)
        for name, value in flat(values):
            self.writer.add_scalar(name, value, step)

    def show(self, step: int) -> None:
        """Sounds and their mels, in TensorBoard and as ``samples/<step>-<number>.wav`` and ``.png``."""
        from dear.visual import plots  # here, as it imports transformers

        self._begin(step)
        assert self.generate is not None  # else every is 0
        try:
            output = self.generate()
        except FloatingPointError as error:  # an early average may still diverge under guidance
            print(f"no samples at step {step}: {error}", file=sys.stderr)
            return
        folder = self.folder / "samples"
        folder.mkdir(exist_ok=True)
        paths = output.save(folder / f"{step:07d}.wav")
        for path, prompt, waveform, mel in zip(paths, output.prompts, output.sound, output.mel, strict=True):
            figure = plots.mel_figure(mel, self.mel)
            write_atomically(path.with_suffix(".png"), partial(figure.savefig, dpi=110))
            self.writer.add_audio(prompt, waveform[None], step, output.sample_rate)
            self.writer.add_figure(prompt, figure, step)
        self.writer.flush()

    def keep(self, step: int) -> None:
        assert self._keep is not None  # else keep_every is 0
        self._keep(step)

    def close(self) -> None:
        if self.first is not None:
            self.writer.close()

    def _begin(self, step: int) -> None:
        if self.first is None:
            self.first = step


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """(path/of/name, number) of an object of numbers and further objects."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value
