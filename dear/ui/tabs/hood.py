"""The tab that shows how the method works: samplers learn a toy, and the model draws its own illustrations."""

from __future__ import annotations

import functools
import html
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
import torch

from dear.config import Config
from dear.heads import HEADS
from dear.output import Output
from dear.pipeline import AudioDEAR
from dear.toy import MOST_STEPS, POINTS, TOYS, ToyTraining, mmd, reference, spread_scores, wasserstein
from dear.ui.assets import load
from dear.ui.components import checks, controls
from dear.ui.components.files import LIFETIME
from dear.ui.components.pictures import seconds_text, strip
from dear.ui.components.runs import QUEUE, QUIET, Start, page_errors, progress_bar, run_buttons, runs
from dear.ui.context import Context, Tab
from dear.ui.gpu import on_gpu
from dear.ui.model_registry import MAX_CHECKPOINTS, ModelChoice
from dear.visual import plots, sketches

# One playground trains at a time, on one core, beside the one generation that may run.
TOY_QUEUE: dict[str, Any] = {"concurrency_id": "toy", "concurrency_limit": 1}
PICTURE_INTERVAL = 0.3  # seconds of training between two pictures
PICTURE_SHARE = 0.3  # of the time that goes into pictures, at most
ALL = "All heads"
TITLES = {kind: head.title for kind, head in HEADS.items()}
TOY_NAMES = {"swiss-roll": "Swiss roll", "gaussians": "Eight Gaussians"}
REACH = 2.4  # of the pictures, in both directions
PROMPT, SEED = "a dog barks, then rain falls", 0  # of the model's illustrations
EMPTY = (
    '<div class="dear-empty"><p>Nothing trained yet.</p><p>Press Train. Each head learns to turn the same noise into '
    "points of the target.</p></div>"
)
INTRO = (
    "These are the heads of this repository in miniature. They draw points in a plane instead of tokens of sound. With "
    "one step, diffusion and flow matching miss the target, because they are trained for many small steps; with more "
    "steps they catch up. Energy scoring, MeanFlow and Shortcut are trained to need only one."
)


@dataclass(eq=False)
class Playground:
    """The training of one visitor, who may change ``steps`` while it runs."""

    trainings: list[ToyTraining]
    steps: int


