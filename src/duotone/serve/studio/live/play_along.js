/* The microphone in a jam: blocks with the sample of the session that was heard when they were played. */

import { toPcm } from "./pcm.js";
import { Capture } from "./recorder.js";
import { Resampler } from "./resample.js";

const SLIP = 0.05; // seconds between what is counted and what is heard, from which on a block is placed anew: after pauses and underruns

export class PlayAlong {
  /** `player()` and `session()` give those of now; `changed()` where the microphone goes on or off. */
  constructor({ player, session, say, changed }) {
    Object.assign(this, { player, session, say, changed, capture: null, next: null });
  }

  async toggle() { return this.capture ? this.stop() : this.start(); }

  async start() {
    const { context, rate } = this.player();
    this.resampler = context.sampleRate === rate ? null : new Resampler(context.sampleRate, rate);
    const capture = new Capture((samples, time) => this.take(samples, time), context);
    await capture.open();
    capture.onlost = () => { this.say("The microphone is gone.", "warning"); this.stop(); };
    this.capture = capture;
    this.next = null;
    this.changed();
    this.say("The microphone plays along. Use headphones: otherwise it hears the music too.", "info");
  }

  async stop() {
    const { capture } = this;
    this.capture = null;
    await capture?.stop();
    this.changed();
  }

  take(samples, time) {
    const player = this.player(), session = this.session();
    if (!player?.playing || session?.state !== "open") { this.next = null; return; }
    const input = this.resampler ? this.resampler.push(samples) : samples;
    const place = Math.round(player.heard - (player.context.currentTime - time) * player.rate);
    if (this.next === null || Math.abs(place - this.next) > SLIP * player.rate) this.next = Math.max(0, place);
    session.push(this.next, toPcm(input));
    this.next += input.length / 2;
  }
}
