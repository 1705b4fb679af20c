"""One look for all tabs, in light and dark, without a request to any other host."""

from __future__ import annotations

import gradio as gr
from gradio.themes.utils import colors, fonts

from dear import plots

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
    button_secondary_background_fill="white",
    button_secondary_background_fill_dark="*neutral_900",
    button_secondary_background_fill_hover="*neutral_100",
    button_secondary_background_fill_hover_dark="*neutral_800",
    button_secondary_border_color="*neutral_300",
    button_secondary_border_color_dark="*neutral_700",
    button_secondary_text_color="*neutral_800",
    button_secondary_text_color_dark="*neutral_100",
    button_border_width="1px",
    checkbox_label_background_fill="white",
    checkbox_label_background_fill_dark="*neutral_900",
    checkbox_label_background_fill_hover="*neutral_100",
    checkbox_label_background_fill_hover_dark="*neutral_800",
    checkbox_label_background_fill_selected="*primary_50",
    checkbox_label_background_fill_selected_dark="*primary_950",
    checkbox_label_border_width="1px",
    checkbox_label_border_color="*neutral_200",
    checkbox_label_border_color_dark="*neutral_700",
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
.form:has(> .dear-prompt), .form:has(> .dear-pick), .dear-prompt, .dear-pick { border: 0 !important; gap: 14px;
  border-radius: 0; background: none !important; box-shadow: none !important; overflow: visible !important; }
.gradio-container .dear-prompt, .gradio-container .dear-pick { padding: 0 !important; }
.dear-prompt textarea { font-size: 17px; line-height: 1.45; padding: 12px 14px; unicode-bidi: plaintext; }
.dear-go { gap: 8px !important; flex-wrap: nowrap !important; }
.dear-go button { font-size: 16px; padding: 11px 16px; }
.dear-go .dear-stop { flex: 0 0 auto; min-width: 84px !important; }
.dear-go .dear-stop:disabled { opacity: 0.45; }

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
.dear-seed { flex-wrap: nowrap !important; }
.dear-seed > .form { flex: 1 1 0 !important; min-width: 0 !important; }
.dear-lock { display: flex; align-items: end; padding-bottom: 18px; }
.dear-dice { flex: 0 0 auto !important; min-width: 40px !important; padding: 0 2px 13px !important; font-size: 17px;
  align-items: end; border-radius: 0 !important; background: var(--block-background-fill) !important; }
.dear-dice:hover { filter: brightness(1.12); }

.dear-sound .empty { min-height: 78px; }
.dear-tab audio { width: 100%; color-scheme: light; }
.dark .dear-tab audio { color-scheme: dark; }
.dear-tools { gap: 8px !important; }
.dear-tools button, .dear-tools a { flex: 0 1 auto !important; min-width: 76px !important; font-weight: 400 !important;
  font-size: 13.5px !important; padding: 6px 13px !important; }
.dear-link { color: var(--primary-600) !important; font-size: 13.5px; padding: 0 !important; border: 0 !important;
  text-decoration: underline !important; text-underline-offset: 3px;
  text-decoration-color: color-mix(in srgb, currentColor 35%, transparent) !important; }
.dear-link:hover { text-decoration-color: currentColor !important; }
.dark .dear-link { color: var(--primary-400) !important; }
.dear-facts .dear-after { margin: 14px 0 0; }