def build(context: Context) -> None:
    models = context.models
    with gr.Row(equal_height=False, elem_classes="dear-tab"):
        with gr.Column(scale=4, min_width=320, elem_classes="dear-controls"):
            gr.HTML(f'<p class="dear-note">{INTRO}</p>')
            start, stop = run_buttons("Train", "toy-train")
            with gr.Group(elem_classes="dear-settings"):
                head = gr.Radio(
                    [ALL, *TITLES.values()], value=ALL, label="Head", elem_id="toy-head",
                    info="One head needs up to a minute, depending on this machine. All heads take turns.",
                )  # fmt: skip
                steps = gr.Slider(
                    1, MOST_STEPS, 1, step=1, label="Steps", elem_id="toy-steps",
                    info="Steps from noise to a point. You can change them at any time. Energy scoring takes one.",
                )  # fmt: skip
                toy = gr.Radio([(TOY_NAMES[name], name) for name in TOYS], value="swiss-roll", label="Target")
                seed, lock = controls.seed_row("toy-")
        with gr.Column(scale=8, min_width=320, elem_classes="dear-results"):
            status = gr.HTML("", elem_id="toy-status", elem_classes="dear-status")
            panels = gr.HTML(EMPTY, elem_id="toy-panels")
    article = gr.HTML(_article(models.get(None), None), elem_id="method")
    latest = gr.State(None, time_to_live=LIFETIME)
    illustrated = gr.State(None)  # the ModelChoice of the illustrations that this visitor sees

    def run(title: str, count: float, name: str, number: float | None, keep: bool) -> Iterator[dict[Any, Any]]:
        kinds = list(TITLES) if title == ALL else [kind for kind in TITLES if TITLES[kind] == title]
        first = checks.resolve_seed(number, keep)
        with page_errors():
            play = Playground([ToyTraining(kind, name, first) for kind in kinds], int(count))
            yield {seed: first, latest: play, panels: _panels(play), status: progress_bar("Training", 0)}
        began, drawing = time.perf_counter(), 0.0
        learning = list(play.trainings)
        while learning:
            pause = time.perf_counter() + max(PICTURE_INTERVAL, drawing * (1 / PICTURE_SHARE - 1))
            while learning:
                min(learning, key=_share).train(10)
                learning = [each for each in learning if _share(each) < 1]
                if time.perf_counter() >= pause:
                    break
            now, share = time.perf_counter(), sum(map(_share, play.trainings)) / len(play.trainings)
            remaining = (now - began) * (1 / share - 1)
            shown = _panels(play)
            drawing = time.perf_counter() - now
            yield {panels: shown, status: progress_bar(f"Training: about {remaining:.0f} s left", share)}
        took = f"Trained in {seconds_text(time.perf_counter() - began)}"
        yield {
            stop: gr.Button(interactive=False),
            status: f'<p class="dear-headline" role="status">{took}. <span>Now change the number of steps.</span></p>',
        }

    def redraw(play: Playground | None, count: float) -> Any:
        if play is None:
            return gr.skip()
        play.steps = int(count)  # a training in progress uses them, too
        return _panels(play)

    @on_gpu()
    def film(chosen: str) -> list[Output]:
        model = models.get(chosen)
        every = -(-model.sampling.iterations // 4)
        return list(model.stream(PROMPT, seed=SEED, every=every))

    articles: dict[ModelChoice, str] = {}  # with the illustrations of a model; oldest first
    one_at_a_time = threading.Lock()

    def illustrate(chosen: str, shown: ModelChoice | None) -> tuple[Any, ModelChoice]:
        """The article with illustrations of the visitor's model, drawn when the tab is first opened."""
        with page_errors():
            choice = models.choice(chosen)
            if shown == choice:
                return gr.skip(), choice
            with one_at_a_time:
                if choice not in articles:
                    articles[choice] = _article(models.get(choice), film(chosen))
                    for each in list(articles)[: -1 - MAX_CHECKPOINTS]:
                        del articles[each]
                return articles[choice], choice

    outputs = [stop, status, panels, seed, latest]
    runs([Start([start.click], run, [head, steps, toy, seed, lock])], outputs, stop, status, TOY_QUEUE)
    steps.change(redraw, [latest, steps], panels, trigger_mode="always_last", **QUIET)
    context.tab.select(illustrate, [context.chosen, illustrated], [article, illustrated], **QUIET, **QUEUE)


def _share(training: ToyTraining) -> float:
    return training.iteration / training.iterations


def _panels(play: Playground) -> str:
    """The target, then the points of each head over it, all on one scale."""
    toy = play.trainings[0].toy
    target, shown = reference(toy), [_target(toy)]
    for training in play.trainings:
        points = training.draw(play.steps)
        steps = training.steps_taken(play.steps)
        count = f"{steps} step" + ("s" if steps > 1 else "")
        distances = _distances(target, points)
        label = f"{POINTS} points that {TITLES[training.kind]} draws in {count}, over the target"
        picture = sketches.scatter_svg([(target, f"{plots.ACCENT}66"), (points, sketches.WARM)], REACH, label)
        outside = int((points.abs() > REACH).any(dim=1).sum())
        far = f"; {outside} outside" if outside else ""
        shown.append(_panel(picture, TITLES[training.kind], count + far, distances))
    return f'<div class="dear-toy">{"".join(shown)}</div>'


@functools.cache
def _target(toy: str) -> str:
    target, name = reference(toy), TOY_NAMES[toy]
    picture = sketches.scatter_svg([(target, plots.ACCENT)], REACH, f"{name}: {POINTS} points of the target")
    return _panel(picture, "Target", name, f"Two draws of it: {_distances(target, reference(toy, draw=1))}")


def _distances(target: torch.Tensor, points: torch.Tensor) -> str:
    return f"MMD <b>{mmd(target, points):.3f}</b> WSD <b>{wasserstein(target, points):.3f}</b>"


def _panel(picture: str, title: str, note: str, numbers: str) -> str:
    return f"<figure>{picture}<figcaption><strong>{title}</strong> {note}<p>{numbers}</p></figcaption></figure>"


def _article(model: AudioDEAR, outs: list[Output] | None) -> str:
    """The method in words, illustrated with the partial results ``outs`` of one generation if there are any."""
    config, iterations = model.config, model.sampling.iterations
    length, dim = config.length, config.vae.token_dim
    pending = '<div class="dear-soon"></div>'
    chain, film, scores = (
        (_chain(config, outs[-1]), _film(config, outs), _scores()) if outs else (pending, pending, pending)
    )
    return (
        load("method.html")
        .rstrip()
        .format(length=length, dim=dim, iterations=iterations, chain=chain, film=film, scores=scores, points=POINTS)
    )


def _chain(config: Config, out: Output) -> str:
    """Prompt, tokens, mel and sound of one generation, from left to right."""
    known = (
        ("Tokens", f"{config.length} of {config.vae.token_dim} numbers",
         plots.to_svg(sketches.latents_strip(out.latents[0].numpy()), "The values of all tokens over time")),
        ("Spectrogram", f"{config.mel.n_mels} pitches over {config.mel.samples / config.mel.sample_rate:g} s",
         plots.to_svg(plots.mel_strip(out.mel[0].numpy(), config.mel), "Mel spectrogram of the sound")),
        ("Sound", f"{config.mel.samples:,} samples",
         plots.to_svg(sketches.waveform_strip(out.sound[0].numpy()), "Waveform of the sound")),
    )  # fmt: skip
    boxes = "".join(
        f'<i aria-hidden="true">→</i><figure><div class="dear-strip">{picture}</div>'
        f"<figcaption>{name}<br>{note}</figcaption></figure>"
        for name, note, picture in known
    )
    note = f"<figcaption>Prompt<br>{len(PROMPT.split())} words</figcaption>"
    prompt = f'<figure><div class="dear-words">“{html.escape(PROMPT)}”</div>{note}</figure>'
    return f'<div class="dear-chain">{prompt}{boxes}</div>'


def _film(config: Config, outs: list[Output]) -> str:
    """Stills of a generation: the mel, and the tokens that are known."""
    since, stills = 0, []
    for out in outs:
        order = out.order[0].numpy()
        count = f"{int((order >= 0).sum())} of {config.length} tokens"
        drawn = f"after iteration {out.iteration} of {out.iterations}: {count} known"
        picture = strip(out, config.mel, f"Mel spectrogram {drawn}")
        tokens = sketches.tokens_svg(order, since, config.grid, f"Tokens {drawn}; the latest are highlighted")
        stills.append(
            f'<figure>{picture}<div class="dear-tokens">{tokens}</div>'
            f"<figcaption>Iteration {out.iteration}<br>{count}</figcaption></figure>"
        )
        since = out.iteration
    return f'<div class="dear-stills">{"".join(stills)}</div>'


@functools.cache
def _scores() -> str:
    """The two figures of the energy score."""
    target, samples = torch.tensor([0.1, 0.55]), torch.tensor([[-0.95, -0.5], [0.85, -0.62]])
    first, second, apart = (float((a - b).norm()) for a, b in ((samples[0], target), (samples[1], target), samples))
    total = f"{first:.2f} + {second:.2f} − {apart:.2f} = {first + second - apart:.2f}"
    score = plots.to_svg(
        sketches.score_figure(target, samples),
        f"Two samples, each pulled to the target and pushed from the other. The loss is {total}",
    )
    spreads = [i / 20 for i in range(41)]
    curves = spread_scores(spreads, torch.Generator().manual_seed(0))
    spread = plots.to_svg(
        sketches.spread_figure(spreads, *curves),
        "The loss over the spread of the samples. With both terms it is least at the spread of the data",
    )
    return (
        f'<div class="dear-pair"><figure>{score}<figcaption>The loss of these two draws: {total}</figcaption></figure>'
        f"<figure>{spread}<figcaption>The mean loss of samples by how far they spread</figcaption></figure></div>"
    )


TAB = Tab("hood", "Under the hood", build, styles=("hood.css",))
