"""How fast, and against whom: ``python -m dear.evaluation.benchmark``. A Markdown table goes to stdout.

Rows (``--rows``; each at every batch size of ``--batches`` and every precision of ``--dtype``, all runs in turn):

- base-ours, base-full: only decoding, at the paper's base size, with the loop of ``dear.sampling``, under "visible" and
  under "full" attention.
- base-naive-student, base-naive-teacher: the same without any saving ("full" attention, every position, no caches, the
  branches of guidance apart); the teacher's head takes 100 steps in each iteration.
- base-compiled, bundled-compiled: base-ours and bundled through torch.compile, on CUDA as replayed graphs; this takes
  minutes.
- base-fast: base-ours with the recommended approximate savings, ``dear.config.FAST``.
- base-end-to-end: base-ours, then AudioLDM's autoencoder and vocoder.
- base-training: one training step of the base size.
- bundled, bundled-fast, bundled-teacher: a checkpoint, prompt to waveform, at its defaults; with those savings.
- bundled-many: one of four batches in a row, of which a GPU renders each while it decodes the next.
- start: a fresh process, ``python -m dear generate``, from its start to a written file; start-torch: one that imports
  torch alone.
- audioldm, audioldm2, stable-audio-open, tango2, consistency-tta, tangoflux: peers of ``dear.evaluation.bench.peers``
  and ``dear.evaluation.bench.tango``.

The base size and the peers have random weights, as time does not depend on them. On a CPU a few iterations, or steps,
stand for all where each costs the same, and the row says so; even then all rows take hours on two cores. ``--soak N``
generates N times in one process and tells its memory; ``--curves FILE`` draws the time of whole generations against
iterations, batch, threads and length. ``--all`` takes every row, few iterations for the naive rows and the peers, and a
soak: what is worth knowing of a machine, in one command.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dear.checkpoint import load_config, resolve
from dear.cli import Parser, check_json, guarded, save_json
from dear.config import FAST, ConfigError, Savings
from dear.evaluation.bench.compare import changes, changes_table, differing, load_earlier
from dear.evaluation.bench.curves import check_picture, curves_figure, measure_curves, save_figure
from dear.evaluation.bench.jobs import (
    BASE,
    base_job,
    checkpoint_job,
    compiled_job,
    import_job,
    many_job,
    precision_name,
    soak,
    start_job,
    training_job,
)
from dear.evaluation.bench.machine import describe, matmul_peak
from dear.evaluation.bench.peers import PEERS as LATENT
from dear.evaluation.bench.peers import MissingError
from dear.evaluation.bench.tango import FAMILY
from dear.evaluation.bench.timing import Job, Setting, measure, table
from dear.request import check_whole

if TYPE_CHECKING:
    from dear.pipeline import AudioDEAR

CHECKPOINT = ("bundled", "bundled-fast", "bundled-many", "bundled-compiled", "bundled-teacher")
PEERS = {**LATENT, **FAMILY}
START = ("start", "start-torch")
TRAINING = "base-training"
ROWS = (*BASE, TRAINING, *CHECKPOINT, *START, *PEERS)
DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}
ALL_SOAK = 100  # generations
CPU_TIMED = 4  # timed iterations, or steps of a diffusion model, that stand for all on a CPU

# {field: (numerator, denominator)}: ratios of medians. "base-ours" and "base-fast" measure only decoding.
RATIOS = {
    "naive_teacher_over_ours": ("base-naive-teacher", "base-ours"),
    "naive_teacher_over_fast": ("base-naive-teacher", "base-fast"),
    "naive_student_over_ours": ("base-naive-student", "base-ours"),
    "full_over_ours": ("base-full", "base-ours"),
    "ours_over_compiled": ("base-ours", "base-compiled"),
    "bundled_over_fast": ("bundled", "bundled-fast"),
    "bundled_over_many": ("bundled", "bundled-many"),
    "bundled_over_compiled": ("bundled", "bundled-compiled"),
    "bundled_teacher_over_student": ("bundled-teacher", "bundled"),
    **{
        f"{peer.replace('-', '_')}_over_{ours}": (peer, row)
        for peer in PEERS
        for ours, row in (("base", "base-end-to-end"), ("bundled", "bundled"))
    },
}


def figures(rows: Sequence[Mapping[str, Any]], usual: str = "float32") -> dict[str, float]:
    """Named results: ratios of medians, and the times of the bundled model.

    A name ends in the precision, except for the ``usual`` one, and in ``_batch_N`` for batches above 1. Results that
    were not measured are absent.
    """
    found = {}
    groups: dict[tuple[int, str], dict[str, Mapping[str, Any]]] = {}
    for each in rows:
        if each["name"] in START and "skipped" not in each:  # have a precision of their own
            name = "start_to_first_sound_seconds" if each["name"] == "start" else "torch_import_seconds"
            found[name] = each["median"]
        elif "skipped" not in each:
            groups.setdefault((each["batch"], each["precision"]), {})[each["name"]] = each
    for (batch, precision), group in groups.items():
        suffix = ("" if precision == usual else f"_{precision}") + ("" if batch == 1 else f"_batch_{batch}")
        median = {name: each["median"] for name, each in group.items()}
        for name, (above, below) in RATIOS.items():
            if above in median and below in median:
                found[name + suffix] = median[above] / median[below]
        if "bundled" in group:
            seconds = batch * group["bundled"]["seconds_of_sound"]
            found["real_time_factor" + suffix] = median["bundled"] / seconds
        if "base-end-to-end" in group and "base-naive-teacher" in group:
            stages = group["base-end-to-end"]["stages"]
            teacher = median["base-naive-teacher"] + stages["codec"] + stages["vocoder"]
            found["naive_teacher_over_ours_end_to_end" + suffix] = teacher / median["base-end-to-end"]
        if precision != usual:
            for name, each in groups.get((batch, usual), {}).items():
                if name in median:
                    found[f"{name.replace('-', '_')}_{usual}_over{suffix}"] = each["median"] / median[name]
    return found


def build_jobs(args: argparse.Namespace, device: torch.device) -> tuple[list[Job], list[dict[str, Any]]]:
    """The jobs of the command line, and a row with its reason for each that can't be run."""
    jobs: list[Job] = []
    skipped: list[dict[str, Any]] = []
    pipelines: dict[tuple[str | None, bool, str], AudioDEAR] = {}
    built: dict[str, dict[Any, nn.Module]] = {dtype: {} for dtype in args.dtype}
    for batch, dtype in itertools.product(args.batches, args.dtype):
        setting = Setting(batch, device, DTYPES[dtype], args.timed, built[dtype])
        for name in args.rows:
            try:
                if name in BASE:
                    jobs.append(base_job(name, setting))
                elif name in CHECKPOINT:
                    variant, compiled = "teacher" if name == "bundled-teacher" else None, name == "bundled-compiled"
                    if (variant, compiled, dtype) not in pipelines:
                        pipelines[variant, compiled, dtype] = _load(args, device, dtype, variant)
                    pipeline = pipelines[variant, compiled, dtype]
                    options = _fast(pipeline) if name == "bundled-fast" else {}
                    row = many_job if name == "bundled-many" else checkpoint_job
                    job = row(name, pipeline, batch, **options)
                    jobs.append(compiled_job(job, pipeline.model) if compiled else job)
                elif name == TRAINING:
                    if dtype == args.dtype[0]:  # in a precision of its own
                        jobs.append(training_job(setting))
                elif name in PEERS:
                    jobs.append(PEERS[name](setting))
                elif (batch, dtype) == (args.batches[0], args.dtype[0]):
                    own = name == "start"
                    jobs.append(start_job(args.model, device, args.threads) if own else import_job())
            except MissingError as error:
                skipped.append({"name": name, "batch": batch, "precision": dtype, "skipped": str(error)})
    return jobs, skipped


