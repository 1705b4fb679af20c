"""The command line ``audiodear``: ``generate``, ``batch``, ``info``, ``push`` and ``listen``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dear.files import write_json
from dear.options import OPTIONS, chosen

# Packages that only some commands need, and the extra that has each.
EXTRAS = {"gradio": "ui", "matplotlib": "ui", "yaml": "train", "diffusers": "paper", "torchsde": "peers"}


class Parser(argparse.ArgumentParser):
    """Reports bad input as the rest of the package does: an error of one sentence, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def guarded(run: Callable[[], int | None], prefix: str = "error: ") -> int:
    """The exit status of a command: what ``run`` returns, or 0.

    2 for bad input and for a package of an extra that is not installed (one sentence on stderr), and 130 if the command
    is interrupted.
    """
    try:
        return run() or 0
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        needed = f"needs {error.name}, which is not installed; run pip install 'audiodear[{EXTRAS[error.name]}]'"
        print(f"{prefix}this command {needed}", file=sys.stderr)
        return 2
    except (ValueError, ArithmeticError, OSError) as error:
        print(prefix + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def check_json(path: Path | None) -> None:
    """Raise ValueError if --json names a file that cannot be written."""
    if path is not None and not path.parent.is_dir():
        raise ValueError(f"--json must lie in an existing directory, got {str(path)!r}")


def save_json(path: Path | None, result: Any) -> None:
    """Write plain data to the file of --json, if any."""
    if path is not None:
        write_json(path, result)


def _number(kind: Callable[[str], float], name: str) -> Callable[[str], float]:
    """``kind`` of a text, refused with a sentence that says what was expected. Ranges are checked by the model."""

    def convert(text: str) -> float:
        try:
            return kind(text)
        except ValueError:
            shown = text if len(text) <= 40 else text[:37] + "..."
            raise argparse.ArgumentTypeError(f"must be {name}, got {shown!r}") from None

    return convert


def _worker(text: str) -> tuple[int, int]:
    first, _, count = text.partition("/")
    try:
        return int(first), int(count)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be i/n with i from 0 to n - 1, got {text[:40]!r}") from None


def _add_options(command: argparse.ArgumentParser) -> None:
    """The options of a generation and of its model."""
    whole, number = _number(int, "a whole number"), _number(float, "a number")
    for name, option in OPTIONS.items():
        text = f"{option.low:g} to {option.high:g}. {option.help}"
        command.add_argument(f"--{name.replace('_', '-')}", type=whole if option.whole else number, help=text)
    command.add_argument(
        "--savings", metavar="OPTIONS", help="approximations: fast, or options such as refresh_every=4"
    )
    command.add_argument("--model", help="a checkpoint's folder or owner/name on the Hub; the bundled one by default")
    command.add_argument("--variant", help="student or teacher; by default, the checkpoint's own choice")
    command.add_argument("--device", help="cpu, cuda or mps; by default, the best of this machine")


def parser() -> Parser:
    whole, number = _number(int, "a whole number"), _number(float, "a number")
    root = Parser(prog="audiodear", description="Text to ten seconds of sound.", allow_abbrev=False)
    commands = root.add_subparsers(dest="command", required=True)

    one = commands.add_parser("generate", help="write the sound of a prompt to a file", allow_abbrev=False)
    one.add_argument("prompt", metavar="PROMPT", help="1 to 1,000 characters")
    one.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help=".wav, .flac, .mp3 or .ogg; several: FILE-1, -2, ...",
    )
    _add_options(one)
    one.add_argument("--negative-prompt", metavar="TEXT", help="what should not be heard")
    one.add_argument("--seconds", type=number, help="1 to 30: the sound is cropped, or continued past its ten seconds")
    one.add_argument("--seed", type=whole, help="the same seed gives the same sound; random by default")
    one.add_argument("--num-samples", type=whole, default=1, help="number of sounds, 1 to 64, with consecutive seeds")
    one.add_argument("--loudness", type=number, help="LUFS, -60 to -5, as far as peaks allow; unchanged by default")
    one.add_argument(
        "--candidates",
        type=whole,
        default=1,
        metavar="N",
        help="generate N for each sound; the bundled classifier selects the one that matches the prompt best",
    )
    one.set_defaults(run=generate)

    many = commands.add_parser(
        "batch", help="write the sounds of a list of prompts, in shards; resumable", allow_abbrev=False
    )
    many.add_argument("prompts", metavar="FILE", help="JSON objects, one per line: prompt, id (optional), other fields")
    many.add_argument("--out", metavar="DIR", required=True, help="created if absent; a stopped run resumes")
    many.add_argument("--seed", type=whole, default=0, help="seed of the first line; each line adds one")
    many.add_argument("--batch", type=whole, default=8, help="sounds per batch, 1 to 64")
    many.add_argument("--shard", type=whole, default=256, help="sounds per folder or tar")
    many.add_argument("--audio", default="flac", help="wav or flac")
    many.add_argument("--tar", action="store_true", help="WebDataset: one tar per shard")
    many.add_argument("--worker", type=_worker, default=(0, 1), metavar="I/N", help="write every N-th shard, from I on")
    many.add_argument("--compile", action="store_true", help="use torch.compile; for long runs on a GPU")
    _add_options(many)
    many.set_defaults(run=generate_many)

    info = commands.add_parser("info", help="print a configuration and its parameters as JSON", allow_abbrev=False)
    source = info.add_mutually_exclusive_group()
    source.add_argument("--preset", help="mini, base, base-teacher, base-visible or base-visible-teacher")
    source.add_argument("--model", help="a checkpoint's folder or owner/name on the Hub; the bundled one by default")
    info.add_argument("--variant", help="student or teacher; by default, the checkpoint's own choice")
    info.set_defaults(run=show_info)

    send = commands.add_parser("push", help="publish a checkpoint on the Hub, as one commit", allow_abbrev=False)
    send.add_argument("folder", metavar="FOLDER", help="a checkpoint's folder, with all its variants")
    send.add_argument("repository", metavar="OWNER/NAME", help="created if absent")
    send.add_argument("--private", action="store_true", default=None, help="make the repository private")
    send.add_argument("--revision", metavar="BRANCH", help="created if absent; the main branch by default")
    send.set_defaults(run=publish)

    study = commands.add_parser("listen", help="serve a listening test of several systems' sounds", allow_abbrev=False)
    study.add_argument("study", metavar="DIR", help="one folder of sounds per system, and prompts.csv (file,prompt)")
    study.add_argument("--ratings", metavar="FILE", required=True, help="SQLite file of the ratings; created if absent")
    study.add_argument("--host", default="127.0.0.1", help="address to serve at")
    study.add_argument("--port", type=whole, default=7860, help="port to serve at")
    study.set_defaults(run=listen)
    return root


