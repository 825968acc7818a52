/* The microphone, encoded while it records: sound goes in audio frames to a session of kind encode, and the parts of the .duo come back.

   Events: "parts" (another part has come), "ended" ({file, error}: the whole .duo, or null and why there is none). */

import { DuoFeed } from "../duo.js";
import { wav } from "../wav.js";
import { toPcm } from "./pcm.js";
import { Capture, MOST_MINUTES } from "./recorder.js";
import { Session } from "./session.js";

export class LiveEncode extends EventTarget {
  /** `codec` is its description by the service (GET /v1/models). */
  constructor(codec, token) {
    super();
    const face = codec.faces.includes("tokens") ? "tokens" : "latents";
    Object.assign(this, { codec, token, face, rate: 0, ended: false, stopping: false });
    this.feed = new DuoFeed(codec, face);
    this.chunks = []; // codes of each
    this.parts = [];
    this.bytes = 0; // of the parts
    this.blocks = []; // what the microphone gave, for the case that the connection is lost
    this.frames = 0;
    this.sent = 0; // frames
  }

  /** Opens the microphone, then the session; lets go of both where it was left meanwhile. Rejects with an Error that says what is missing. */
  async start() {
    this.capture = new Capture((samples) => this.take(toPcm(samples)));
    await this.capture.open();
    if (this.ended) {
      await this.capture.stop();
      return;
    }
    this.capture.onlost = () => this.stop("The microphone is gone; what it gave until then is kept.");
    this.rate = this.capture.context.sampleRate;
    this.session = new Session({ kind: "encode", token: this.token, model: this.codec.name, face: this.face, rate: this.rate });
    this.session.addEventListener("part", ({ detail }) => this.part(detail.data));
    try {
      const { limits } = await this.session.open();
      this.most = Math.floor(limits.decoded_seconds * this.rate);
    } catch (error) {
      if (this.ended) return;
      await this.capture.stop();
      throw error;
    }
    this.session.addEventListener("closed", ({ detail }) => this.closed(detail.error));
    this.send();
  }

  take(samples) {
    this.blocks.push(samples);
    this.frames += samples.length / 2;
    if (this.frames > MOST_MINUTES * 60 * this.capture.context.sampleRate) this.frames -= this.blocks.shift().length / 2;
    (this.waiting ??= []).push(samples);
    this.send();
  }

  /** Sends what waits, at most as much as the service takes in a session. */
  send() {
    if (this.session?.state !== "open" || this.stopping) return;
    for (const block of this.waiting?.splice(0) ?? []) {
      const samples = block.subarray(0, 2 * (this.most - this.sent));
      this.session.push(this.sent, samples);
      this.sent += samples.length / 2;
    }
    if (this.sent >= this.most) this.stop(`The service takes at most ${(this.most / this.rate).toFixed(0)} s in a session (decoded_seconds); the recording ends there.`);
  }

  part(data) {
    if (this.ended) return;
    this.parts.push(data);
    this.bytes += data.length;
    this.chunks.push(...this.feed.push(data));
    this.dispatchEvent(new Event("parts"));
  }

  /** Ends the sound; the rest of the .duo comes then. `reason` is told with it. */
  async stop(reason = null) {
    if (this.stopping) return;
    this.stopping = true;
    this.reason = reason;
    await this.capture.stop();
    if (this.ended) return;
    if (this.sent === 0) { this.end(new Error("Nothing came from the microphone. Check that it is on, and that the system lets the browser use it.")); return; }
    this.session.stop().catch((error) => this.end(error));
  }

  /** Leaves: nothing is kept. */
  async cancel() {
    this.ended = true;
    if (!this.session) return; // the microphone is not open yet: `start` lets go of it
    if (!this.stopping) await this.capture.stop();
    this.stopping = true;
    this.session.close();
  }

  closed(error) {
    if (this.feed.ended && !error) this.end(null);
    else this.end(error ?? new Error("The service ended the session before the .duo was whole."));
  }

  async end(error) {
    if (this.ended) return;
    this.ended = true;
    if (!this.stopping) await this.capture.stop();
    this.stopping = true;
    this.session.close();
    const file = error ? null : new File(this.parts, "live.duo", { type: "application/x-duotone" });
    this.dispatchEvent(new CustomEvent("ended", { detail: { file, error } }));
  }

  /** What the microphone gave, as a WAV file: the last minutes of it. */
  wav() { return new File([wav(this.blocks, 2, this.rate)], "recording.wav", { type: "audio/wav" }); }

  /** Seconds that were sent, and that are in the .duo. */
  get seconds() { return this.rate ? this.sent / this.rate : 0; }

  get encoded() { return Math.min(this.seconds, this.feed.chunks * this.codec.chunk_seconds); }

  /** Tokens so far, of all codebooks and streams. */
  get tokens() { return this.face === "tokens" ? this.feed.chunks * this.feed.values : 0; }

  get level() { return this.stopping ? 0 : this.capture?.peak ?? 0; }
}