def _fast(pipeline: AudioDEAR) -> dict[str, Savings]:
    try:
        pipeline.config.check_savings(FAST)
    except ConfigError as error:
        raise MissingError(str(error)) from None
    return {"savings": FAST}


def _load(args: argparse.Namespace, device: torch.device, dtype: str, variant: str | None = None) -> AudioDEAR:
    from dear.pipeline import AudioDEAR

    if variant == "teacher" and variant not in load_config(resolve(args.model, variants=())).variants:
        raise MissingError("the checkpoint holds no teacher")
    return AudioDEAR.from_pretrained(args.model, variant=variant, device=device, dtype=DTYPES[dtype])


def _parser() -> Parser:
    parser = Parser(
        prog="python -m dear.evaluation.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--rows", nargs="+", metavar="ROW", help="some of the rows; default: all, unless --curves or --soak is given"
    )
    parser.add_argument(
        "--all", action="store_true", help=f"every row, --timed {CPU_TIMED}, --repeats 3 and --soak {ALL_SOAK}"
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8], metavar="N", help="sounds at a time")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=DTYPES,
        help="of all networks except the codec (float32); several are compared; default: float32, on CUDA float16",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of PyTorch on a CPU")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="timed runs of each row, after a warm-up")
    parser.add_argument(
        "--timed",
        type=int,
        metavar="N",
        help=f"iterations or steps to time; 0: all (on a CPU {CPU_TIMED})",
    )
    parser.add_argument("--model", metavar="PATH", help="a folder, or owner/name on the Hub; the bundled one if absent")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="the --json of an earlier run to compare with")
    parser.add_argument("--curves", type=Path, metavar="FILE", help="draw scaling curves (.png or .svg)")
    parser.add_argument("--soak", type=int, metavar="N", help="generate N times and report the memory")
    return parser