/* The message says it already. */
.dear-status [data-testid="status-tracker"]:has(.error) { display: none; }
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
.dear-plot[style*="--played"]::after { content: ""; position: absolute; top: 0; bottom: 0; width: 1.5px;
  pointer-events: none; background: #fff; box-shadow: 0 0 0 1px #10151799; left: calc(LEFT% + var(--played) * SPAN%); }

button.dear-film { float: right; border: 0; background: none; padding: 0; font: inherit; font-size: 13.5px;
  cursor: pointer; font-weight: 400; color: var(--primary-600); text-decoration: underline;
  text-underline-offset: 3px; }
.dark button.dear-film { color: var(--primary-400); }
.dear-cover { position: absolute; top: var(--top); bottom: var(--bottom); left: LEFT%; width: SPAN%; display: grid;
  pointer-events: none; }
.dear-cover i { background: #24292c; box-shadow: inset 0 0 0 .5px #3a4145; transition: opacity .15s; }

.dear-map .dear-plot::before { content: ""; position: absolute; top: 3.4%; bottom: 10.5%; pointer-events: none;
  border: solid #fff; border-width: 0 2px; background: #ffffff2e; box-shadow: 0 0 0 1px #10151766;
  left: calc(LEFT% + var(--from, 0) * SPAN%); width: calc((var(--to, 0) - var(--from, 0)) * SPAN%); }
.dear-map .dear-plot { cursor: crosshair; touch-action: pan-y; user-select: none; }
.dear-map .dear-plot[data-region="none"]::before { display: none; }

.dear-grid { display: grid !important; gap: 20px !important;
  grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); }
.dear-grid > * { min-width: 0 !important; }
.dear-grid > :has(.dear-first) { grid-column-start: 1; }
.dear-cell h3 { font-size: 14.5px; font-weight: 600; margin: 0 0 6px; }
.dear-cell h3 span { font-weight: 400; color: var(--body-text-color-subdued); margin-left: 6px; }
.dear-strip { border-radius: 6px; overflow: hidden; line-height: 0; }
.dear-strip svg { display: block; width: 100%; height: auto; }
.dear-strip svg image { image-rendering: auto !important; }
.dear-cell audio { height: 40px; margin-top: 8px; }
.dear-scale-bar { display: flex; align-items: center; gap: 10px; font-size: 12.5px; max-width: 320px;
  color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.dear-scale-bar i { flex: 1; height: 8px; border-radius: 4px; background: linear-gradient(90deg, LOUDNESS); }
.dear-clock { font-size: 30px; line-height: 1.1; letter-spacing: -0.02em; font-variant-numeric: tabular-nums;
  margin: 2px 0 10px; }
.dear-clock small { font-size: 15px; letter-spacing: 0; color: var(--body-text-color-subdued); }
.dear-blank { aspect-ratio: 3.2; border: 1px dashed var(--neutral-400); border-radius: 6px; margin-top: 10px; }
.dark .dear-blank { border-color: var(--neutral-700); }
.dear-cell .dear-bar + .dear-strip { margin-top: 10px; }
.dear-duel { gap: 28px !important; align-items: flex-start; }
.dear-duel > * { min-width: min(300px, 100%) !important; }
.dear-model { max-width: 760px; }
.dear-tabs > .tab-wrapper { margin-bottom: 22px; }
.dear-refused { font-size: 14.5px; margin: 0; color: #a5532a !important; }
.dark .dear-refused { color: #e3a47d !important; }

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
CSS = CSS.replace("LOUDNESS", ", ".join(plots.LOUDNESS_COLOURS))

# The style is for what lies around the blocks, where Gradio prefixes the rules of ``css`` so that they miss.
# The script runs a line over the pictures while their sound plays; a click on a picture plays from there. One sound
# plays at a time. A link to a sound is copied, and becomes the page's own address. A region is drawn with the pointer
# over the picture of the sound to change: that moves the two sliders, which a keyboard moves as well. The dice,
# which is but a picture, gets a name.
FILM_MS = 4000  # of the film of a finished sound, however fast it was drawn
HEAD = (
    """
<style>
.gradio-container .main.app { max-width: none !important; }
.gradio-container :is(button, a, summary, input, [role="button"], [tabindex]):focus-visible {
  outline: 2px solid var(--primary-500) !important; outline-offset: 2px; }
.gradio-container .dear-dice:focus-visible { outline-offset: -3px; }
.gradio-container :is(textarea, input:not([type="range"], [type="radio"], [type="checkbox"])):focus-visible {
  outline: 1px solid var(--primary-500) !important; outline-offset: 0; }
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
  new MutationObserver(() => document.querySelectorAll(".dear-dice:not([aria-label])").forEach((dice) => {
    dice.setAttribute("aria-label", dice.title = "Roll a new seed");
  })).observe(document, { childList: true, subtree: true });
  document.addEventListener("play", (e) => document.querySelectorAll("audio").forEach((audio) => {
    if (audio !== e.target) audio.pause();
  }), true);
  document.addEventListener("click", async (e) => {
    const link = e.target.closest?.("a.dear-link");
    if (!link || e.ctrlKey || e.metaKey || e.shiftKey) return;
    e.preventDefault();
    history.replaceState(null, "", link.href);
    const copied = await navigator.clipboard?.writeText(link.href).then(() => true, () => false);
    link.textContent = copied ? "Link copied" : "Copy it from the address bar";
  });
  for (const event of ["play", "seeked"])
    document.addEventListener(event, (e) => { if (results(e.target)) follow(e.target); }, true);
  const at = (plot, e) => {
    const box = plot.getBoundingClientRect();
    return ((e.clientX - box.left) / box.width - LEFT) / SPAN;
  };
  const set = (id, seconds) => {
    const input = document.querySelector(`#${id} input[type=number]`);
    input.value = Math.min(Math.max(seconds, 0), Number(input.max)).toFixed(2);
    for (const event of ["input", "change", "blur"]) input.dispatchEvent(new Event(event, { bubbles: true }));
  };
  document.addEventListener("pointerdown", (e) => {
    const plot = e.target.closest?.('.dear-map .dear-plot[data-region="shown"]');
    if (!plot || e.button) return;
    const drag = new AbortController(), region = plot.style.cssText;
    const from = Math.min(Math.max(at(plot, e), 0), 1);
    const span = (event) => [from, Math.min(Math.max(at(plot, event), 0), 1)].sort((a, b) => a - b);
    const move = (event) => {
      const [first, last] = span(event);
      plot.style.setProperty("--from", first);
      plot.style.setProperty("--to", last);
    };
    document.addEventListener("pointermove", move, { signal: drag.signal });
    document.addEventListener("pointercancel", () => {  // the finger scrolls the page
      drag.abort();
      plot.style.cssText = region;
    }, { signal: drag.signal });
    document.addEventListener("pointerup", (event) => {
      drag.abort();
      const [first, last] = span(event).map((share) => share * Number(plot.dataset.seconds));
      if (last - first < 0.02) return;
      set("edit-start", first);
      set("edit-end", last);
    }, { signal: drag.signal });
  });
  document.addEventListener("click", (e) => {
    const button = e.target.closest?.("button.dear-film");
    if (button) results(button).querySelectorAll(".dear-plot[data-order]").forEach(show);
  });
  const show = (plot) => {
    plot.querySelector(".dear-cover")?.remove();
    const [rows, iterations] = [Number(plot.dataset.rows), Number(plot.dataset.iterations)];
    const order = plot.dataset.order.split(",").map(Number);
    const cover = document.createElement("div");
    cover.className = "dear-cover";
    cover.style.gridTemplate = `repeat(${rows}, 1fr) / repeat(${order.length / rows}, 1fr)`;
    const cells = order.map((_, token) => {
      const cell = document.createElement("i");
      cell.style.gridArea = `${rows - token % rows} / ${Math.floor(token / rows) + 1}`;
      cover.append(cell);
      return cell;
    });
    plot.append(cover);
    const begin = performance.now();
    const uncover = (now) => {
      const done = (now - begin) / FILM * iterations;
      cells.forEach((cell, token) => { if (order[token] < done) cell.style.opacity = 0; });
      if (done < iterations + 1) requestAnimationFrame(uncover); else cover.remove();
    };
    requestAnimationFrame(uncover);
  };
  document.addEventListener("click", (e) => {
    const plot = e.target.closest?.(".dear-plot");
    if (plot?.closest(".dear-map")) return;
    const audio = plot && results(plot)?.querySelector("audio");
    if (!audio?.duration) return;
    const share = at(plot, e);
    if (share < 0 || share > 1) return;
    audio.currentTime = Math.min(share * Number(plot.dataset.seconds), audio.duration);
    audio.play();
  });
})();
</script>
""".replace("LEFT", f"{plots.LEFT:g}")
    .replace("SPAN", f"{plots.RIGHT - plots.LEFT:g}")
    .replace("FILM", str(FILM_MS))
)
