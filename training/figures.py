"""The picture of docs/evaluation.md: a held-out recording of each class beside a generated clip, not chosen by hand.

python -m training.figures --clips DIR --out docs/figures/spectrograms.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dear.codec.mel import MelSpectrogram
from dear.files import write_atomically
from dear.pipeline import AudioDEAR
from dear.visual import plots
from training.data.captions import prompts
from training.data.clips import Clip, DataError, read_clips
from training.engine.recipe import RECIPES, Recipe, load_recipe
from training.report.measure import recordings
from training.runtime.commands import guarded


def draw(clips_folder: Path, out: Path, model: str | None, fold: int, seed: int) -> None:
    """First recording of ``fold`` and first held-back wording of each class, drawn with ``seed`` and those after it."""
    names = load_recipe(RECIPES / "mini.yaml", Recipe).scenes.sounds
    pipeline = AudioDEAR.from_pretrained(model)
    first: dict[str, Clip] = {}
    for clip in read_clips([clips_folder], {clips_folder.absolute().name: fold}):
        if clip.held_out:
            first.setdefault(clip.sound, clip)
    if missing := [label for label in names if label not in first]:
        raise DataError(f"fold must hold every class, got {fold!r}, which lacks {', '.join(missing)}")
    mel = MelSpectrogram(pipeline.config.mel)
    real, _ = recordings([first[label] for label in names], mel)
    made = pipeline.generate([prompts(label)[1][0] for label in names], seed=seed)
    # Of generated clips, the mel of the waveform is shown, because it is what is heard.
    shown = pipeline.config.mel.samples // pipeline.config.mel.hop_length
    figure = plots.spectrogram_grid(
        [one[:shown] for one in real.numpy()],
        list(mel(made.waveform).numpy()),
        [label.replace("_", " ") for label in names],
        pipeline.config.mel,
    )
    write_atomically(out, lambda file: figure.savefig(file, dpi=110))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.figures", description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", type=Path, required=True, help="recordings with clips.csv or meta/esc50.csv")
    parser.add_argument("--out", type=Path, required=True, help="a PNG file")
    parser.add_argument("--model", help="a checkpoint's folder; the bundled one where absent")
    parser.add_argument("--fold", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    def run() -> None:
        if not options.out.parent.is_dir():
            raise ValueError(f"--out must lie in an existing directory, got {str(options.out)!r}")
        draw(options.clips, options.out, options.model, options.fold, options.seed)

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
