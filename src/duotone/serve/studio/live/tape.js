/* The sound as a tape that runs past: what was heard left of the line, what is made and not heard yet right of it, and where
   changes are heard. */

import { ink } from "../theme.js";

const BIN = 0.02; // seconds of a column of peaks
const PAST = 10, FUTURE = 3.5; // seconds that are shown
const KEPT = Math.ceil((PAST + FUTURE + 60) / BIN); // columns; a prompt that is heard first comes at once
const ROWS = 3; // of labels, so that those near each other can be read

export class Tape {
  constructor(canvas) {
    this.canvas = canvas;
    this.clear();
    this.recolour();
    document.addEventListener("theme", () => this.recolour());
  }

  recolour() { this.inks = Object.fromEntries(["soft", "line", "tokens", "latents", "ink", "mark"].map((name) => [name, ink(name)])); }

  clear(rate = 48000) {
    this.rate = rate;
    this.size = Math.round(BIN * rate);
    this.peaks = new Float32Array(KEPT);
    this.numbers = new Int32Array(KEPT).fill(-1); // which column of the sound is kept at this place
    this.marks = [];
  }

  push(place, samples) {
    for (let i = 0; i < samples.length; i += 2) {
      const column = Math.floor((place + i / 2) / this.size), at = column % KEPT;
      if (this.numbers[at] !== column) { this.numbers[at] = column; this.peaks[at] = 0; }
      const peak = Math.max(Math.abs(samples[i]), Math.abs(samples[i + 1])) / 32768;
      if (peak > this.peaks[at]) this.peaks[at] = peak;
    }
  }

  /** A change that is heard from this sample on. */
  mark(place, text) {
    this.marks = [...this.marks.filter((mark) => mark.place !== place || mark.name !== text.split(" ")[0]), { place, text, name: text.split(" ")[0] }].slice(-40);
  }

  draw(heard) {
    const { canvas, inks } = this, scale = devicePixelRatio, width = Math.round(canvas.clientWidth * scale), height = Math.round(canvas.clientHeight * scale);
    if (!width) return;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d"), now = heard / this.rate, from = now - PAST, second = width / (PAST + FUTURE), middle = height * 0.6;
    context.clearRect(0, 0, width, height);
    const first = Math.max(0, Math.floor(from / BIN)), last = Math.ceil((now + FUTURE) / BIN), bar = Math.max(1, BIN * second - scale * 0.4);
    for (let column = first; column <= last; column++) {
      if (this.numbers[column % KEPT] !== column) continue;
      const x = (column * BIN - from) * second, tall = Math.max(scale, Math.sqrt(this.peaks[column % KEPT]) * height * 0.4);
      context.fillStyle = column * BIN < now ? inks.tokens : inks.latents;
      context.globalAlpha = column * BIN < now ? 0.9 : 0.55;
      context.fillRect(x, middle - tall, bar, 2 * tall);
    }
    context.globalAlpha = 1;
    context.fillStyle = inks.ink;
    context.fillRect(PAST * second - scale, 0, 2 * scale, height);
    this.label(context, { from, now, second, height, scale });
  }

  label(context, { from, now, second, height, scale }) {
    context.font = `${12 * scale}px system-ui, sans-serif`;
    context.textBaseline = "top";
    this.marks.forEach(({ place, text }, i) => {
      const x = (place / this.rate - from) * second, y = (i % ROWS) * 14 * scale;
      if (x < -200 * scale || x > context.canvas.width) return;
      context.fillStyle = this.inks.mark;
      context.fillRect(x, y, scale, height);
      context.fillStyle = place / this.rate > now ? this.inks.soft : this.inks.ink;
      context.fillText(text, x + 4 * scale, y);
    });
  }
}
