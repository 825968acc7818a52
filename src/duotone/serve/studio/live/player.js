/* Plays the sound of a session, and knows which of its samples is heard. Events: "tick" (about 20 times a second while the thread
   of sound runs), "ended" (all was played after `end`).

   Two clocks meet here: frames of the ring, at the rate of the context, and samples of the session. `marks` tell at which frame of the
   ring which sample of the session begins; where samples were lost on the way, there are two of them. */

import { toFloat } from "./pcm.js";
import { Resampler } from "./resample.js";
import { ENDED, PAUSED, PLAYING, READ, REFILL, Remote, Ring, START, STATE, UNDERRUNS, WRITE } from "./ring.js";

const SECONDS = 10; // of the ring, at least
const MOST_MARKS = 64;

export class Player extends EventTarget {
  /** `rate` is that of the session; `start` and `refill` are the seconds that have to be there at the start and after an underrun. */
  constructor(rate, { start = 0.5, refill = 1, shared = globalThis.crossOriginIsolated } = {}) {
    super();
    Object.assign(this, { rate, start, refill, shared, context: null, node: null, paused: false, backlog: [] });
    this.place = 0; // the sample of the session that is expected next
    this.marks = [];
    this.lost = 0; // samples that did not arrive
    this.ending = false;
  }

  /** Opens the sound card. Rejects with an Error that tells what is missing. */
  async open() {
    this.context = await contextAt(this.rate);
    await this.context.audioWorklet.addModule("/studio/live/worklet.js");
    const capacity = 2 ** Math.ceil(Math.log2(SECONDS * this.context.sampleRate)), buffer = this.shared ? new SharedArrayBuffer(Ring.bytes(capacity)) : null;
    this.node = new AudioWorkletNode(this.context, "duotone-player", { numberOfInputs: 0, outputChannelCount: [2], processorOptions: { buffer, capacity } });
    this.node.port.start();
    this.ring = this.shared ? new Ring(buffer) : new Remote(this.node.port, capacity);
    this.node.port.addEventListener("message", () => this.tick());
    this.node.connect(this.context.destination);
    this.ring.set(START, Math.round(this.start * this.context.sampleRate));
    this.ring.set(REFILL, Math.round(this.refill * this.context.sampleRate));
    this.resampler = this.renewed();
    await this.context.resume();
  }

  renewed() { return this.context.sampleRate === this.rate ? null : new Resampler(this.rate, this.context.sampleRate); }

  get ratio() { return this.context.sampleRate / this.rate; }

  /** A sound begins at this sample of the session; what was not played of the former one is dropped, with a fade. */
  begin(place) {
    this.backlog = [];
    this.ending = false;
    this.ring.set(ENDED, 0);
    this.ring.flush();
    this.resampler = this.renewed();
    this.place = place;
    this.marks = [{ frame: this.ring.get(WRITE), place }];
  }

  /** The next samples, 16 bits, interleaved; `place` tells which they are: what came before is left out, what is missing is counted. */
  push(place, samples) {
    if (this.marks.length === 0) this.begin(place);
    const known = Math.max(0, this.place - place), fresh = samples.subarray(2 * known);
    if (fresh.length === 0) return;
    if (place > this.place) {
      this.lost += place - this.place;
      this.mark(place);
    }
    this.place = Math.max(this.place, place + samples.length / 2);
    this.queue(toFloat(fresh));
  }

  /** From what is queued next on, samples are those from `place` on. */
  mark(place) {
    const queued = this.backlog.reduce((sum, each) => sum + each.length / 2, 0);
    this.marks.push({ frame: (this.ring.get(WRITE) + queued) | 0, place });
    if (this.marks.length > MOST_MARKS) this.marks.shift();
  }

  queue(samples) {
    const ready = this.resampler ? this.resampler.push(samples) : samples;
    if (ready.length) this.backlog.push(ready);
    this.pump();
  }

  /** From the backlog into the ring, as there is room. */
  pump() {
    while (this.backlog.length && this.ring.room > 0) {
      const next = this.backlog[0], count = this.ring.write(next);
      if (2 * count < next.length) this.backlog[0] = next.subarray(2 * count); else this.backlog.shift();
    }
    if (this.ending && !this.backlog.length) this.ring.set(ENDED, 1);
  }

  /** No more comes: what is there is played to its end. */
  end() {
    if (this.resampler) this.backlog.push(this.resampler.finish());
    this.ending = true;
    this.pump();
  }

  tick() {
    this.pump();
    this.dispatchEvent(new Event("tick"));
    if (this.ending && !this.backlog.length && this.ring.filled === 0) {
      this.ending = false;
      this.dispatchEvent(new Event("ended"));
    }
  }

  /** The sample of the session to which a frame of the ring belongs. */
  placeOf(frame) {
    let found = this.marks[0];
    for (const mark of this.marks) if (((frame - mark.frame) | 0) >= 0) found = mark;
    return found ? Math.max(found.place, found.place + ((frame - found.frame) | 0) / this.ratio) : 0;
  }

  /** Samples of the session that were given to the sound card. */
  get played() { return this.ring ? Math.min(this.place, this.placeOf(this.ring.get(READ))) : 0; }

  /** The sample of the session that is heard now. */
  get heard() {
    const latency = this.playing ? (this.context.outputLatency || this.context.baseLatency || 0) : 0;
    return Math.max(this.marks[0]?.place ?? 0, this.played - latency * this.rate);
  }

  /** Seconds of sound that have come and were not played. */
  get ahead() { return (this.place - this.played) / this.rate; }

  get playing() { return this.ring?.get(STATE) === PLAYING; }

  get underruns() { return this.ring?.get(UNDERRUNS) ?? 0; }

  get peaks() { return this.ring?.peaks ?? [0, 0]; }

  pause(paused = true) {
    this.paused = paused;
    this.ring?.set(PAUSED, paused ? 1 : 0);
    if (!paused) this.context?.resume();
  }

  async close() {
    this.node?.disconnect();
    if (this.context && this.context.state !== "closed") await this.context.close();
  }
}

/** A context at a rate, or at the sound card's where the browser does not give one. */
export async function contextAt(rate) {
  if (!globalThis.AudioWorkletNode) {
    throw new Error("This browser gives no AudioWorklet here. Open the page over https or on this machine (127.0.0.1), with a current browser.");
  }
  try {
    return new AudioContext({ sampleRate: rate, latencyHint: "interactive" });
  } catch (error) {
    if (error.name !== "NotSupportedError") throw error;
    return new AudioContext({ latencyHint: "interactive" });
  }
}
