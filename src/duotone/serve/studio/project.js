/* The sound that is open and everything made of it. Events: "opened" (other versions), "version" (one of them has changed),
   "encoded" (all .duo files are there), "progress". A newer wish ends what is being made for an older one. */

import { post, postForBlob, ServiceError } from "./api.js";
import { loudness, matched, peak } from "./loudness.js";
import { toWav } from "./wav.js";

export const RATE = 48000; // of everything that is played; the browser resamples all versions alike
const OPUS_KBPS = 12; // of the second version through Opus
let makings = 0; // sounds that were made in this page: each has a number of its own

class Project extends EventTarget {
  constructor() {
    super();
    this.models = null;
    this.options = {}; // model, strategy, steps, iterations, seed
    this.clear();
  }

  clear() {
    Object.assign(this, { name: "", about: "", file: null, start: 0, whole: 0, wav: null, duos: {}, info: {}, versions: [], seconds: 0, failed: null });
  }

  get codec() { return this.models.codecs.find(({ name }) => name === this.options.model) ?? this.models.codecs[0]; }

  get most() { return this.models.limits.compared_seconds; }

  get ready() { return this.versions.filter(({ buffer }) => buffer); }

  tell(type, detail) { this.dispatchEvent(new CustomEvent(type, { detail })); }

  progress(text) { this.tell("progress", text); }

  /** Ends what is being made, and gives the signal of what is made next. */
  renew() {
    this.work?.abort();
    this.work = new AbortController();
    return this.work.signal;
  }

  /** Opens a sound or a .duo; `start` in seconds is where the part of a long sound begins. Rejects with a ServiceError. */
  async open(file, about = "", start = 0) {
    const signal = this.renew();
    const limit = this.models.limits.upload_bytes;
    if (file.size > limit) throw new ServiceError(`${file.name} has ${megabytes(file.size)}, this service takes at most ${megabytes(limit)} (upload_bytes).`);
    await this.run(async () => {
      this.progress(`Reading ${file.name}`);
      const { blob, info } = await readable(file, signal);
      if (info.type === "duo") await this.openDuo(blob, file.name, info, signal);
      else await this.openSound(blob, file.name, about, info, start, signal);
    }, signal);
  }

  async run(work, signal) {
    try {
      await work();
    } catch (error) {
      if (error.name === "AbortError" || signal.aborted) return;
      throw error;
    } finally {
      if (!signal.aborted) this.progress("");
    }
  }

  async openSound(file, name, about, info, start, signal) {
    const { blob: wav } = await postForBlob("/v1/sound", file, { start, seconds: this.most }, signal);
    const buffer = await decode(wav);
    this.clear();
    const seconds = buffer.duration, channels = info.channels === 1 ? "mono" : "stereo";
    Object.assign(this, { name, file, start, wav, seconds, whole: info.seconds });
    this.about = [about, `${seconds.toFixed(1)} s`, `${info.rate / 1000} kHz`, channels].filter(Boolean).join(" · ");
    const bytes = Math.round(seconds * info.rate) * info.channels * 2; // of what is played: the part, in 16 bits
    this.versions = [
      version("original", "original", "Original", { bytes, detail: "16-bit PCM", wav }),
      ...faces(this.codec).map((face) => version(face, face, `${this.codec.name}, ${face}`)),
      ...(this.models.opus ? [version("opus-nearest", "opus", "Opus, nearest size"), version("opus-12k", "opus", `Opus, ${OPUS_KBPS} kbit/s`)] : []),
    ];
    this.tell("opened");
    await this.fill(this.versions[0], buffer);
    for (const face of faces(this.codec)) await this.encode(face, signal);
    this.tell("encoded");
    await this.decodeAll(signal);
    if (this.models.opus) await this.addOpus(signal);
    await this.measure(signal);
  }

  async openDuo(file, name, info, signal) {
    if (info.seconds > this.most) {
      throw new ServiceError(`${name} lasts ${info.seconds.toFixed(0)} s, and this page decodes at most ${this.most} s (compared_seconds). Use duotone decode for longer files.`);
    }
    this.clear();
    Object.assign(this, { name, seconds: info.seconds, whole: info.seconds, duos: { [info.kind]: file }, info: { [info.kind]: info } });
    this.about = [`${info.kind} of ${info.codec.model || info.codec.family}`, `${info.seconds.toFixed(1)} s`, `${info.rate / 1000} kHz`].join(" · ");
    this.versions = [version(info.kind, info.kind, `${info.codec.model || info.codec.family}, ${info.kind}`, { bytes: file.size, detail: "the .duo that was opened" })];
    this.tell("opened");
    this.tell("version", this.versions[0]);
    this.tell("encoded");
    await this.decodeAll(signal);
  }

