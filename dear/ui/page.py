"""The page: header, tabs, and one look for all of them, in light and dark, without a request to any other host."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

import gradio as gr
from gradio.themes.utils import colors, fonts

from dear import plots
from dear.pipeline import AudioDEAR
from dear.ui.generate import generate_tab

TITLE = "AudioDEAR"
SENTENCE = "Describe a sound and hear ten seconds of it, drawn from noise in a few passes that you can watch."

TEAL = colors.Color(
    c50="#eff8f6", c100="#d8eeea", c200="#b3ddd6", c300="#84c4bb", c400="#4fa79e", c500="#2b8f8a",
    c600="#1f757d", c700="#1b5f68", c800="#194c55", c900="#173f47", c950="#0c252b", name="teal",
)  # fmt: skip
STONE = colors.Color(
    c50="#f7f8f7", c100="#eff1f0", c200="#e1e5e4", c300="#cbd1d0", c400="#9aa3a4", c500="#6a7476",
    c600="#525b5e", c700="#363e41", c800="#21282b", c900="#171d20", c950="#101517", name="stone",
)  # fmt: skip
# Served by Gradio itself. Its file of weight 600 lacks the Latin letters, hence 700.
FONT = (fonts.LocalFont("IBM Plex Sans", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif")
MONO = (fonts.LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace")

THEME = gr.themes.Base(
    primary_hue=TEAL, secondary_hue=TEAL, neutral_hue=STONE, radius_size="lg", font=FONT, font_mono=MONO
).set(
    body_background_fill="*neutral_50",
    body_background_fill_dark="*neutral_950",
    block_background_fill="white",
    block_background_fill_dark="*neutral_900",
    block_border_color="*neutral_200",
    block_border_color_dark="*neutral_800",
    block_border_width="1px",
    block_label_background_fill="transparent",
    block_label_background_fill_dark="transparent",
    block_label_border_width="0px",
    block_label_text_color="*neutral_600",
    block_label_text_color_dark="*neutral_300",
    block_title_text_color="*neutral_800",
    block_title_text_color_dark="*neutral_100",
    block_title_text_weight="600",
    block_info_text_color="*neutral_500",
    block_info_text_color_dark="*neutral_400",
    body_text_color="*neutral_800",
    body_text_color_dark="*neutral_100",
    body_text_color_subdued="*neutral_500",
    body_text_color_subdued_dark="*neutral_400",
    input_background_fill="white",
    input_background_fill_dark="*neutral_950",
    input_border_width="1px",
    input_border_color="*neutral_300",
    input_border_color_dark="*neutral_700",
    input_border_color_focus="*primary_500",
    input_border_color_focus_dark="*primary_400",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_dark="*primary_600",
    button_primary_background_fill_hover_dark="*primary_700",
    button_primary_text_color="white",
    slider_color="*primary_500",
    slider_color_dark="*primary_400",
    checkbox_background_color_selected="*primary_600",
    checkbox_background_color_selected_dark="*primary_500",
)

CSS = """
.gradio-container { max-width: 1320px !important; margin: 0 auto !important; }
.gradio-container .html-container.html-container { padding: 0; }
.dear-header { padding-top: 12px; }
.dear-header h1 { font-size: 30px; line-height: 1.15; letter-spacing: -0.02em; margin: 0; }
.dear-header h1 em { font-style: normal; color: var(--primary-600); }
.dark .dear-header h1 em { color: var(--primary-400); }
.dear-header p { font-size: 16px; line-height: 1.5; margin: 6px 0 10px; }
.dear-header p, .dear-note, .dear-empty p { color: var(--body-text-color-subdued) !important; }
.dear-tab { gap: 32px !important; align-items: flex-start; }
.dear-controls { gap: 12px !important; }
.dear-results { gap: 18px !important; scroll-margin-top: 12px; }
.dear-controls .form:has(> #prompt), #prompt { border: 0; border-radius: 0; background: none; box-shadow: none;
  overflow: visible !important; }
.gradio-container #prompt { padding: 0 !important; }
#prompt textarea { font-size: 17px; line-height: 1.45; padding: 12px 14px; }
#generate { font-size: 16px; padding: 11px 16px; }

.dear-examples { padding: 0 !important; border: 0 !important; background: none !important; }
.dear-examples .label { color: var(--body-text-color-subdued); font-size: 13px; margin-bottom: 5px; }
.dear-examples .label svg { display: none; }
.dear-examples .gallery { gap: 6px; }
.dear-examples .gallery-item { border: 1px solid var(--block-border-color); border-radius: 999px; padding: 5px 12px;
  background: var(--block-background-fill); font-size: 13px; line-height: 1.4; box-shadow: none; text-align: left; }
