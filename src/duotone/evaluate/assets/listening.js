/* The listening page: plays all versions of a clip together and lets one of them be heard, draws their spectrograms, and
   runs blind tests. It has no parts from elsewhere; data and sound lie in the page's other script elements. */
"use strict";

const page = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

const SWITCH = 0.002; // time constant of a crossfade in seconds: the former version is 40 dB down after 9 ms
const RANGES = { near: { title: "0–5 kHz", top: 5000, size: 4096, ticks: [1000, 2000, 3000, 4000] },
                 full: { title: "full range", top: page.rate / 2, size: 2048, ticks: [5000, 10000, 15000, 20000] } };
const COLUMNS = 1000, ROWS = 220, RANGE_DB = 75; // of a spectrogram

const state = { clip: 0, version: 0, range: "near", loop: true, region: null, kind: "nearer" };
let trial = null; // the blind trial that runs: { pair, order, x }
const tally = new Map(); // "kind:key:key" -> { kind, titles, keys, counts: [a, b] }; for ABX counts are [right, wrong]

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function fail(error) {
  $("problem").hidden = false;
  $("problem").textContent = `The sound cannot be decoded: ${error.message ?? error}. Chromium, Firefox and Safari of the last years can.`;
}

/* ---- Sound: each version of a clip has a source and a gain; all sources start in the same sample, gains choose one. ---- */

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

const player = {
  context: null, master: null, voices: [], playing: false,
  offset: 0, // where the clip was, in seconds, at `since` of the context's clock
  since: 0,

  duration() { return page.clips[state.clip].seconds; },

  /** Where the clip is now, in seconds. */
  position() {
    if (!this.playing) return this.offset;
    const past = this.offset + Math.max(0, this.context.currentTime - (this.context.outputLatency || 0) - this.since);
    const [from, to] = this.part();
    if (past < to) return past;
    return state.loop ? from + ((past - from) % (to - from)) : to;
  },

  /** The part that is repeated. */
  part() { return state.region ?? [0, this.duration()]; },

  async play() {
    if (page.continued) $("continued-sound").pause();
    this.context ??= new AudioContext({ sampleRate: page.rate, latencyHint: "interactive" });
    const clip = state.clip;
    const [sounds] = await Promise.all([buffers(clip), this.context.resume()]);
    if (clip === state.clip) this.start(sounds);
  },

  start(sounds) {
    this.silence();
    const [from, to] = this.part();
    if (this.offset >= to - 0.01 || (state.region && this.offset < from)) this.offset = from;
    this.master = new GainNode(this.context, { gain: 1 });
    this.master.connect(this.context.destination);
    this.since = this.context.currentTime + 0.03; // one time for all: they stay together to the sample
    this.voices = sounds.map((buffer, i) => {
      const source = new AudioBufferSourceNode(this.context, { buffer, loop: state.loop, loopStart: from, loopEnd: to });
      const gain = new GainNode(this.context, { gain: i === audible() ? 1 : 0 });
      source.connect(gain).connect(this.master);
      source.start(this.since, this.offset);
      if (!state.loop) source.stop(this.since + to - this.offset);
      return { source, gain };
    });
    this.voices[0].source.onended = () => { if (this.playing) { this.pause(); this.offset = from; show(); } };
    this.playing = true;
    show();
    requestAnimationFrame(follow);
  },

  /** Lets the version that is chosen be heard, from this instant on. */
  choose() {
    this.voices.forEach(({ gain }, i) => gain.gain.setTargetAtTime(i === audible() ? 1 : 0, this.context.currentTime, SWITCH));
  },

  /** Fades out and forgets what plays. */
  silence() {
    if (!this.voices.length) return;
    const now = this.context.currentTime;
    this.master.gain.setTargetAtTime(0, now, SWITCH);
    for (const { source } of this.voices) { source.onended = null; source.stop(now + 10 * SWITCH); }
    this.voices = [];
  },

  pause() { this.offset = this.position(); this.playing = false; this.silence(); },

  /** Goes to a place, in seconds, playing or not. */
  seek(seconds) {
    this.offset = Math.min(Math.max(0, seconds), this.duration() - 0.001);
    if (state.region && (this.offset < state.region[0] || this.offset >= state.region[1])) setRegion(null);
    if (this.playing) this.restart();
    show();
  },

  restart() { buffers(state.clip).then((sounds) => { if (this.playing) this.start(sounds); }, fail); },
};

