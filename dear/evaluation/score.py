"""Score sounds: ``python -m dear.evaluation.score --sounds DIR`` or ``--model PATH``, with ``--reference DIR``.

Prints JSON to stdout and a table to stderr. Accuracy is the share of clips in which the judge ranks the requested label
first; top 5, that in which one of the label's names is among the judge's five most probable ones. FD is
the Fréchet distance to held-out recordings in the judge's features, to be read beside its floor: those recordings
against the others of the same folder. KL is KL(reference || generated), the mean over all pairs of one label. IS is the
inception score. KL and IS need a judge whose classes exclude each other. Each clip is the only
candidate for its prompt. ``texture`` holds measures that need no judge, by label (:mod:`dear.evaluation.flicker` and
:mod:`dear.evaluation.texture`): how the log-mel moves from token to token, beats at 10 to 30 Hz, purity of harmonics.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from dear.audio import read_sound
from dear.cli import Parser, guarded
from dear.config import MelConfig
from dear.evaluation.generation import PROMPTS, check_fits, generate_for_scoring, load_prompts, named_prompts
from dear.evaluation.judge import DEFAULT, JUDGE_HELP, Judge, describe, load_judge
from dear.evaluation.judge.answers import Choices, all_choices, load_answers, nameable
from dear.evaluation.judge.features import Embedding, SoundsError, embed, embed_sounds, find_sounds
from dear.evaluation.judge.metrics import frechet_distance, inception_score, kl_divergence
from dear.evaluation.texture import Measured
from dear.judge.classifier import SoundClassifier

if TYPE_CHECKING:
    pass

ROUNDED = 4  # decimal places of reported figures


@dataclass(frozen=True)
class Reference:
    """Real recordings that generated sounds are measured against."""

    embedding: Embedding  # of the held-out recordings
    floor: float | None  # FD of the held-out recordings against the others; None without others
    source: str  # the name of the recordings in reports


def embed_reference(
    folder: str | Path, judge: Judge, fold: int = 4, answers: Mapping[str, Sequence[str]] | None = None
) -> Reference:
    """Embed a folder of recordings in the format of clips.csv; those of ``fold`` are held out.

    Recordings whose label the judge has no name for are left out. answers: as of
    :func:`dear.evaluation.judge.answers.all_choices`. This repository's classifier was trained on the other folds,
    which makes its floor too high, if anything.
    Raises :class:`SoundsError` where fewer than two recordings are left.
    """
    sounds = find_sounds(folder)
    answers = load_answers() if answers is None else answers
    named = set(nameable(judge, [sound.label for sound in sounds], {} if judge.exclusive else answers))
    known = [sound for sound in sounds if sound.label in named]
    held_out = [sound for sound in known if sound.fold == fold]
    others = [sound for sound in known if sound.fold != fold]
    if len(held_out) < 2:
        folds = sorted({sound.fold for sound in known if sound.fold is not None})
        raise SoundsError(f"fold must be one of {folds} in {folder}, with at least two known sounds, got {fold!r}")
    embedding = embed_sounds(held_out, judge)
    floor = None
    if len(others) >= 2:
        floor = frechet_distance(embedding.features, embed_sounds(others, judge).features)
    return Reference(embedding, floor, f"{folder}, fold {fold}")


def score_waveforms(
    waveforms: Iterable[np.ndarray | Tensor],
    labels: Sequence[str],
    judge: Judge,
    reference: Reference | None = None,
    choices: Choices | None = None,
) -> dict[str, Any]:
    """Score sounds against the labels they were made for.

    waveforms [N,S], or any iterable of N arrays [S], at the judge's sample rate; labels N names. choices: what the
    judge chooses from; None for :func:`dear.evaluation.judge.answers.all_choices` of the labels and the reference's.
    Returns plain numbers, ready for JSON. ``fd``, ``floor_fd`` and ``kl`` are None without a reference, ``kl`` and
    ``is`` where the judge's classes do not exclude each other.
    Raises :class:`JudgeError` for labels that the judge cannot name, and :class:`SoundsError` as
    :func:`dear.evaluation.judge.features.embed` does.
    """
    choices = _choices(judge, labels, reference) if choices is None else choices
    return score_embedding(embed(waveforms, labels, judge), judge, reference, choices)


def score_embedding(
    found: Embedding, judge: Judge, reference: Reference | None = None, choices: Choices | None = None
) -> dict[str, Any]:
    """The result of :func:`score_waveforms` from computed features."""
    choices = _choices(judge, found.labels, reference) if choices is None else choices
    verdicts = choices.judge(found.probabilities, found.labels)
    labels, heard = np.array(found.labels), np.array(verdicts.heard)
    asked = [label for label in choices.labels if label in found.labels]
    counts = {label: Counter(heard[labels == label].tolist()) for label in asked}
    result: dict[str, Any] = {
        "clips": len(labels),
        "candidates": 1,
        "choices": len(choices.labels),
        "accuracy": _rounded(verdicts.right.mean()),
        "top5": _rounded(verdicts.top.mean()),
        "score": _rounded(verdicts.score.mean()),
        "per_class": {label: _rounded(verdicts.right[labels == label].mean()) for label in asked},
        "per_class_top5": {label: _rounded(verdicts.top[labels == label].mean()) for label in asked},
        "heard_as": {
            label: {other: counts[label][other] for other in choices.labels if counts[label][other]} for label in asked
        },
        "fd": None,
        "floor_fd": None,
        "kl": None,
        "is": _inception_score(judge, found),
        "judge": describe(judge),
        "reference": None,
    }
    if reference is not None:
        real = reference.embedding
        result["fd"] = _rounded(frechet_distance(found.features, real.features)) if len(labels) > 1 else None
        result["floor_fd"] = None if reference.floor is None else _rounded(reference.floor)
        result["kl"] = _rounded(_paired_kl(real, found)) if judge.exclusive else None
        verdicts = choices.judge(real.probabilities, real.labels)
        result["reference"] = {
            "source": reference.source,
            "clips": len(real.labels),
            "accuracy": _rounded(verdicts.right.mean()),
            "top5": _rounded(verdicts.top.mean()),
            "is": _inception_score(judge, real),
        }
    return result


def _choices(judge: Judge, labels: Sequence[str], reference: Reference | None) -> Choices:
    return all_choices(judge, [*labels, *(reference.embedding.labels if reference else ())])


def _inception_score(judge: Judge, found: Embedding) -> float | None:
    return _rounded(inception_score(found.probabilities)) if judge.exclusive else None


def table(result: Mapping[str, Any]) -> str:
    """The result as a text table."""
    labels = list(result["per_class"])
    width = max(map(len, [*labels, "accuracy"]))
    lines = [f"{'accuracy':<{width}}  {result['accuracy']:6.1%}  of {result['clips']} clips, one candidate each"]
    for label in labels:
        wrong = {other: n for other, n in result["heard_as"][label].items() if other != label}
        heard = ", ".join(f"{n} as {other}" for other, n in sorted(wrong.items(), key=lambda item: -item[1]))
        lines.append(f"{label:<{width}}  {result['per_class'][label]:6.1%}  {heard}".rstrip())
    lines.append(f"{'top 5':<{width}}  {result['top5']:6.1%}  of {result['judge']['names']} names")
    real = result["reference"]
    if real is not None:
        floor = "" if result["floor_fd"] is None else f"  (floor {result['floor_fd']:.2f})"
        fd = "none of one clip" if result["fd"] is None else f"{result['fd']:.2f}"
        lines.append(f"{'FD':<{width}}  {fd}{floor}")
    if result["kl"] is not None:
        lines.append(f"{'KL':<{width}}  {result['kl']:.3f}")
    if result["is"] is not None:
        lines.append(f"{'IS':<{width}}  {result['is']:.2f}" + (f"  (real {real['is']:.2f})" if real else ""))
    if real is not None:
        lines.append(f"{'real':<{width}}  {real['accuracy']:6.1%}  of {real['clips']} recordings, {real['source']}")
    judge = result["judge"]
    lines.append(f"{'judge':<{width}}  {judge['name']} {judge['digest']}, which hears {judge['hears']}")
    return "\n".join(lines)


def _paired_kl(real: Embedding, found: Embedding) -> float:
    """KL(real || found) over every pair of one label, in which each found clip counts once."""
    of_label = {label: real.probabilities[np.array(real.labels) == label] for label in set(found.labels)}
    if missing := sorted(label for label, rows in of_label.items() if not len(rows)):
        raise SoundsError(f"the reference must hold a recording of every label, got none of {', '.join(missing)}")
    rows = zip(found.labels, found.probabilities, strict=True)
    return float(np.mean([kl_divergence(of_label[label], np.tile(q, (len(of_label[label]), 1))) for label, q in rows]))


def _rounded(value: float) -> float:
    return round(float(value), ROUNDED)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m dear.evaluation.score", description=__doc__.partition("\n")[0], allow_abbrev=False)
    sounds = parser.add_argument_group("a folder of sounds")
    sounds.add_argument("--sounds", type=Path, metavar="DIR", help="subfolders named by label, or a manifest")
    sounds.add_argument("--manifest", type=Path, metavar="FILE", help="CSV (file,label) or JSON ({file: label})")
    model = parser.add_argument_group("a checkpoint (the bundled one where --sounds is absent)")
    model.add_argument("--model", metavar="PATH", help="a folder, or owner/name on the Hub")
    model.add_argument("--variant", help="student or teacher")
    model.add_argument("--device", help="where to generate, such as cpu or cuda")
    model.add_argument("--prompts", type=Path, default=PROMPTS, metavar="FILE", help="JSON, {label: [prompt, ...]}")
    model.add_argument("--clips-per-class", type=int, default=20, metavar="N")
    model.add_argument("--batch", type=int, default=10, metavar="N", help="clips generated at a time")
    model.add_argument("--cfg-scale", type=float)
    model.add_argument("--iterations", type=int)
    model.add_argument("--temperature", type=float)
    model.add_argument("--steps", type=int)
    model.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reference", type=Path, metavar="DIR", help="real recordings with a clips.csv")
    parser.add_argument("--fold", type=int, default=4, help="the held-out fold of the reference")
    parser.add_argument("--judge", default=DEFAULT, metavar="KIND[:PATH]", help=JUDGE_HELP)
    parser.add_argument("--classifier", type=Path, metavar="DIR", help="the same as --judge classifier:DIR")
    return parser


def _generated(args: argparse.Namespace, judge: Judge) -> tuple[Tensor, list[str], dict[str, Any]]:
    """Clips of the checkpoint on the command line, their labels, and a description of their making."""
    from dear.pipeline import AudioDEAR

    given = {name: getattr(args, name) for name in ("variant", "device") if getattr(args, name) is not None}
    options = {name: getattr(args, name) for name in ("cfg_scale", "iterations", "temperature", "steps")}
    prompts = named_prompts(judge, path=args.prompts)
    nameless = [label for label in load_prompts(args.prompts) if label not in prompts]
    all_choices(judge, list(prompts))
    pipeline = AudioDEAR.from_pretrained(args.model, **given)
    check_fits(judge, pipeline)
    waveforms, labels = generate_for_scoring(pipeline, prompts, args.clips_per_class, args.batch, args.seed, **options)
    used = asdict(pipeline.sampling) | {name: value for name, value in options.items() if value is not None}
    made_by = {
        "name": pipeline.config.name,
        "variant": pipeline.variant,
        "digest": pipeline.digest,
        "seed": args.seed,
        "options": used,
        "nameless": nameless,
    }
    return waveforms, labels, made_by


def _check_use(args: argparse.Namespace) -> None:
    """Refuse options that would have no effect."""
    if args.sounds is None:
        if args.manifest is not None:
            raise SoundsError("--manifest names the sounds of --sounds, which is absent")
        return
    usual = _parser().parse_args([])
    names = ("model", "variant", "device", "prompts", "clips_per_class", "batch", "seed")
    for name in (*names, "cfg_scale", "iterations", "temperature", "steps"):
        if getattr(args, name) != getattr(usual, name):
            raise SoundsError(f"--{name.replace('_', '-')} has no effect with --sounds, which generates nothing")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0, or 2 after an error message."""

    def command() -> None:
        args = _parser().parse_args(argv)
        _check_use(args)
        judge = load_judge(args.judge if args.classifier is None else f"{DEFAULT}:{args.classifier}")
        reference = None if args.reference is None else embed_reference(args.reference, judge, args.fold)
        if args.sounds is not None:
            sounds = find_sounds(args.sounds, args.manifest)
            made_by = {"sounds": str(args.sounds)}
            waveforms: Any = (read_sound(sound.path, judge.sample_rate) for sound in sounds)
            labels = [sound.label for sound in sounds]
        else:
            waveforms, labels, made_by = _generated(args, judge)
        measured = Measured(waveforms, judge.config.mel if isinstance(judge, SoundClassifier) else MelConfig())
        result = score_waveforms(measured, labels, judge, reference)
        result |= {"texture": measured.by_label(labels), "made_by": made_by}
        print(table(result), file=sys.stderr)
        print(json.dumps(result, indent=2))

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