  async encode(face, signal) {
    this.progress(`Encoding ${face}`);
    const { blob } = await postForBlob("/v1/encode", this.wav, { model: this.options.model, kind: face }, signal);
    this.duos[face] = blob;
    this.info[face] = await (await post("/v1/info", blob, {}, signal)).json();
    Object.assign(this.find(face), { bytes: blob.size, detail: `${face} in a .duo file` });
    this.tell("version", this.find(face));
  }

  async decodeAll(signal) {
    const { model, ...options } = this.options; // a .duo is decoded by the codec that made it
    for (const [face, duo] of Object.entries(this.duos)) {
      this.progress(`Decoding ${face}`);
      const { blob } = await postForBlob("/v1/decode", duo, options, signal);
      this.find(face).wav = blob;
      await this.fill(this.find(face), await decode(blob));
    }
  }

  /** Decodes again, by other options. Rejects with a ServiceError. */
  async again() {
    const signal = this.renew();
    await this.run(async () => {
      await this.decodeAll(signal);
      await this.measure(signal);
    }, signal);
  }

  async addOpus(signal) {
    const ours = this.duos.tokens ?? this.duos.latents;
    const wishes = { "opus-nearest": { bytes: ours.size }, "opus-12k": { kbps: OPUS_KBPS } };
    for (const [key, wish] of Object.entries(wishes)) {
      this.progress("Coding with Opus");
      const found = this.find(key), { blob, headers } = await postForBlob("/v1/opus", this.wav, wish, signal);
      const told = (name) => Number(headers.get(`Duotone-${name}`));
      const times = (told("Bytes") / ours.size).toFixed(1);
      const much = { bytes: told("Bytes"), wav: blob, detail: `--bitrate ${told("Bitrate")}, ${told("Channels") === 2 ? "stereo" : "mono"}, up to ${told("Bandwidth") / 1000} kHz` };
      Object.assign(found, much);
      if (key === "opus-nearest") found.note = times === "1.0" ? "the same size" : `${times} times as large`;
      await this.fill(found, await decode(blob));
    }
  }

  /** The distance of each version to the original, one after the other: the last thing, for it only adds a figure. */
  async measure(signal) {
    if (!this.find("original")) return;
    this.progress("Measuring distances");
    for (const each of this.versions.slice(1)) {
      const form = new FormData();
      form.append("reference", this.wav, "reference.wav");
      form.append("estimate", each.wav, "estimate.wav");
      each.distance = (await (await post("/v1/evaluate", form, {}, signal)).json()).log_mel;
      this.tell("version", each);
    }
  }

  find(key) { return this.versions.find((each) => each.key === key); }

  async fill(found, buffer) {
    const heard = { lkfs: await loudness(buffer), peak: peak(buffer) };
    Object.assign(found, heard, { buffer, made: ++makings, mono: null, levels: null });
    const ready = this.ready, gains = matched(ready);
    ready.forEach((each, i) => { each.gain = gains[i]; });
    this.seconds ||= buffer.duration;
    this.tell("version", found);
  }
}

function version(key, group, title, rest = {}) {
  return { key, group, title, bytes: 0, detail: "", note: "", distance: null, buffer: null, wav: null, gain: 1, ...rest };
}

/** Tokens first, as everywhere on the page. */
function faces(codec) { return [...codec.faces].sort().reverse(); }

function megabytes(bytes) { return `${(bytes / 2 ** 20).toFixed(1)} MiB`; }

async function decode(blob) {
  return new OfflineAudioContext(2, 1, RATE).decodeAudioData(await blob.arrayBuffer());
}

/** A file that the service reads and what it is: what it cannot read, the browser decodes, if it can. */
async function readable(file, signal) {
  try {
    return { blob: file, info: await (await post("/v1/info", file, {}, signal)).json() };
  } catch (error) {
    if (error.status !== 422 || file.name.endsWith(".duo")) throw error;
    const buffer = await decode(file).catch(() => { throw error; });
    const blob = toWav(buffer);
    return { blob, info: { type: "sound", rate: buffer.sampleRate, channels: buffer.numberOfChannels, seconds: buffer.duration } };
  }
}

export const project = new Project();