/** The version that is heard: the chosen one, or in a blind test the one behind the chosen letter. */
function audible() { return trial ? trial.order[state.letter] : state.version; }

function toggle() {
  if (player.playing) player.pause(); else player.play().catch(fail);
  show();
}

/* ---- Spectrograms: computed from the decoded sound, level relative to the original's loudest bin. ---- */

const pictures = new Map(); // "clip/version/range" -> levels in dB, [COLUMNS][ROWS]

/** Cosines and sines of a turn in `n` steps. */
const turns = new Map();
function turn(n) {
  if (!turns.has(n)) {
    const part = (wave) => Float64Array.from({ length: n / 2 }, (_, k) => wave((-2 * Math.PI * k) / n));
    turns.set(n, [part(Math.cos), part(Math.sin)]);
  }
  return turns.get(n);
}

/** In-place FFT of a complex signal whose length is a power of two (Cooley and Tukey 1965). */
function fft(re, im) {
  const n = re.length, [cos, sin] = turn(n);
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) { [re[i], re[j]] = [re[j], re[i]]; [im[i], im[j]] = [im[j], im[i]]; }
  }
  for (let length = 2; length <= n; length <<= 1) {
    const half = length >> 1, step = n / length;
    for (let begin = 0; begin < n; begin += length) {
      for (let k = 0, i = begin; k < half; k++, i++) {
        const c = cos[k * step], s = sin[k * step], j = i + half;
        const x = re[j] * c - im[j] * s, y = re[j] * s + im[j] * c;
        re[j] = re[i] - x; im[j] = im[i] - y; re[i] += x; im[i] += y;
      }
    }
  }
}

/** Levels in dB: for each column a Hann window of the mean of the channels, for each row the loudest bin in its band.
    Two columns are transformed at once, as real and imaginary part. */
function levels(buffer, { top, size }) {
  const mono = new Float32Array(buffer.length + 2 * size); // with silence before and after
  for (let c = 0; c < buffer.numberOfChannels; c++) {
    buffer.getChannelData(c).forEach((sample, i) => { mono[size + i] += sample / buffer.numberOfChannels; });
  }
  const window = Float32Array.from({ length: size }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / size));
  const bins = (top / page.rate) * size, out = new Float32Array(COLUMNS * ROWS);
  const re = new Float64Array(size), im = new Float64Array(size);
  const fill = (into, column) => {
    const start = Math.round(((column + 0.5) / COLUMNS) * buffer.length) + size / 2;
    for (let i = 0; i < size; i++) into[i] = mono[start + i] * window[i];
  };
  for (let column = 0; column < COLUMNS; column += 2) {
    fill(re, column);
    fill(im, column + 1);
    fft(re, im);
    for (let row = 0; row < ROWS; row++) {
      const low = Math.floor((row / ROWS) * bins), high = Math.max(low + 1, Math.ceil(((row + 1) / ROWS) * bins));
      let first = 0, second = 0;
      for (let k = low; k < high; k++) {
        const m = (size - k) % size; // the spectra of two real signals: the even and the odd part
        const a = re[k] + re[m], b = im[k] - im[m], c = im[k] + im[m], d = re[m] - re[k];
        first = Math.max(first, a * a + b * b);
        second = Math.max(second, c * c + d * d);
      }
      out[column * ROWS + row] = 10 * Math.log10(first + 1e-12);
      out[(column + 1) * ROWS + row] = 10 * Math.log10(second + 1e-12);
    }
  }
  return out;
}

/** 256 colours, dark to bright, as pixels: bytes red, green, blue, opaque. */
const palette = new Uint32Array(Uint8Array.from({ length: 1024 }, (_, i) => {
  const at = ((i >> 2) / 255) * (page.colours.length - 1), low = Math.min(Math.floor(at), page.colours.length - 2), c = i & 3;
  return c === 3 ? 255 : page.colours[low][c] + (page.colours[low + 1][c] - page.colours[low][c]) * (at - low);
}).buffer);