def generate(options: argparse.Namespace) -> None:
    """Write the sounds and print one line for each."""
    from dear.conditioning import check_prompt

    prompt = check_prompt(options.prompt)
    from dear.config import Savings
    from dear.output import check_paths  # slower to import

    check_paths(options.output)
    from dear.pipeline import AudioDEAR

    options.savings = None if options.savings is None else Savings.parse(options.savings)
    _check_sampling(options)
    _check_request(options)
    model = AudioDEAR.from_pretrained(options.model, variant=options.variant, device=options.device)
    out = model.generate(
        prompt, seed=options.seed, num_samples=options.num_samples, negative_prompt=options.negative_prompt,
        loudness=options.loudness, candidates=options.candidates, **chosen(options),
    )  # fmt: skip
    if options.seconds is not None:
        out = model.fit(out, options.seconds)
    seconds = out.sound.shape[1] / out.sample_rate
    for file, seed in zip(out.save(options.output), out.seeds, strict=True):
        print(f"{file}: seed {seed}, {seconds:g} s of sound, all done in {out.timings['total']:.2f} s")
    if out.nearest and not out.nearest[0].known:
        print(out.nearest[0].sentence(), file=sys.stderr)


def generate_many(options: argparse.Namespace) -> None:
    """Write the sounds of a prompt file, and print the number of sounds per minute."""
    from dear.batch import BatchConfig, generate_batch, read_items
    from dear.config import Savings
    from dear.pipeline import AudioDEAR

    items = read_items(options.prompts)
    config = BatchConfig(options.seed, options.batch, options.shard, options.audio, options.tar)
    options.savings = None if options.savings is None else Savings.parse(options.savings)
    _check_sampling(options)
    model = AudioDEAR.from_pretrained(options.model, variant=options.variant, device=options.device)
    if options.compile:
        model.compile()
    done = generate_batch(model, items, options.out, config, options.worker, **chosen(options))
    rate = f", {60 * done.sounds / done.seconds:.1f} sounds a minute" if done.sounds else ""
    state = "finished" if done.finished else "this part is done, others are not"
    print(f"{options.out}: {done.sounds} sounds in {done.seconds:.1f} s{rate}; {state}")


