/* Spectrograms and waveforms of versions on canvases, for the part that the timeline shows. */

import { linearEdges, mono, paint, palette, spectrum } from "/studio/shared/spectrum.js";
import { RATE } from "./project.js";
import { timeline } from "./timeline.js";

const COLUMNS = 1200, ROWS = 224;
const REST_MS = 90; // after the last change of what is shown, details are computed
const SHORT = 1.2; // seconds: windows of analysis are shorter where less is shown

const mel = (hertz) => 2595 * Math.log10(1 + hertz / 700); // O'Shaughnessy 1987
const hertzOf = (value) => 700 * (10 ** (value / 2595) - 1);
const TOP = 20000;

/** What can be drawn: its axis of frequencies, the range of levels in dB, and where a frequency is on the axis. */
export const KINDS = {
  full: {
    title: "Spectrogram", size: 4096, range: 80, ticks: [500, 1000, 2000, 5000, 10000],
    edges: Float64Array.from({ length: ROWS + 1 }, (_, row) => hertzOf((row / ROWS) * mel(TOP))), share: (hertz) => mel(hertz) / mel(TOP),
  },
  near: { title: "0–5 kHz", size: 4096, range: 75, ticks: [1000, 2000, 3000, 4000], edges: linearEdges(5000, ROWS), share: (hertz) => hertz / 5000 },
  wave: { title: "Waveform", ticks: [] },
};

let colours = null;

/** Loads the colours of spectrograms. */
export async function loadColours() {
  colours = palette(await (await fetch("/studio/shared/colours.json")).json());
}

/* ---- Spectrograms, by a worker ---- */

const worker = new Worker("/studio/spectra.js", { type: "module" });
const waiting = new Map();
let ids = 0, sent = new Set();

worker.addEventListener("message", ({ data: { id, values } }) => {
  waiting.get(id)?.(values);
  waiting.delete(id);
});

/** Forgets all sounds. */
export function forget() {
  sent = new Set();
  worker.postMessage({});
}

function compute(version, kind, from, to) {
  version.mono ??= mono(version.buffer);
  const name = `${version.key}/${version.made}`;
  if (!sent.has(name)) {
    sent.add(name);
    worker.postMessage({ sound: name, samples: version.mono });
  }
  const size = to - from < SHORT ? KINDS[kind].size / 2 : KINDS[kind].size, id = ++ids;
  return new Promise((resolve) => {
    waiting.set(id, resolve);
    worker.postMessage({ id, sound: name, rate: RATE, size, edges: KINDS[kind].edges, columns: COLUMNS, from: from * RATE, to: to * RATE });
  });
}

/** A version's canvas. It draws at once what it has, stretched, and details as soon as they are computed. */
export class View {
  constructor(canvas, version) {
    Object.assign(this, { canvas, version, wholes: new Map(), asked: 0, timer: 0 });
  }

  /** Draws a kind; `loudest` gives the level of the brightest colour, a promise. Resolves when nothing is missing. */
  async draw(kind, loudest, colour) {
    const asked = ++this.asked;
    clearTimeout(this.timer);
    if (!this.version.buffer) return;
    if (kind === "wave") {
      drawWave(this.canvas, this.version, timeline, colour);
      return;
    }
    const whole = await this.whole(kind, loudest);
    if (asked !== this.asked) return;
    this.stretch(whole);
    if (timeline.everything) return;
    await new Promise((resolve) => { this.timer = setTimeout(resolve, REST_MS); });
    const values = await compute(this.version, kind, timeline.from, timeline.to);
    if (asked === this.asked) paint(this.canvas, values, { rows: ROWS, loudest: await loudest(), range: KINDS[kind].range, colours });
  }

  /** The picture of the whole sound, on a canvas that is not shown. */
  whole(kind, loudest) {
    if (!this.wholes.has(kind)) this.wholes.set(kind, this.make(kind, loudest));
    return this.wholes.get(kind);
  }

  async make(kind, loudest) {
    const values = await levelsOf(this.version, kind), canvas = document.createElement("canvas");
    paint(canvas, values, { rows: ROWS, loudest: await loudest(), range: KINDS[kind].range, colours });
    return canvas;
  }

  stretch(whole) {
    const { canvas, version } = this, seconds = version.buffer.duration;
    if (canvas.width !== COLUMNS || canvas.height !== ROWS) Object.assign(canvas, { width: COLUMNS, height: ROWS });
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = true;
    context.drawImage(whole, (timeline.from / seconds) * COLUMNS, 0, (timeline.span / seconds) * COLUMNS, ROWS, 0, 0, COLUMNS, ROWS);
  }
}

/** Levels of the whole version, computed once. */
export function levelsOf(version, kind) {
  version.levels ??= {};
  version.levels[kind] ??= compute(version, kind, 0, version.buffer.duration);
  return version.levels[kind];
}

/** For tests: levels computed here, not by the worker. */
export function levelsHere(version, kind) {
  return spectrum(mono(version.buffer), RATE, { size: KINDS[kind].size, edges: KINDS[kind].edges, columns: COLUMNS });
}

/* ---- Waveforms ---- */

/** A waveform between `from` and `to` seconds: least and greatest sample of each column, a line where there are few samples. */
export function drawWave(canvas, version, { from, to }, colour, scale = version.gain) {
  const width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio)), height = Math.max(1, Math.round(canvas.clientHeight * devicePixelRatio));
  Object.assign(canvas, { width, height });
  version.mono ??= mono(version.buffer);
  const samples = version.mono, each = ((to - from) * RATE) / width, first = from * RATE;
  const context = canvas.getContext("2d"), y = (value) => (height / 2) * (1 - Math.max(-1, Math.min(1, value * scale)));
  context.fillStyle = context.strokeStyle = colour;
  if (each < 3) {
    context.lineWidth = 1.5 * devicePixelRatio;
    context.beginPath();
    for (let i = Math.floor(first); i <= first + each * width + 1; i++) context.lineTo((i - first) / each, y(samples[i] ?? 0));
    context.stroke();
    return;
  }
  for (let x = 0; x < width; x++) {
    let low = 1, high = -1;
    const end = Math.min(samples.length, Math.ceil(first + (x + 1) * each));
    for (let i = Math.max(0, Math.floor(first + x * each)); i < end; i++) {
      if (samples[i] < low) low = samples[i];
      if (samples[i] > high) high = samples[i];
    }
    if (low <= high) context.fillRect(x, y(high), 1, Math.max(1, y(low) - y(high)));
  }
}
