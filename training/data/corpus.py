"""The recordings of a run, and the sounds on both sides of the held-out folds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.clips import Clip, DataError, read_clips
from training.data.vocabulary import SOUNDS, select


@dataclass(frozen=True)
class Corpus:
    """Recordings of both sides, and the sounds of a run, including computed ones."""

    clips: tuple[Clip, ...]
    names: tuple[str, ...]
    nameable: frozenset[str] | None = None  # the sounds that the judge can name; None: all

    def split(self, held_out: bool) -> list[Clip]:
        """The recordings of the held-out folds, or all others."""
        return [clip for clip in self.clips if clip.held_out == held_out]

    def sounds(self, held_out: bool) -> tuple[str, ...]:
        """The sounds that are computed or have recordings on one side."""
        there = {clip.sound for clip in self.split(held_out)}
        return tuple(name for name in self.names if SOUNDS[name].synthesis or name in there)

    @property
    def judged(self) -> tuple[str, ...]:
        """The sounds that can be measured: those with recordings on both sides that the judge can name."""
        known = self.nameable or frozenset(self.names)
        for side in (True, False):
            known &= {clip.sound for clip in self.split(side)}
        return tuple(name for name in self.names if name in known)

    def recordings(self, held_out: bool) -> list[Clip]:
        """The recordings of the judged sounds on one side."""
        judged = set(self.judged)
        return [clip for clip in self.split(held_out) if clip.sound in judged]


def load_corpus(folders: Iterable[str | Path], held_out: Mapping[str, int], sounds: Sequence[str] = ()) -> Corpus:
    """Folders of recordings, the held-out fold of each by its name, and sounds or families: all by default.

    Raises DataError as :func:`~training.data.clips.read_clips` does, and for a named sound that has no recording to
    train on; VocabularyError for an unknown name.
    """
    named = select(sounds)
    clips = [clip for clip in read_clips(folders, held_out) if not named or clip.sound in named]
    heard = {clip.sound for clip in clips if not clip.held_out}
    if missing := [name for name in named if not SOUNDS[name].synthesis and name not in heard]:
        raise DataError(f"clips must hold recordings of every sound of the recipe, got none of {', '.join(missing)}")
    return Corpus(tuple(clips), named or tuple(SOUNDS))
