/* The listening page: plays all versions of a clip together and lets one of them be heard, draws their spectrograms, and
   runs blind tests. The functions of shared/ stand before it in the same script element; data and sound lie in others. */

const page = JSON.parse(document.getElementById("data").textContent);

const RANGES = { near: { title: "0–5 kHz", top: 5000, size: 4096, ticks: [1000, 2000, 3000, 4000] },
                 full: { title: "full range", top: page.rate / 2, size: 2048, ticks: [5000, 10000, 15000, 20000] } };
const COLUMNS = 1000, ROWS = 220, RANGE_DB = 75; // of a spectrogram

const state = { clip: 0, version: 0, range: "near", loop: true, region: null };
const blind = new BlindTest({ versions: () => page.clips[state.clip].versions, changed: () => { player.choose(); show(); } });

function fail(error) {
  $("problem").hidden = false;
  $("problem").textContent = `The sound cannot be decoded: ${error.message ?? error}. Chromium, Firefox and Safari of the last years can.`;
}

/* ---- Sound ---- */

const decoded = new Map(); // clip -> promise of its buffers

function buffers(clip) {
  if (!decoded.has(clip)) {
    const context = new OfflineAudioContext(2, 1, page.rate); // decodes before the reader has touched the page
    decoded.set(clip, Promise.all(page.clips[clip].versions.map((version) => {
      const bytes = Uint8Array.from(atob($(version.sound).textContent), (c) => c.charCodeAt(0));
      return context.decodeAudioData(bytes.buffer);
    })));
  }
  return decoded.get(clip);
}

const player = new Player({
  rate: page.rate,
  duration: () => page.clips[state.clip].seconds,
  sounds: () => buffers(state.clip),
  audible, level: () => 1,
  region: () => state.region, loop: () => state.loop,
  changed: () => { show(); if (player.playing) requestAnimationFrame(follow); },
});

/** Goes to a place, in seconds; a part that is repeated ends where it is left. */
function seek(seconds) {
  if (player.seek(seconds)) state.region = null;
  player.restart().catch(fail);
  show();
}

function play() {
  if (page.continued) $("continued-sound").pause();
  return player.play();
}

/** The version that is heard: the chosen one, or in a blind test the one behind the chosen letter. */
function audible() { return blind.trial ? blind.version : state.version; }

function toggle() {
  if (player.playing) player.pause(); else play().catch(fail);
  show();
}

/* ---- Spectrograms: computed from the decoded sound, level relative to the original's loudest bin. ---- */

const pictures = new Map(); // "clip/version/range" -> levels in dB, [COLUMNS][ROWS]

/** Levels in dB of the mean of the channels. */
function levels(buffer, { top, size }) {
  return spectrum(mono(buffer), page.rate, { size, edges: linearEdges(top, ROWS), columns: COLUMNS });
}

const colours = palette(page.colours);
const loudestOf = (values) => values.reduce((a, b) => Math.max(a, b));

async function draw() {
  const { clip, range } = state;
  const sounds = await buffers(clip);
  let loudest = -Infinity;
  for (const [i, buffer] of sounds.entries()) {
    const name = `${clip}/${i}/${range}`;
    if (!pictures.has(name)) {
      await new Promise((resolve) => setTimeout(resolve)); // leaves the page responsive between versions
      pictures.set(name, levels(buffer, RANGES[range]));
    }
    if (clip !== state.clip || range !== state.range) return; // something else is to be drawn by now
    if (i === 0) loudest = loudestOf(pictures.get(name));
    paint($(`view-${i}`), pictures.get(name), { rows: ROWS, loudest, range: RANGE_DB, colours });
  }
  $("stack").dataset.drawn = `${clip}/${range}`;
}

/* ---- What is shown ---- */