function paint(canvas, values, loudest) {
  const context = canvas.getContext("2d"), image = context.createImageData(COLUMNS, ROWS), pixels = new Uint32Array(image.data.buffer);
  for (let column = 0; column < COLUMNS; column++) {
    for (let row = 0; row < ROWS; row++) {
      const share = (values[column * ROWS + row] - loudest) / RANGE_DB + 1;
      pixels[(ROWS - 1 - row) * COLUMNS + column] = palette[Math.round(255 * Math.min(1, Math.max(0, share)))];
    }
  }
  context.putImageData(image, 0, 0);
}

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
    if (i === 0) loudest = pictures.get(name).reduce((a, b) => Math.max(a, b));
    paint($(`view-${i}`), pictures.get(name), loudest);
  }
  $("stack").dataset.drawn = `${clip}/${range}`;
}

/* ---- What is shown ---- */

/** Options of which one is chosen; `options` are [value, title]. */
function segments(host, name, options, chosen, choose) {
  host.replaceChildren(...options.map(([value, title]) => {
    const input = make("input", { type: "radio", name, value, checked: value === chosen });
    input.addEventListener("change", () => choose(value));
    return make("label", {}, input, title);
  }));
}

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
  const seconds = clip.seconds, step = [0.1, 0.2, 0.5, 1, 2, 5, 10].find((s) => seconds / s <= 10) ?? 20;
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

