"""The results of Generate: facts, player, files, takes and pictures of a sound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from dear.config import Config
from dear.output import Output
from dear.ui.components import chips, result, takes
from dear.ui.components.files import LIFETIME, store, store_card
from dear.ui.components.pictures import strip
from dear.ui.components.runs import expired

EMPTY = (
    '<div class="dear-empty"><p>Nothing generated yet.</p><p>Type a prompt and press Generate, or choose an example. '
    "You will see the sound take shape, and hear it when it is done.</p></div>"
)
# The picture is of the sound, for messages and posts.
DOWNLOADS = {".wav": "WAV", ".flac": "FLAC", ".mp3": "MP3", ".ogg": "Ogg", ".png": "Picture"}
Latest = tuple[Config, Output] | None  # the last result of a visitor


@dataclass(frozen=True, eq=False)
class SoundPanel:
    """The components, and what they become. Files go into ``folder``."""

    folder: Path
    facts: gr.HTML
    familiar: gr.HTML  # what the model was not trained on
    variation: gr.Radio
    sound: gr.Audio
    downloads: dict[str, gr.DownloadButton]  # by suffix
    use_as_start: gr.Button
    vary: gr.Button
    loop: gr.Button
    strength: gr.Slider
    takes: gr.HTML
    pictures: gr.HTML
    latest: gr.State
    path: gr.State  # of the sound that is shown
    new_takes: gr.Textbox  # the sounds of the last generation, for the takes

    @property
    def shown(self) -> list[Any]:
        """The components that change with the sound that is shown."""
        tools = [self.use_as_start, self.vary, self.loop]
        return [self.sound, self.path, *self.downloads.values(), *tools, self.facts, self.familiar, self.pictures]

    @property
    def outputs(self) -> list[Any]:
        """All components that a run changes."""
        return [*self.shown, self.variation, self.latest, self.new_takes]

    @property
    def other_downloads(self) -> list[Any]:
        """The buttons that :meth:`other_files` fills."""
        return [button for suffix, button in self.downloads.items() if suffix != ".wav"]

    def draft(self, out: Output) -> dict[Any, Any]:
        """A first listen before the end. A visitor who stops the run keeps it."""
        file = store(out, self.folder)
        return {
            self.sound: gr.Audio(file, label="Draft, before the sound is finished"),
            self.path: file,
            self.variation: gr.Radio(visible=False),
            **self.no_tools(),
            self.downloads[".wav"]: gr.DownloadButton(value=file, interactive=True),
            self.use_as_start: gr.Button(interactive=True),
        }

    def no_tools(self) -> dict[Any, Any]:
        """Disable everything that downloads or uses a sound."""
        buttons = self.use_as_start, self.vary, self.loop
        return {
            **dict.fromkeys(self.downloads.values(), gr.DownloadButton(interactive=False)),
            **dict.fromkeys(buttons, gr.Button(interactive=False)),
        }

    def show(self, out: Output, index: int) -> dict[Any, Any]:
        """One of the sounds of a finished generation, with its file and facts."""
        one = out[index]
        file = store(one, self.folder)
        return {
            self.sound: gr.Audio(file, label="Sound"),
            self.path: file,
            self.downloads[".wav"]: gr.DownloadButton(value=file, interactive=True),
            **dict.fromkeys((self.use_as_start, self.vary, self.loop), gr.Button(interactive=True)),
            self.facts: result.facts(one, out),
            self.familiar: chips.nearest_html(one.nearest[0] if one.nearest else None),
        }

    def finish(self, config: Config, out: Output) -> Iterator[dict[Any, Any]]:
        """The sound first, then its pictures, which take longer, and the takes."""
        variations = gr.Radio([(str(i + 1), i) for i in range(len(out))], value=0, visible=len(out) > 1)
        yield {self.latest: (config, out), self.variation: variations, **self.show(out, 0)}
        strips = [strip(one, config.mel, f"Mel spectrogram of take {one.seed}") for one in out]
        files = [store(one, self.folder) for one in out]
        yield {self.pictures: result.pictures(config, out[0]), self.new_takes: takes.describe(out, files, strips)}

    def show_variation(self, latest: Latest, index: int) -> Iterator[dict[Any, Any]]:
        """Another sound of the last result."""
        if latest is None:
            raise expired("Generate")
        config, out = latest
        yield self.show(out, index)
        yield {self.pictures: result.pictures(config, out[index])}

    def other_files(self, latest: Latest, index: int | None) -> list[Any]:
        """The files of the sound that is shown, except the WAV. They take longer, and no run waits for them."""
        suffixes = [suffix for suffix in self.downloads if suffix != ".wav"]
        if latest is None:
            return [gr.skip() for _ in suffixes]
        config, one = latest[0], latest[1][index or 0]
        files = [
            store_card(one, config.mel, self.folder) if suffix == ".png" else store(one, self.folder, suffix)
            for suffix in suffixes
        ]
        return [gr.DownloadButton(value=file, interactive=True) for file in files]


def sound_panel(folder: Path) -> SoundPanel:
    """Lay the panel out in the current column."""
    facts = gr.HTML(EMPTY, elem_id="facts", elem_classes="dear-status")
    familiar = chips.picker("", "familiar")
    variation = gr.Radio([], label="Variations", visible=False, elem_id="variation", elem_classes="dear-pick")
    sound = gr.Audio(
        label="Sound", type="filepath", format="wav", interactive=False, buttons=[],
        waveform_options=gr.WaveformOptions(show_recording_waveform=False), elem_id="sound", elem_classes="dear-sound",
    )  # fmt: skip
    with gr.Row(elem_classes="dear-tools"):
        downloads = {
            suffix: gr.DownloadButton(name, size="sm", interactive=False, elem_id=suffix[1:])
            for suffix, name in DOWNLOADS.items()
        }
        use_as_start = gr.Button("Use as start", size="sm", interactive=False, elem_id="use")
    with gr.Row(elem_classes="dear-tools"):
        vary = gr.Button("Vary", size="sm", interactive=False, elem_id="vary")
        loop = gr.Button("Make it loop", size="sm", interactive=False, elem_id="loop")
        strength = gr.Slider(
            0.05, 1, 0.3, step=0.05, label="Strength of a variation", elem_id="strength", min_width=180,
            info="The share of the sound that is generated again.",
        )  # fmt: skip
    panel, pictures = takes.panel(), gr.HTML("", elem_id="pictures")
    latest, path = gr.State(None, time_to_live=LIFETIME), gr.State(None)
    return SoundPanel(
        folder, facts, familiar, variation, sound, downloads, use_as_start, vary, loop, strength, panel, pictures,
        latest, path, gr.Textbox("", visible=False),
    )  # fmt: skip