function build() {
  const clip = page.clips[state.clip];
  $("about").textContent = clip.about;
  $("versions").replaceChildren(...clip.versions.map((version, i) => {
    const input = make("input", { type: "radio", name: "version", value: i, checked: i === state.version });
    input.addEventListener("change", () => choose(i));
    const name = make("div", { className: "name" }, make("kbd", { textContent: i + 1 }), make("b", { textContent: version.title }),
      make("span", { textContent: `${version.rate} · ${version.size}` }), make("small", { textContent: version.distance }));
    const canvas = make("canvas", { id: `view-${i}`, width: COLUMNS, height: ROWS });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Spectrogram: ${version.title}`);
    const view = make("div", { className: "view", title: version.detail }, canvas);
    watch(view, i);
    return make("label", { className: "version" }, input, name, view);
  }));
  const seconds = clip.seconds, step = tickStep(seconds);
  $("times").replaceChildren(...Array.from({ length: Math.floor((0.985 * seconds) / step) + 1 }, (_, i) => {
    const mark = make("span", { textContent: `${+(i * step).toFixed(1)} s` });
    mark.style.left = `${(100 * i * step) / seconds}%`;
    return mark;
  }));
  for (const [id, fallback] of [["first", "discrete"], ["second", "opus-nearest"]]) {
    const former = clip.versions.findIndex((v) => v.key === ($(id).dataset.key ?? fallback));
    $(id).replaceChildren(...clip.versions.map((v, i) => make("option", { value: i, textContent: v.title })));
    $(id).value = former >= 0 ? former : Math.min(id === "first" ? 1 : 2, clip.versions.length - 1);
  }
  ticks();
  draw().catch(fail);
  show();
}

/** Frequencies beside each spectrogram. */
function ticks() {
  const { top, ticks } = RANGES[state.range];
  for (const view of document.querySelectorAll(".view")) {
    view.querySelectorAll("i").forEach((mark) => mark.remove());
    for (const hertz of ticks.filter((hertz) => hertz < 0.97 * top)) {
      const mark = make("i", { textContent: `${hertz / 1000}${hertz === ticks.at(-1) ? " kHz" : ""}` });
      mark.style.bottom = `${(100 * hertz) / top}%`;
      view.append(mark);
    }
  }
}

/** Brings what moves up to date: playhead, clock, slider. */
function move() {
  const at = player.position(), duration = player.duration();
  $("stack").style.setProperty("--at", at / duration);
  $("clock").textContent = `${clockText(at)} / ${clockText(duration)}`;
  if (document.activeElement !== $("seek") || player.playing) $("seek").value = at / duration;
  $("seek").setAttribute("aria-valuetext", `${at.toFixed(1)} of ${duration.toFixed(1)} seconds`);
}

function follow() { move(); if (player.playing) requestAnimationFrame(follow); }

/** Brings everything else up to date with the state. */
function show() {
  $("play").setAttribute("aria-label", player.playing ? "Pause" : "Play");
  $("play").querySelector("path").setAttribute("d", player.playing ? "M6 4.5h4.5v15H6zM13.5 4.5H18v15h-4.5z" : "M7 4.5v15l12.5-7.5z");
  $("heard").textContent = blind.trial ? "ABX"[blind.letter] ?? "" : page.clips[state.clip].versions[state.version].title;
  if (blind.trial?.kind === "nearer" && blind.letter === 2) $("heard").textContent = "Original";
  $("loop").setAttribute("aria-pressed", state.loop);
  const checked = $("versions").querySelectorAll("input")[state.version];
  if (checked) checked.checked = true;
  const region = state.region, duration = player.duration();
  $("stack").classList.toggle("part", Boolean(region));
  if (region) {
    $("stack").style.setProperty("--from", region[0] / duration);
    $("stack").style.setProperty("--share", (region[1] - region[0]) / duration);
  }
  move();
}

/* ---- What the reader does ---- */

function choose(version) {
  if (version < 0 || version >= page.clips[state.clip].versions.length) return;
  state.version = version;
  player.choose();
  show();
}

function openClip(clip) {
  if (clip < 0 || clip >= page.clips.length || clip === state.clip) return;
  const went = player.playing;
  player.pause();
  state.clip = clip;
  state.version = Math.min(state.version, page.clips[clip].versions.length - 1);
  state.region = null;
  player.offset = 0;
  const input = $("clips").querySelectorAll("input")[clip];
  if (input) input.checked = true;
  build();
  if (blind.trial) blind.begin();
  if (went) play().catch(fail);
}

function setRange(range) {
  state.range = range;
  for (const input of $("range").querySelectorAll("input")) input.checked = input.value === range;
  ticks();
  draw().catch(fail);
  continued?.draw().catch(fail);
}

function setRegion(region) {
  state.region = region;
  if (player.playing) { player.offset = player.position(); player.restart().catch(fail); }
  show();
}

function setLoop(loop) {
  const at = player.position();
  state.loop = loop;
  player.offset = at;
  player.restart().catch(fail);
  show();
}

/** Clicks and drags on a spectrogram: a click goes there, a drag repeats a part. */
function watch(view, version) {
  let begun = null;
  const at = (event) => {
    const box = view.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * player.duration();
  };
  view.addEventListener("click", (event) => event.preventDefault()); // the label would choose once more
  view.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    begun = { seconds: at(event), x: event.clientX };
    view.setPointerCapture(event.pointerId);
  });
  view.addEventListener("pointermove", (event) => {
    if (!begun || Math.abs(event.clientX - begun.x) < 8) return;
    const [from, to] = [begun.seconds, at(event)].sort((a, b) => a - b);
    if (to - from > 0.05) { state.region = [from, to]; show(); }
  });
  view.addEventListener("pointercancel", () => { begun = null; }); // the page scrolls instead
  view.addEventListener("pointerup", (event) => {
    if (!begun) return;
    const dragged = Math.abs(event.clientX - begun.x) >= 8 && state.region;
    choose(version);
    if (dragged) { state.loop = true; seek(state.region[0]); } else seek(begun.seconds);
    begun = null;
  });
}

/* ---- A prompt and its continuation: one sound beside the clips, with the joint marked. ---- */

const continued = page.continued && {
  sound: null, // a promise of the decoded sound

  /** Its bytes, as the page holds them. */
  bytes() { return Uint8Array.from(atob($(page.continued.sound).textContent), (c) => c.charCodeAt(0)); },

  decoded() {
    this.sound ??= new OfflineAudioContext(2, 1, page.rate).decodeAudioData(this.bytes().buffer);
    return this.sound;
  },

  async draw() {
    const range = state.range, buffer = await this.decoded();
    await new Promise((resolve) => setTimeout(resolve));
    const values = levels(buffer, RANGES[range]);
    if (range === state.range) paint($("continued-canvas"), values, { rows: ROWS, loudest: loudestOf(values), range: RANGE_DB, colours });
    $("continued").dataset.drawn = range;
  },

  begin() {
    const audio = $("continued-sound"), view = $("continued-view"), section = $("continued");
    Object.assign($("continued-canvas"), { width: COLUMNS, height: ROWS });
    section.style.setProperty("--joint", page.continued.joint / page.continued.seconds);
    audio.src = URL.createObjectURL(new Blob([this.bytes()], { type: "audio/flac" }));
    const follow = () => {
      view.style.setProperty("--at", audio.currentTime / page.continued.seconds);
      if (!audio.paused) requestAnimationFrame(follow);
    };
    audio.addEventListener("play", () => { if (player.playing) toggle(); follow(); });
    audio.addEventListener("seeked", follow);
    audio.addEventListener("ended", follow);
    view.addEventListener("click", (event) => {
      const box = view.getBoundingClientRect();
      audio.currentTime = ((event.clientX - box.left) / box.width) * page.continued.seconds;
    });
    this.draw().catch(fail);
  },
};

/* ---- Controls and keys ---- */

function theme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
}

const step = (by) => (blind.trial ? blind.listenNext(by) : choose(state.version + by));
const KEYS = {
  " ": toggle, ArrowUp: () => step(-1), ArrowDown: () => step(1),
  ArrowLeft: (event) => seek(player.position() - (event.shiftKey ? 0.1 : 1)),
  ArrowRight: (event) => seek(player.position() + (event.shiftKey ? 0.1 : 1)),
  ",": () => openClip(state.clip - 1), ".": () => openClip(state.clip + 1),
  f: () => setRange(state.range === "near" ? "full" : "near"), l: () => setLoop(!state.loop), t: theme,
  b: () => (blind.trial ? blind.end() : blind.begin()), Escape: () => setRegion(null),
  Enter: () => blind.answerHeard(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const focus = event.target.closest?.("button, select, summary, a, input[type=range]");
  if (focus && (event.key === " " || event.key === "Enter")) return; // theirs
  if (focus?.matches("select")) return;
  const digit = "123456789".indexOf(event.key);
  const action = digit >= 0 && event.key.length === 1 ? () => (blind.trial ? digit < 3 && blind.listen(digit) : choose(digit)) : KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  action(event);
});
// After a click the space bar should play, not click again; with the keyboard, focus stays where it is.
document.addEventListener("click", (event) => { if (event.detail) event.target.closest?.("button")?.blur(); });

$("play").addEventListener("click", toggle);
$("loop").addEventListener("click", () => setLoop(!state.loop));
$("theme").addEventListener("click", theme);
$("seek").addEventListener("input", () => seek($("seek").value * player.duration()));

$("clips").hidden = page.clips.length < 2;
segments($("clips"), "clip", page.clips.map((clip, i) => [i, clip.title]), 0, openClip);
segments($("range"), "range", Object.entries(RANGES).map(([key, range]) => [key, range.title]), state.range, setRange);
blind.mount();
build();
continued?.begin();

/** For checks by a script: what is heard and counted. */
window.listening = {
  state, player, buffers, tally: blind.tally, trial: () => blind.trial, gains: () => player.voices.map(({ gain }) => gain.gain.value),
};