def _check_sampling(options: argparse.Namespace) -> None:
    """Refuse bad options before the weights are loaded: their ranges follow from the configuration."""
    from dear.checkpoint import load_config, resolve
    from dear.layers import shapes_alone
    from dear.model import MaskedModel
    from dear.request import check_options

    config = load_config(resolve(options.model, variants=()))
    with shapes_alone():
        model = MaskedModel(config, options.variant)
    sampling = check_options(config.variants[model.variant].sampling, model.length, model.head, **chosen(options))
    config.check_savings(sampling.savings)


def _check_request(options: argparse.Namespace) -> None:
    """Refuse bad options of one generation before the weights are loaded."""
    from dear.loudness import HIGHEST, LOWEST
    from dear.output import check_paths
    from dear.request import MAX_SAMPLES, MAX_SEED, check_number, check_whole
    from dear.variations import LONGEST, SHORTEST

    check_paths(options.output, check_whole("num_samples", options.num_samples, 1, MAX_SAMPLES))
    check_whole("candidates", options.candidates, 1, MAX_SAMPLES // options.num_samples)
    if options.seconds is not None:
        check_number("seconds", options.seconds, SHORTEST, LONGEST)
        if options.num_samples > 1:
            raise ValueError(f"num_samples must be 1 where seconds is given, got {options.num_samples}")
    if options.seed is not None:
        check_whole("seed", options.seed, 0, MAX_SEED)
    if options.loudness is not None:
        check_number("loudness", options.loudness, LOWEST, HIGHEST)


def show_info(options: argparse.Namespace) -> None:
    """Print the configuration and the parameters of each part, without frozen encoders and the codec."""
    import json

    from dear.checkpoint import load_config, resolve
    from dear.layers import shapes_alone
    from dear.model import MaskedModel
    from dear.presets import preset

    config = load_config(resolve(options.model, variants=())) if options.preset is None else preset(options.preset)
    variant = config.default_variant if options.variant is None else options.variant
    with shapes_alone():
        model = MaskedModel(config, variant)
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    parameters["total"] = sum(p.numel() for p in model.parameters())
    print(json.dumps({"variant": variant, "parameters": parameters, "config": config.to_dict()}, indent=2))


def publish(options: argparse.Namespace) -> None:
    """Push a checkpoint and print the commit's address. The token is that of `hf auth login` or HF_TOKEN."""
    from dear.checkpoint import push

    print(push(options.folder, options.repository, private=options.private, revision=options.revision))


def listen(options: argparse.Namespace) -> None:
    """Serve a listening test until interrupted."""
    from dear.ui.listening_page import run

    run(options.study, options.ratings, options.host, options.port)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0, 2 for bad input (one sentence on stderr), 130 where interrupted."""

    def run() -> None:
        options = parser().parse_args(argv)
        options.run(options)

    try:
        return guarded(run, prefix="")
    except RuntimeError as error:
        import torch

        if not isinstance(error, torch.OutOfMemoryError):
            raise
        print("the device's memory is too small for this; ask for fewer samples at once", file=sys.stderr)
        return 2
