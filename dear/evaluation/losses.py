"""Measure where sound is lost: ``python -m dear.evaluation.losses --clips DIR --judge efficientat:FILE``.

One table compares recordings that training never saw, the same recordings through log-mel and each vocoder and through
codec and vocoder, and the sounds of each variant of the model for held-back prompts. Markdown goes to stdout and, with
``--out``, to a file beside JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import nn

from dear.audio import read_sound
from dear.cli import Parser, guarded
from dear.codec.mel import MelSpectrogram
from dear.config import Config
from dear.evaluation.bench.machine import describe as describe_machine
from dear.evaluation.flicker import flicker, means
from dear.evaluation.generation import check_fits, load_prompts
from dear.evaluation.judge import JUDGE_HELP, Judge, describe, load_judge
from dear.evaluation.judge.answers import Choices, choices, load_answers, nameable
from dear.evaluation.judge.features import Embedding, embed, fit
from dear.evaluation.judge.metrics import frechet_distance
from dear.evaluation.sources import Row, Source, coded, generated, recorded, split, tone, vocoders, voiced
from dear.evaluation.texture import envelope_db, harmonic_ratio_db
from dear.files import write_atomically, write_json
from dear.request import check_whole

if TYPE_CHECKING:
    from dear.pipeline import AudioDEAR

FOLDS = {"esc10": 4, "sounds": 5}  # of the data sets by their folder's name: what no training hears
RECORDINGS = "recordings"
TONAL = ("flute", "violin", "rooster")  # labels with steady harmonics
TONE = "synthetic tone"
ROUNDED = 4


def judged(row: Row, judge: Judge, chosen: Choices, real: Embedding | None) -> tuple[dict[str, Any], Embedding]:
    """Figures of a row, ready for JSON, and what the judge heard. real: that of the recordings, for FD."""
    found = embed(row.waveforms, row.labels, judge)
    verdicts = chosen.judge(found.probabilities, found.labels)
    values = {
        "best": torch.tensor(verdicts.right, dtype=torch.float64),
        "top5": torch.tensor(verdicts.top, dtype=torch.float64),
        "score": torch.tensor(verdicts.score, dtype=torch.float64),
        "envelope_db": envelope_db(row.waveforms, judge.sample_rate),
    }
    tonal = [index for index, label in enumerate(row.labels) if label in TONAL]
    harmonics = {}
    if tonal:
        ratio = {"harmonic_db": harmonic_ratio_db(row.waveforms[tonal], judge.sample_rate)}
        harmonics = {
            label: each["harmonic_db"] for label, each in means(ratio, [row.labels[index] for index in tonal]).items()
        }
    result = {
        "name": row.name,
        "clips": len(row.labels),
        "all": {name: _rounded(float(values[name].mean())) for name in ("best", "top5", "score")},
        "mel_error": _rounded(row.error),
        "seconds": _rounded(row.seconds),
        "fd": None if real is None else _rounded(frechet_distance(found.features, real.features)),
        "per_class": means(values, row.labels),
        "harmonics": harmonics,
    }
    return result, found


def measure(
    folders: Sequence[Path],
    folds: Sequence[int],
    judge: Judge,
    pipelines: Sequence[AudioDEAR],
    count: int,
    seed: int = 0,
    prompts: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """All rows as plain data. pipelines: the variants of one checkpoint. Raises ValueError before any work."""
    config, answers = pipelines[0].config, load_answers()
    check_fits(judge, pipelines[0])
    measured, others = split(folders, folds, count)
    known = nameable(judge, [sound.label for sound in measured], answers)
    chosen = choices(judge, known, answers)
    nameless = sorted({sound.label for sound in measured} - set(known))
    measured = [sound for sound in measured if sound.label in known]
    others = [sound for sound in others if sound.label in known]
    prompts = {label: texts for label, texts in (prompts or load_prompts()).items() if label in known}

    voices = vocoders(config, pipelines[0].vocoder)
    through_mel = recorded(measured, config)
    sources = [through_mel, coded(through_mel, pipelines[0].vae, config)]
    sources += [generated(pipeline, prompts, count, seed) for pipeline in pipelines if prompts]

    waves = torch.stack([fit(read_sound(sound.path, judge.sample_rate), config.mel.samples) for sound in measured])
    first, real = judged(Row(RECORDINGS, waves, through_mel.labels, None, None), judge, chosen, None)
    rows = [first]
    for row in _voiced(sources, voices, config):
        rows.append(judged(row, judge, chosen, real)[0])
    harmonics = _tones(config, pipelines[0].vae, voices)
    for result in rows:
        if result["name"] in harmonics:
            result["harmonics"][TONE] = harmonics[result["name"]]
    floor = None
    if len(others) > 1:
        waveforms = (read_sound(sound.path, judge.sample_rate) for sound in others)
        floor = frechet_distance(embed(waveforms, [sound.label for sound in others], judge).features, real.features)
    return {
        "judge": describe(judge),
        "choices": list(chosen.labels),
        "nameless": nameless,
        "candidates": 1,
        "recordings": {str(folder): fold for folder, fold in zip(folders, folds, strict=True)},
        "floor_fd": None if floor is None else _rounded(floor),
        "floor_clips": len(others),
        "rows": rows,
        "flicker": {source.name: flicker(source.mels, source.labels) for source in sources},
        "made_by": [
            {"name": config.name, "variant": pipeline.variant, "digest": pipeline.digest, "seed": seed}
            for pipeline in pipelines
        ],
        "machine": describe_machine(pipelines[0].device),
    }


def _voiced(sources: Sequence[Source], voices: Mapping[str, nn.Module], config: Config) -> Iterator[Row]:
    for source in sources:
        for kind, vocoder in voices.items():
            yield voiced(source, kind, vocoder, config)


def _tones(config: Config, vae: Any, voices: Mapping[str, nn.Module]) -> dict[str, float]:
    """Peak-to-floor ratio of the synthetic tone, by the name of each row that it can be in."""
    wave = tone(config)
    mel = MelSpectrogram(config.mel)(wave)
    source = Source("mel", mel, (TONE,), 0.0, mel)
    found = {RECORDINGS: wave[:, : config.mel.samples]}
    found |= {row.name: row.waveforms for row in _voiced([source, coded(source, vae, config)], voices, config)}
    return {name: _rounded(float(harmonic_ratio_db(sound, config.mel.sample_rate)[0])) for name, sound in found.items()}


@overload
def _rounded(value: float) -> float: ...
@overload
def _rounded(value: None) -> None: ...
def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, ROUNDED)


def markdown(result: Mapping[str, Any]) -> str:
    """The tables for people."""
    judge, rows = result["judge"], result["rows"]
    labels = list(rows[0]["per_class"])
    names = [row["name"] for row in rows]
    about = (
        f"Judge: {judge['name']} {judge['digest']} ({judge['names']} names), which hears {judge['hears']}. "
        f'{rows[0]["clips"]} recordings of {len(labels)} labels; {len(result["choices"])} choices for "best"; one '
        "candidate for each generated clip."
    )
    floor = "" if result["floor_fd"] is None else (
        f" FD of {result['floor_clips']} other recordings against these (the floor): {result['floor_fd']:.2f}."
    )  # fmt: skip
    if result["nameless"]:
        floor += f" Left out, as the judge has no name for them: {', '.join(result['nameless'])}."
    parts = [
        about + floor,
        _table(
            ["way", "clips", "best", "top 5", "score", "log-mel error", "FD", "seconds for 10 s"],
            (
                [
                    row["name"], str(row["clips"]), *(_number(row["all"][name]) for name in ("best", "top5", "score")),
                    _number(row["mel_error"], 3), _number(row["fd"]), _number(row["seconds"]),
                ]
                for row in rows
            ),
        ),
        "The log-mel error of a model's row is against the log-mel that the model made. By class, best / top 5:",
        _table(["label", *names], _by_class(rows, labels, lambda each: f"{each['best']:.2f} / {each['top5']:.2f}")),
        "Envelope at 10 to 30 Hz, dB more than that of the recordings of the label:",
        _table(["label", *names[1:]], _beats(rows, labels)),
    ]  # fmt: skip
    if any(row["harmonics"] for row in rows):
        tonal = list(dict.fromkeys(label for row in rows for label in row["harmonics"]))
        parts += [
            "Steady harmonics above the floor around them, dB:",
            _table(
                ["sound", *names],
                ([label, *(_number(row["harmonics"].get(label), 1) for row in rows)] for label in tonal),
            ),
        ]
    kinds = list(next(iter(result["flicker"]["mel"].values())))
    parts.append(f"Flicker of the log-mel, natural-log units ({', '.join(kinds)}; `mel` is that of the recordings):")
    parts.append(
        _table(
            ["label", *result["flicker"]],
            (
                [
                    label,
                    *(
                        " / ".join(f"{value:.3f}" for value in found[label].values()) if label in found else ""
                        for found in result["flicker"].values()
                    ),
                ]
                for label in labels
            ),
        )
    )
    return "\n\n".join(parts) + "\n"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _by_class(
    rows: Sequence[Mapping[str, Any]], labels: Sequence[str], show: Callable[[Mapping[str, float]], str]
) -> Iterator[list[str]]:
    for label in labels:
        yield [label, *(show(row["per_class"][label]) if label in row["per_class"] else "" for row in rows)]


def _beats(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Iterator[list[str]]:
    real = rows[0]["per_class"]
    for label in labels:
        found = (row["per_class"].get(label) for row in rows[1:])
        yield [label, *("" if x is None else f"{x['envelope_db'] - real[label]['envelope_db']:+.1f}" for x in found)]


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _parser() -> Parser:
    parser = Parser(prog="python -m dear.evaluation.losses", description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--clips", type=Path, nargs="+", required=True, metavar="DIR", help="folders of recordings with a clips.csv"
    )
    parser.add_argument(
        "--folds", type=int, nargs="+", metavar="N",
        help=f"the measuring fold of each folder; by its name where absent: {FOLDS}",
    )  # fmt: skip
    parser.add_argument("--judge", required=True, metavar="KIND[:PATH]", help=JUDGE_HELP.partition(";")[0])
    parser.add_argument("--model", metavar="PATH", help="a folder, or owner/name on the Hub; the bundled one if absent")
    parser.add_argument("--variants", nargs="+", metavar="V", help="some of the model's variants; all where absent")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="clips of each label")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write losses.md and losses.json there")
    return parser


def _folds(folders: Sequence[Path], given: Sequence[int] | None) -> list[int]:
    if given is not None:
        if len(given) != len(folders):
            raise ValueError(f"--folds must be {len(folders)}, one for each folder of --clips, got {len(given)}")
        return list(given)
    for folder in folders:
        if folder.resolve().name not in FOLDS:
            raise ValueError(f"--folds must name the measuring fold of {folder}, as only {', '.join(FOLDS)} are known")
    return [FOLDS[folder.resolve().name] for folder in folders]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0, or 2 after one sentence about what was wrong."""
    from dear.checkpoint import load_config, resolve
    from dear.pipeline import AudioDEAR

    def command() -> None:
        args = _parser().parse_args(argv)
        folds = _folds(args.clips, args.folds)
        check_whole("--count", args.count, 1, 1000)
        if args.out is not None and not args.out.parent.is_dir():
            raise ValueError(f"--out must lie in an existing directory, got {str(args.out)!r}")
        judge = load_judge(args.judge)
        known = tuple(load_config(resolve(args.model)).variants)
        variants = known if args.variants is None else tuple(dict.fromkeys(args.variants))
        for variant in variants:
            if variant not in known:
                raise ValueError(f"--variants must be some of {', '.join(known)}, got {variant!r}")
        pipelines = [AudioDEAR.from_pretrained(args.model, variant=each, device=args.device) for each in variants]
        result = measure(args.clips, folds, judge, pipelines, args.count, args.seed)
        text = markdown(result)
        if args.out is not None:
            args.out.mkdir(exist_ok=True)
            write_json(args.out / "losses.json", result)
            write_atomically(args.out / "losses.md", lambda file: file.write(text.encode()))
        print(text, end="")

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