.dear-examples .gallery-item .gallery { padding: 0; }
.dear-examples .gallery-item:hover, .dear-examples .gallery-item:focus-visible { border-color: var(--primary-500); }
.dear-note { font-size: 13px; line-height: 1.5; margin: 0; }
.dear-settings input[type="range"] { --neutral-200: var(--dear-track); }
.gradio-container { --dear-track: #e1e5e4; }
.dark .gradio-container, .gradio-container.dark { --dear-track: #363e41; }
.dear-seed { align-items: stretch; }
.dear-seed > * { border: 0 !important; }
#dice { display: flex; align-items: end; padding-bottom: 18px; }

#sound .empty { min-height: 78px; }
#sound audio { width: 100%; color-scheme: light; }
.dark #sound audio { color-scheme: dark; }

/* The message says it already. */
#facts [data-testid="status-tracker"]:has(.error) { display: none; }
.dear-headline { font-size: 16px; margin: 0 0 10px; }
.dear-headline span { color: var(--body-text-color-subdued); }
.dear-bar { height: 6px; border-radius: 3px; background: var(--dear-track); overflow: hidden; }
.dear-bar span { display: block; height: 100%; background: var(--primary-500); }
.dear-stages { display: flex; gap: 2px; height: 6px; border-radius: 3px; overflow: hidden; }
.dear-stages span { flex-basis: 2px; }
.dear-stage-0 { background: #cf7f4d; } .dear-stage-1 { background: #2b8f8a; }
.dear-stage-2 { background: #d9b44a; } .dear-stage-3 { background: #5f7f97; }
.dear-facts .dear-legend { display: flex; flex-wrap: wrap; gap: 2px 18px; list-style: none; margin: 8px 0 0; padding: 0;
  font-size: 13px; color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.dear-legend i { display: inline-block; width: 8px; height: 8px; border-radius: 2px; margin-right: 7px; }
.dear-facts dl { display: flex; flex-wrap: wrap; gap: 8px 30px; margin: 14px 0 0; }
.dear-facts dt { font-size: 12.5px; color: var(--body-text-color-subdued); font-weight: 400; }
.dear-facts dd { font-size: 14.5px; margin: 0; font-variant-numeric: tabular-nums; }

.dear-empty { border: 1px dashed var(--neutral-400); border-radius: 12px; padding: 72px 24px; text-align: center; }
.dark .dear-empty { border-color: var(--neutral-700); }
.dear-empty p { margin: 4px auto; max-width: 44ch; line-height: 1.5; }
.dear-pictures { display: flex; flex-direction: column; gap: 16px; }
.dear-pictures figure { margin: 0; }
.dear-pictures figcaption { font-size: 14.5px; font-weight: 600; margin-bottom: 2px; }
.dear-pictures figcaption span { font-weight: 400; color: var(--body-text-color-subdued); margin-left: 4px; }
.dear-plot { position: relative; color: var(--body-text-color-subdued); }
.dear-plot svg { display: block; width: 100%; height: auto; overflow: visible; }
.dear-plot svg text { font-family: var(--font); font-variant-numeric: tabular-nums; }
.dear-smooth svg image { image-rendering: auto !important; }
.dear-plot[style]::after { content: ""; position: absolute; top: 0; bottom: 0; width: 1.5px; pointer-events: none;
  background: #fff; box-shadow: 0 0 0 1px #10151799; left: calc(LEFT% + var(--played) * SPAN%); }

/* Pictures shrink with the window, their letters do not. */
@media (max-width: 1180px) { .dear-plot svg text { font-size: 11px !important; } }
@media (max-width: 640px) {
  .dear-plot svg text { font-size: 15px !important; translate: 0 2px; }
  .dear-plot svg text[style*="middle"] { translate: 0 5px; }
  .dear-header h1 { font-size: 26px; }
  .dear-header p { font-size: 15px; }
  .dear-facts dl { gap: 8px 22px; }
}
""".replace("LEFT", f"{100 * plots.LEFT:g}").replace("SPAN", f"{100 * (plots.RIGHT - plots.LEFT):g}")

# The style is for what lies around the blocks, where Gradio prefixes the rules of ``css`` so that they miss.
# The script runs a line over the pictures while their sound plays; a click on a picture plays from there.
HEAD = """
<style>
.gradio-container .main.app { max-width: none !important; }
@media (max-width: 640px) {
  .gradio-container .main.app { padding: 12px 16px !important; }
  footer .divider { display: none !important; }
}
</style>
<script>
(() => {
  const results = (inside) => inside.closest(".dear-results");
  const follow = (audio) => {
    const mark = () => {
      results(audio)?.querySelectorAll(".dear-plot").forEach((plot) =>
        plot.style.setProperty("--played", audio.currentTime / Number(plot.dataset.seconds)));
      if (!audio.paused) requestAnimationFrame(mark);
    };
    mark();
  };
  for (const event of ["play", "seeked"])
    document.addEventListener(event, (e) => { if (results(e.target)) follow(e.target); }, true);
  document.addEventListener("click", (e) => {
    const plot = e.target.closest?.(".dear-plot");
    const audio = plot && results(plot)?.querySelector("audio");
    if (!audio?.duration) return;
    const box = plot.getBoundingClientRect();
    const share = ((e.clientX - box.left) / box.width - LEFT) / SPAN;
    if (share < 0 || share > 1) return;
    audio.currentTime = Math.min(share * Number(plot.dataset.seconds), audio.duration);
    audio.play();
  });
})();
</script>
""".replace("LEFT", f"{plots.LEFT:g}").replace("SPAN", f"{plots.RIGHT - plots.LEFT:g}")


def build(model: AudioDEAR, folder: Path) -> gr.Blocks:
    """The page around one model. Files of results go into ``folder``, which must exist."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(f'<header class="dear-header"><h1>Audio<em>DEAR</em></h1><p>{SENTENCE}</p></header>')
        generate_tab(model, folder)
    return page.queue(max_size=32, default_concurrency_limit=4)


def serve(model: AudioDEAR, host: str, port: int) -> gr.Blocks:
    """Start serving the page, in threads of its own. ``local_url`` of the result is its address.

    Raises OSError where the port is taken.
    """
    folder = Path(tempfile.mkdtemp(prefix="audiodear-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    page = build(model, folder)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            theme=THEME,
            css=CSS,
            head=HEAD,
            footer_links=["api", "settings"],
            max_file_size="1mb",
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise OSError(f"port {port} of {host} can't be served, perhaps another program has it: set PORT") from error
    return page