function clockText(seconds) { return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`; }

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
  $("heard").textContent = trial ? "ABX"[state.letter] ?? "" : page.clips[state.clip].versions[state.version].title;
  if (trial && trial.kind === "nearer" && state.letter === 2) $("heard").textContent = "Original";
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
  if (trial) begin();
  if (went) player.play().catch(fail);
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
  if (player.playing) { player.offset = player.position(); player.restart(); }
  show();
}

function setLoop(loop) {
  const at = player.position();
  state.loop = loop;
  player.offset = at;
  if (player.playing) player.restart();
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
    if (dragged) { state.loop = true; player.seek(state.region[0]); } else player.seek(begun.seconds);
    begun = null;
  });
}

/* ---- Blind tests ----
   nearer: A and B are two versions in random order, the original is at hand; which is nearer to it?
   abx:    A and B are known, X is one of them at random; which? */

const KINDS = { nearer: "Which is nearer to the original?", abx: "Which one is X? (ABX)" };
const coin = () => crypto.getRandomValues(new Uint8Array(1))[0] & 1;
const title = (i) => page.clips[state.clip].versions[i].title;

function begin() {
  const pair = [Number($("first").value), Number($("second").value)];
  if (pair[0] === pair[1]) {
    $("verdict").textContent = "Choose two different versions.";
    return;
  }
  const x = coin(), kind = state.kind;
  const order = kind === "abx" ? [...pair, pair[x]] : [pair[x], pair[1 - x], 0];
  trial = { kind, pair, order, x };
  state.letter = 2;
  document.documentElement.dataset.blind = "";
  $("setup").hidden = true;
  $("trial").hidden = false;
  $("question").textContent = kind === "abx" ? "X is A or B. Which?" : "Which of A and B is nearer to the original?";
  const names = kind === "abx" ? [title(pair[0]), title(pair[1]), "A or B"] : ["", "", "the original"];
  $("choices").replaceChildren(...names.map((name, i) => {
    const letter = i < 2 ? "AB"[i] : kind === "abx" ? "X" : "Ref";
    const input = make("input", { type: "radio", name: "letter", value: i, checked: i === state.letter });
    input.addEventListener("change", () => listen(i));
    return make("label", {}, input, make("b", { textContent: letter }), make("span", { textContent: name }), make("kbd", { textContent: i + 1 }));
  }));
  ["A", "B"].forEach((letter, i) => { $(`answer-${i}`).textContent = kind === "abx" ? `X is ${letter}` : `${letter} is nearer`; });
  player.choose();
  show();
}

/** Lets A (0), B (1), or X and the original (2) be heard. */
function listen(letter) {
  state.letter = letter;
  $("choices").querySelectorAll("input")[letter].checked = true;
  player.choose();
  show();
}

function answer(letter) {
  const { kind, pair, order, x } = trial;
  const versions = page.clips[state.clip].versions;
  const name = [kind, ...pair.map((i) => versions[i].key)].join(":");
  const entry = tally.get(name) ?? { kind, titles: pair.map(title), counts: [0, 0] };
  if (kind === "abx") {
    entry.counts[letter === x ? 0 : 1] += 1;
    $("verdict").textContent = `${letter === x ? "Right" : "Wrong"}: X was ${title(order[2])}.`;
  } else {
    entry.counts[pair.indexOf(order[letter])] += 1;
    $("verdict").textContent = `You chose ${title(order[letter])}; the other was ${title(order[1 - letter])}.`;
  }
  tally.set(name, entry);
  showTally();
  begin();
}

function end() {
  trial = null;
  delete document.documentElement.dataset.blind;
  $("setup").hidden = false;
  $("trial").hidden = true;
  $("verdict").textContent = "";
  player.choose();
  show();
}

/** How probable at least `count` of `all` tosses of a coin are. */
function chance(count, all) {
  let term = 0.5 ** all, sum = 0; // the term of k = 0
  for (let k = 0; k <= all; k++) {
    if (k >= count) sum += term;
    term *= (all - k) / (k + 1);
  }
  return Math.min(1, sum);
}

function showTally() {
  $("tally").hidden = tally.size === 0;
  $("tally").querySelector("tbody").replaceChildren(...[...tally.values()].map(({ kind, titles, counts }) => {
    const all = counts[0] + counts[1];
    const abx = kind === "abx", most = Math.max(...counts);
    const p = abx ? chance(counts[0], all) : Math.min(1, 2 * chance(most, all)); // right answers, or either preference
    const result = abx ? `${counts[0]} of ${all} right` : `${titles[0]} ${counts[0]}, ${titles[1]} ${counts[1]}`;
    const cells = [`${abx ? "ABX" : "nearer"}: ${titles.join(" / ")}`, all, result, p < 0.001 ? "< 0.001" : p.toFixed(3)];
    return make("tr", {}, ...cells.map((textContent) => make("td", { textContent })));
  }));
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
    if (range === state.range) paint($("continued-canvas"), values, values.reduce((a, b) => Math.max(a, b)));
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

const step = (by) => (trial ? listen((state.letter + by + 3) % 3) : choose(state.version + by));
const KEYS = {
  " ": toggle, ArrowUp: () => step(-1), ArrowDown: () => step(1),
  ArrowLeft: (event) => player.seek(player.position() - (event.shiftKey ? 0.1 : 1)),
  ArrowRight: (event) => player.seek(player.position() + (event.shiftKey ? 0.1 : 1)),
  ",": () => openClip(state.clip - 1), ".": () => openClip(state.clip + 1),
  f: () => setRange(state.range === "near" ? "full" : "near"), l: () => setLoop(!state.loop), t: theme,
  b: () => (trial ? end() : begin()), Escape: () => setRegion(null),
  Enter: () => { if (trial && state.letter < 2) answer(state.letter); },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const focus = event.target.closest?.("button, select, summary, a, input[type=range]");
  if (focus && (event.key === " " || event.key === "Enter")) return; // theirs
  if (focus?.matches("select")) return;
  const digit = "123456789".indexOf(event.key);
  const action = digit >= 0 && event.key.length === 1 ? () => (trial ? digit < 3 && listen(digit) : choose(digit)) : KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  action(event);
});
// After a click the space bar should play, not click again; with the keyboard, focus stays where it is.
document.addEventListener("click", (event) => { if (event.detail) event.target.closest?.("button")?.blur(); });

$("play").addEventListener("click", toggle);
$("loop").addEventListener("click", () => setLoop(!state.loop));
$("theme").addEventListener("click", theme);
$("seek").addEventListener("input", () => player.seek($("seek").value * player.duration()));
$("begin").addEventListener("click", begin);
$("end").addEventListener("click", end);
$("reset").addEventListener("click", () => { tally.clear(); $("verdict").textContent = ""; showTally(); });
for (const i of [0, 1]) $(`answer-${i}`).addEventListener("click", () => answer(i));
for (const id of ["first", "second"]) {
  $(id).addEventListener("change", () => { $(id).dataset.key = page.clips[state.clip].versions[$(id).value].key; });
}

$("clips").hidden = page.clips.length < 2;
segments($("clips"), "clip", page.clips.map((clip, i) => [i, clip.title]), 0, openClip);
segments($("range"), "range", Object.entries(RANGES).map(([key, range]) => [key, range.title]), state.range, setRange);
segments($("kind"), "kind", Object.entries(KINDS), state.kind, (kind) => { state.kind = kind; });
build();
continued?.begin();

/** For checks by a script: what is heard and counted. */
window.listening = {
  state, player, tally, buffers, trial: () => trial, gains: () => player.voices.map(({ gain }) => gain.gain.value),
};