def _check(args: argparse.Namespace) -> torch.device:
    """Complete and check the options. Raises ValueError naming the option, its value and what is allowed."""
    from dear.pipeline import best_dtype, check_device

    if args.all:
        if args.rows is not None:
            raise ValueError("--all and --rows must not both be given")
        args.rows, args.repeats = list(ROWS), 3
        args.soak = ALL_SOAK if args.soak is None else args.soak
        args.timed = CPU_TIMED if args.timed is None else args.timed
    if args.rows is None:
        args.rows = [] if args.curves or args.soak is not None else list(ROWS)
    for name in args.rows:
        if name not in ROWS:
            raise ValueError(f"--rows must be some of {', '.join(ROWS)}, got {name!r}")
    args.rows, args.batches = list(dict.fromkeys(args.rows)), list(dict.fromkeys(args.batches))
    for batch in args.batches:
        check_whole("--batches", batch, 1, 64)
    check_whole("--repeats", args.repeats, 1, 1000)
    for name in ("threads", "soak"):
        if getattr(args, name) is not None:
            check_whole(f"--{name}", getattr(args, name), 1, 1_000_000)
    device = check_device(args.device, "--device")
    if args.timed is None:
        args.timed = CPU_TIMED if device.type == "cpu" else 0
    args.timed = check_whole("--timed", args.timed, 0, 1000) or None
    if args.dtype is None:
        args.dtype = [precision_name(best_dtype(device))]
    args.dtype = list(dict.fromkeys(args.dtype))
    if args.curves is not None:
        check_picture(args.curves)
    check_json(args.json)
    args.earlier = None if args.compare is None else load_earlier(args.compare)
    return device


def run(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Run what the command line requests and write the pictures. Returns plain data."""
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    peaks = {dtype: matmul_peak(device, DTYPES[dtype]) for dtype in args.dtype}
    machine = describe(device) | {f"{dtype}_flops_per_second": peak for dtype, peak in peaks.items()}
    result: dict[str, Any] = {"machine": machine}
    if args.rows:
        jobs, skipped = build_jobs(args, device)
        measured = measure(jobs, device, args.repeats, peaks, failed=skipped)
        rows = [dataclasses.asdict(each) for each in measured] + skipped
        result |= figures(rows, args.dtype[0]) | {"rows": rows}
        if args.earlier is not None:
            result["changes"] = changes(rows, args.earlier["rows"])
            result["another_machine"] = differing(machine, args.earlier["machine"])
    if args.soak is not None:
        result["soak"] = soak(_load(args, device, args.dtype[0]), args.soak)
    if args.curves is not None:
        pipeline = _load(args, device, args.dtype[0])
        curves = measure_curves(pipeline, args.repeats)
        title = f"{pipeline.config.name} on {machine.get('gpu', machine['processor'])}, {machine['threads']} threads"
        save_figure(curves_figure(curves, title), args.curves)
        result["curves"] = [dataclasses.asdict(curve) for curve in curves]
    return result


def report(result: Mapping[str, Any]) -> str:
    """The printed report: the table, the named results, and the machine."""
    machine = result["machine"]
    parts = []
    if "rows" in result:
        parts.append(table(result["rows"]))
    if numbers := [f"- {name}: {value:.3g}" for name, value in result.items() if isinstance(value, float)]:
        parts.append("\n".join(numbers))
    if "changes" in result:
        parts.append(changes_table(result["changes"], result["another_machine"]))
    for name in ("soak", "curves"):
        if name in result:
            parts.append(f"{name}: {json.dumps(result[name])}")
    parts.append(f"machine: {json.dumps(machine)}")
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0; 1 where a row failed; 2 after an error message."""

    def command() -> int:
        args = _parser().parse_args(argv)
        result = run(args, _check(args))
        save_json(args.json, result)
        print(report(result))
        return int(any(each.get("failed") for each in result.get("rows", ())))

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
