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
  const title = (control) => {
    const block = control.closest(".block");
    return (block?.querySelector("[data-testid=block-info]") ?? block?.querySelector("label"))?.innerText.trim();
  };
  const name = () => {
    document.querySelectorAll(".dear-dice:not([aria-label])").forEach((dice) =>
      dice.setAttribute("aria-label", dice.title = "Roll a new seed"));
    document.querySelectorAll("button.reset-button:not([data-named])").forEach((button) => {
      if (!title(button)) return;
      button.dataset.named = "";
      button.setAttribute("aria-label", button.title = `Reset ${title(button)}`);
    });
    document.querySelectorAll("audio:not([aria-label])").forEach((audio) => {
      if (title(audio)) audio.setAttribute("aria-label", title(audio));
    });
    document.querySelectorAll(".dear-chips:not([data-stop])").forEach((group) => {
      group.dataset.stop = "";
      [...group.children].forEach((item, i) => { item.tabIndex = i ? -1 : 0; });
    });
  };
  new MutationObserver(name).observe(document, { childList: true, subtree: true });
  document.addEventListener("keydown", (e) => {
    const item = e.target.closest?.(".dear-chip");
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key];
    if (!item || !step) return;
    e.preventDefault();
    const items = [...item.parentElement.children];
    const next = items[(items.indexOf(item) + step + items.length) % items.length];
    item.tabIndex = -1;
    next.tabIndex = 0;
    next.focus({ focusVisible: true });
  });
  /* In a comparison, a letter plays its sound. */
  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || e.target.closest?.("input, textarea, select, [contenteditable]")) return;
    const audio = [...document.querySelectorAll("[data-key]")].find((cell) =>
      cell.dataset.key === e.key.toUpperCase() && cell.offsetParent)?.querySelector("audio");
    if (!audio) return;
    if (audio.paused) { audio.currentTime = 0; audio.play(); } else audio.pause();
  });
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
  /* Where the address holds settings, a run that is started before they have arrived waits for them. */
  let restored = !location.search, held = null;
  const hold = (e, button) => {
    if (restored || !button) return;
    e.preventDefault();
    e.stopImmediatePropagation();
    held = button;
    document.querySelector("#generate").classList.add("dear-held");
  };
  window.addEventListener("click", (e) => hold(e, e.target.closest?.("#generate, .dear-chip")), true);
  window.addEventListener("keydown", (e) => {
    if (e.key === "Enter" && !e.shiftKey && e.target.closest?.("#prompt")) hold(e, document.querySelector("#generate"));
  }, true);
  window.dearRestored = () => requestAnimationFrame(() => requestAnimationFrame(() => {
    const button = held;
    [restored, held] = [true, null];
    document.querySelector("#generate").classList.remove("dear-held");
    button?.click();
  }));
  /* The time that the visitor waited, as the browser measured it. */
  document.addEventListener("canplay", (e) => {
    const place = e.target.closest?.("#sound") && document.querySelector("#facts .dear-click");
    if (!place || !window.dearClicked) return;
    place.textContent = `${((performance.now() - window.dearClicked) / 1000).toFixed(1)} s from your click to the sound`;
    window.dearClicked = null;
  }, true);
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
