/* Takes: finished sounds, kept in this browser's IndexedDB. Nothing is sent to the server unless a visitor does so. */
window.dearTakes = (() => {
  const KEPT = 50;  // takes without a star; older ones are dropped
  let takes = [], chosen = null, pair = { A: null, B: null }, playing = null, root = null, mix = null, full = false;
  const player = new Audio();
  const text = (string) => String(string).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

  const store = (mode, work) => new Promise((resolve, reject) => {
    const request = indexedDB.open("audiodear", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("takes", { keyPath: "id" });
    request.onerror = () => reject(request.error);
    request.onsuccess = () => {
      const all = request.result.transaction("takes", mode), asked = work(all.objectStore("takes"));
      all.oncomplete = () => { request.result.close(); resolve(asked?.result); };
      all.onabort = all.onerror = () => { request.result.close(); reject(all.error); };
    };
  });
  const keep = (take) => store("readwrite", (all) => all.put(take)).then(() => { full = false; }, () => { full = true; });
  const drop = (take) => {
    takes = takes.filter((each) => each !== take);
    for (const side of ["A", "B"]) if (pair[side] === take) pair[side] = null;
    return store("readwrite", (all) => all.delete(take.id)).catch(() => {});
  };
  const find = (id) => takes.find((take) => take.id === id);
  const title = (take) => take.name || take.prompt;
  const fileName = (take) => {
    const words = title(take).toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 48);
    return `${words || "sound"}-${take.seed}`;
  };

  const card = (take) => {
    const button = (action, label, sign, pressed) => `<button type="button" data-action="${action}" data-id="${take.id}"
      aria-label="${label}: ${text(title(take))}" title="${label}"${
        pressed === undefined ? "" : ` aria-pressed="${pressed}"`}>${sign}</button>`;
    const { variant, cfg_scale, iterations, steps, candidates, strength, loop } = take.settings;
    const facts = [`seed ${take.seed}`, variant, `CFG ${cfg_scale}`, `${iterations} iterations`,
      ...steps > 1 ? [`${steps} steps`] : [], ...candidates ? [`best of ${candidates}`] : [],
      ...strength ? [`variation ${strength}`] : [], ...loop ? ["loop"] : [], new Date(take.time).toLocaleTimeString([], { timeStyle: "short" })];
    const on = playing === take;
    return `<li class="dear-take${take.star ? " dear-starred" : ""}">${take.picture}
      <strong dir="auto" title="${text(take.prompt)}">${text(title(take))}</strong>
      <small>${facts.map(text).join(" · ")}</small><div>${
      button("play", on ? "Stop" : "Play", on ? "Stop" : "Play")}${
      button("star", "Star", take.star ? "★" : "☆", Boolean(take.star))}${
      button("A", "Compare as A", "A", pair.A === take)}${button("B", "Compare as B", "B", pair.B === take)}${
      button("menu", "More", "More")}</div></li>`;
  };
  const draw = () => {
    if (!root) return;
    const focus = document.activeElement?.dataset;
    const ready = pair.A && pair.B;
    root.querySelector(".dear-takes-empty").hidden = takes.length > 0;
    root.querySelector(".dear-takes-full").hidden = !full;
    root.querySelector(".dear-takes-tools").hidden = !takes.length;
    root.querySelector("[data-action=ab]").disabled = !ready;
    root.querySelector("[data-action=ab]").textContent = mix ? "Stop" : "Play A and B";
    root.querySelector("[data-action=switch]").hidden = !mix;
    root.querySelector("[data-action=switch]").textContent = mix?.side === "A" ? "A is heard: hear B" : "B is heard: hear A";
    root.querySelector("ul").innerHTML = takes.map(card).join("");
    if (focus?.id) root.querySelector(`[data-id="${focus.id}"][data-action="${focus.action}"]`)?.focus();
  };

  const quiet = () => {
    player.pause();
    playing = null;
    mix?.context.close();
    mix = null;
  };
  player.onended = () => { quiet(); draw(); };
  document.addEventListener("play", () => { if (playing || mix) { quiet(); draw(); } }, true);
  const silence = () => document.querySelectorAll("audio").forEach((audio) => audio.pause());
  const play = (take) => {
    const again = playing !== take;
    quiet();
    if (again) {
      silence();
      URL.revokeObjectURL(player.src);
      player.src = URL.createObjectURL(take.blob);
      playing = take;
      player.play();
    }
  };
  /* Loudness: the root mean square of the loudest 400 ms, so that pauses do not count. */
  const level = (sound) => {
    const data = sound.getChannelData(0), block = Math.round(0.4 * sound.sampleRate), step = Math.round(block / 4);
    let loudest = 0;
    for (let at = 0; at === 0 || at + block <= data.length; at += step) {
      const part = data.subarray(at, at + block);
      loudest = Math.max(loudest, part.reduce((sum, value) => sum + value * value, 0) / part.length);
    }
    return Math.sqrt(loudest) || 1;
  };
  /* A and B run together, as loud as the quieter one; one of the two is heard. */
  const playBoth = async () => {
    if (mix) { quiet(); return; }
    quiet();
    silence();
    const context = new AudioContext();
    const sounds = await Promise.all(["A", "B"].map(async (side) =>
      context.decodeAudioData(await pair[side].blob.arrayBuffer())));
    const goal = Math.min(...sounds.map(level));
    const gains = sounds.map((sound, i) => {
      const source = context.createBufferSource(), gain = context.createGain();
      source.buffer = sound;
      source.loop = true;
      gain.gain.value = i ? 0 : goal / level(sound);
      source.connect(gain).connect(context.destination);
      source.start();
      return gain;
    });
    mix = { context, gains, levels: sounds.map((sound) => goal / level(sound)), side: "A" };
  };
  const switchSide = () => {
    mix.side = mix.side === "A" ? "B" : "A";
    mix.gains.forEach((gain, i) =>
      gain.gain.setTargetAtTime((mix.side === "A") === (i === 0) ? mix.levels[i] : 0, mix.context.currentTime, 0.01));
  };

  const save = (blob, name) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  };
  const columns = ["file", "name", "prompt", "seed", "variant", "cfg_scale", "iterations", "temperature", "steps",
    "seconds", "negative_prompt", "candidates", "changes", "weights", "starred", "time"];
  const archive = async () => {
    const files = {}, rows = [columns];
    for (const take of [...takes].reverse()) {
      let name = `${fileName(take)}.wav`;
      for (let n = 2; name in files; n++) name = `${fileName(take)}-${n}.wav`;
      files[name] = new Uint8Array(await take.blob.arrayBuffer());
      const settings = take.settings;
      rows.push([name, take.name ?? "", take.prompt, take.seed, settings.variant, settings.cfg_scale,
        settings.iterations, settings.temperature, settings.steps, settings.seconds ?? "",
        settings.negative_prompt ?? "", settings.candidates ?? "", settings.changes ?? "", settings.digest, take.star ? "yes" : "",
        new Date(take.time).toISOString()]);
    }
    files["takes.csv"] = new TextEncoder().encode(window.dearCsv(rows));
    save(window.dearZip(files), "takes.zip");
  };

  const open = (button) => {
    const menu = root.querySelector("[popover]"), box = button.getBoundingClientRect();
    chosen = find(button.dataset.id);
    menu.showPopover();
    menu.style.left = `${Math.max(8, Math.min(box.left, innerWidth - menu.offsetWidth - 8))}px`;
    menu.style.top = `${Math.max(8, Math.min(box.bottom + 4, innerHeight - menu.offsetHeight - 8))}px`;
    menu.querySelector("button").focus();
  };
  const act = async (action, id, trigger, button) => {
    const take = find(id);
    if (action === "play") play(take);
    if (action === "star") { take.star = !take.star; await keep(take); }
    if (action === "A" || action === "B") {
      const other = action === "A" ? "B" : "A";
      if (pair[other] === take) pair[other] = null;
      pair[action] = pair[action] === take ? null : take;
      if (mix) quiet();
    }
    if (action === "menu") return open(button);
    if (action === "ab") await playBoth();
    if (action === "switch") switchSide();
    if (action === "zip") await archive();
    if (action === "clear" && confirm("Delete all takes without a star?"))
      for (const each of takes.filter((each) => !each.star)) drop(each);
    if (["rename", "save", "delete", "select", "edit", "submit"].includes(action)) {
      root.querySelector("[popover]").hidePopover();
      if (action === "rename") {
        const name = prompt("Name of this take", title(chosen));
        if (name !== null) { chosen.name = name.trim().slice(0, 200); await keep(chosen); }
      } else if (action === "save") save(chosen.blob, `${fileName(chosen)}.wav`);
      else if (action === "delete") drop(chosen);
      else trigger(action);  // select: restore its settings; edit: send to Edit; submit: send to Compare
    }
    draw();
  };

  return {
    /* Called once, when the component is laid out. */
    attach: async (element, trigger) => {
      root = element;
      element.addEventListener("click", (e) => {
        const button = e.target.closest("[data-action]");
        if (button) act(button.dataset.action, button.dataset.id, trigger, button);
      });
      const kept = await store("readonly", (all) => all.getAll()).catch(() => []);
      takes = [...takes, ...kept].sort((one, two) => two.time - one.time);
      draw();
    },
    /* The sounds of a finished generation: a JSON list. */
    add: async (list) => {
      for (const each of JSON.parse(list || "[]").reverse()) {
        const answer = await fetch(each.file).catch(() => null);
        if (!answer?.ok) continue;
        const take = { ...each, id: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`, time: Date.now(),
          blob: await answer.blob() };
        takes.unshift(take);
        await keep(take);
      }
      for (const old of takes.filter((take) => !take.star).slice(KEPT)) drop(old);
      draw();
    },
    link: () => chosen.link,
    chosen: () => chosen,
    /* The chosen take as an uploaded file of this page. */
    upload: async () => {
      const form = new FormData();
      form.append("files", chosen.blob, `${fileName(chosen)}.wav`);
      const [path] = await (await fetch("gradio_api/upload", { method: "POST", body: form })).json();
      return { path, url: `gradio_api/file=${path}`, orig_name: `${fileName(chosen)}.wav`,
        meta: { _type: "gradio.FileData" } };
    },
  };
})();
