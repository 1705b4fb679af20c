"""The paper's evaluation: ``python -m dear.evaluation.audiocaps --manifest test.jsonl --model M --out DIR``.

A sound is generated for each caption of the manifest into ``DIR/sounds``, named by clip: clip i has the seed
``--seed`` + i and is the only candidate. A run that was stopped goes on where it was, and several workers may share one
DIR (``--worker 0/4``, ``--worker 1/4`` and so on). Once all sounds are there they are compared with the recordings of
the manifest, in the features of each of ``--embedders``. JSON goes to stdout and into ``DIR/results.json``, a table to
stderr. ``--sounds FOLDER`` measures what another system made, in files named by clip.

The paper's figures, by embedder: FD, KL (softmax form) and IS (ten splits) with ``panns``, FAD with ``vggish``, the
CLAP score with ``clap``. KAD does not depend on the number of clips, as FD does. Figures of different embedders do not
compare.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dear.cli import Parser, guarded
from dear.evaluation.captions import RECORD, find_clips, generate_clips, read_clips, share
from dear.evaluation.distances import READINGS, measure
from dear.evaluation.judge import DEFAULT, EMBEDDER_HELP, load_embedder
from dear.evaluation.judge.features import SoundsError
from dear.files import read_json, write_json
from dear.options import OPTIONS

SPLITS = (1, 10)
# Table 1: kind of embedder, place of the figure in its result, and its value for AudioDEAR with distillation.
PAPER = {
    "FD": ("panns", ("frechet",), 18.67),
    "FAD": ("vggish", ("frechet",), 2.79),
    "KL": ("panns", ("kl_softmax",), 1.06),
    "IS": ("panns", ("is", "mean"), 9.66),
    "CLAP": ("clap", ("similarity",), 0.334),
}
COLUMNS = {
    "Fréchet": ("frechet",),
    "KAD": ("kad",),
    "KL softmax": ("kl_softmax",),
    "KL sigmoid": ("kl_sigmoid",),
    "IS": ("is", "mean"),
    "IS of recordings": ("real", "is", "mean"),
    "CLAP": ("similarity",),
    "CLAP of recordings": ("real", "similarity"),
}


def paper_figures(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """{metric of Table 1: {"ours": ..., "paper": ...}} as far as its embedder is among ``results``, by kind."""
    return {
        metric: {"ours": _at(results[kind], place), "paper": value}
        for metric, (kind, place, value) in PAPER.items()
        if kind in results
    }


def table(result: Mapping[str, Any]) -> str:
    """The result as Markdown for people."""
    lines = [
        f"{result['clips']} clips, one candidate each, seeds {result['seeds'][0]} to {result['seeds'][1]}"
        if result["seeds"]
        else f"{result['clips']} clips of {result['sounds']}",
        "",
        "| embedder | rows | " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * (2 + len(COLUMNS)),
    ]
    for found in result["embedders"].values():
        figures = [_at(found, place) for place in COLUMNS.values()]
        cells = ["" if figure is None else f"{figure:.4g}" for figure in figures]
        rows = f"{found['rows'][0]} and {found['rows'][1]}"
        lines.append(f"| {found['name']} {found['digest']} | {rows} | " + " | ".join(cells) + " |")
    if result["paper"]:
        lines += ["", "| Table 1 | ours | paper |", "|---|---|---|"]
        lines += [f"| {metric} | {pair['ours']:.4g} | {pair['paper']:g} |" for metric, pair in result["paper"].items()]
    return "\n".join(lines)


def _at(found: Mapping[str, Any], place: Sequence[str]) -> Any:
    for name in place:
        if name not in found:
            return None
        found = found[name]
    return found


def _worker(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not int(found[1]) < int(found[2]):
        raise argparse.ArgumentTypeError(f"must be i/n with i from 0 to n - 1, got {text!r}")
    return int(found[1]), int(found[2])


def _parser() -> Parser:
    parser = Parser(
        prog="python -m dear.evaluation.audiocaps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--manifest", type=Path, required=True, metavar="FILE", help="clips, as JSON lines")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the sounds and the results")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N clips only")
    parser.add_argument("--caption-seed", type=int, default=0, metavar="N", help="draws one of a clip's captions")
    parser.add_argument("--sounds", type=Path, metavar="DIR", help="measure these instead of generating")
    model = parser.add_argument_group("generation")
    model.add_argument("--model", metavar="PATH", help="a folder, or owner/name on the Hub; the bundled one by default")
    model.add_argument("--variant", help="student or teacher")
    model.add_argument("--device", help="where to generate and to embed, such as cpu or cuda")
    model.add_argument("--seed", type=int, default=0, help="of clip 0")
    model.add_argument("--batch", type=int, default=8, metavar="N", help="clips generated at a time")
    model.add_argument("--worker", type=_worker, default=(0, 1), metavar="I/N", help="share of the clips, from 0/N on")
    for name, option in OPTIONS.items():
        model.add_argument(f"--{name.replace('_', '-')}", type=int if option.whole else float, help=option.help)
    judging = parser.add_argument_group("measurement")
    judging.add_argument("--embedders", nargs="+", default=[DEFAULT], metavar="KIND[:SOURCE]", help=EMBEDDER_HELP)
    judging.add_argument("--reading", choices=READINGS, default=READINGS[0], help="how files are read for an embedder")
    judging.add_argument("--splits", type=int, choices=SPLITS, default=10, help="of the inception score")
    return parser


def _check_use(args: argparse.Namespace) -> None:
    """Refuse options that would be ignored."""
    usual = _parser().parse_args(["--manifest", "", "--out", ""])
    for name in ("model", "variant", "seed", "batch", "worker", *OPTIONS):
        if args.sounds is not None and getattr(args, name) != getattr(usual, name):
            raise SoundsError(f"--{name.replace('_', '-')} has no effect with --sounds, which generates nothing")
    kinds = [text.partition(":")[0] for text in args.embedders]
    if len(set(kinds)) < len(kinds):
        raise SoundsError(f"--embedders must be of different kinds, got {', '.join(args.embedders)}")


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """Generate, then measure. Returns the results, or None while other workers have sounds to make."""
    clips = read_clips(args.manifest, args.caption_seed)[: args.limit]
    if len(clips) < max(2, args.splits):
        raise SoundsError(f"{args.manifest} must list at least {max(2, args.splits)} clips, got {len(clips)}")
    if nameless := [clip.name for clip in clips if clip.recording is None]:
        raise SoundsError(
            f"{args.manifest} must have the path of a recording for each clip, got none for {nameless[0]}"
        )
    # Loaded before anything is generated, so that a wrong path is found at once.
    embedders = {text.partition(":")[0]: load_embedder(text, args.device or "cpu") for text in args.embedders}
    folder = args.sounds
    if folder is None:
        from dear.pipeline import AudioDEAR

        folder = args.out / "sounds"
        given = {name: getattr(args, name) for name in ("variant", "device") if getattr(args, name) is not None}
        pipeline = AudioDEAR.from_pretrained(args.model, **given)
        options = {name: getattr(args, name) for name in OPTIONS}
        generate_clips(pipeline, clips, folder, args.seed, args.batch, args.worker, **options)
        absent = sum(not (folder / f"{clip.name}.wav").is_file() for clip in clips)
        if absent:
            done = len(share(len(clips), args.worker))
            print(f"{done} sounds of this worker are there, {absent} of others are not yet", file=sys.stderr)
            return None
    sounds = find_clips(clips, folder)
    references = [clip.recording for clip in clips if clip.recording is not None]
    captions = [clip.caption for clip in clips]
    cache = args.out / "features"
    results = {
        kind: measure(sounds, references, captions, embedder, args.reading, args.splits, cache)
        for kind, embedder in embedders.items()
    }
    made = args.sounds is None
    return {
        "clips": len(clips),
        "candidates": 1 if made else None,
        "seeds": [args.seed, args.seed + len(clips) - 1] if made else None,
        "sounds": str(folder),
        "manifest": str(args.manifest),
        "made_by": read_json(folder / RECORD) if (folder / RECORD).is_file() else None,
        "embedders": results,
        "paper": paper_figures(results),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0, or 2 after one sentence about what was wrong."""

    def command() -> None:
        args = _parser().parse_args(argv)
        _check_use(args)
        args.out.mkdir(parents=True, exist_ok=True)
        result = run(args)
        if result is not None:
            write_json(args.out / "results.json", result)
            print(table(result), file=sys.stderr)
            print(json.dumps(result, indent=2))

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
