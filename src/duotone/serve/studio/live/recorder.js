/* The microphone: a recording as a WAV file, and live sound for sessions. */

import { wav } from "../wav.js";
import { toPcm } from "./pcm.js";

export const MOST_MINUTES = 20; // of a recording, which is kept in memory (230 MB at 48 kHz)
const MUSIC = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: { ideal: 2 } };

const REASONS = {
  NotAllowedError: "The browser does not let this page use the microphone. Allow it beside the address, then press the button again.",
  NotFoundError: "No microphone was found. Connect one, or drop a sound file instead.",
  NotReadableError: "The microphone is there, but another program holds it. Close that program, then press the button again.",
};

/** The stream of the microphone, as it is: nothing is cancelled or levelled. Rejects with an Error that says what to do. */
export async function microphone() {
  if (!isSecureContext || !navigator.mediaDevices) {
    throw new Error("Browsers give a microphone only to pages over https or from this machine. Open the page as 127.0.0.1, or put a proxy with TLS in front of the service.");
  }
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: MUSIC });
  } catch (error) {
    throw new Error(REASONS[error.name] ?? `The microphone could not be opened: ${error.message}.`);
  }
}

/** Blocks of the microphone's sound, until `stop`: `take(samples, time)` gets interleaved stereo and the time of the first in the context's clock. */
export class Capture {
  /** In a context of the caller's, whose rate the samples have, or in one at the sound card's rate. */
  constructor(take, context = null) {
    Object.assign(this, { take, own: context === null, context, stopped: null });
    this.peak = 0;
  }

  /** Rejects with an Error that says what is missing; the microphone is let go of then. */
  async open() {
    this.stream = await microphone();
    if (this.own) this.context = new AudioContext({ latencyHint: "interactive" });
    try {
      await this.context.audioWorklet.addModule("/studio/live/worklet.js");
    } catch (error) {
      await this.release();
      throw new Error(`The service does not answer. Is duotone serve running? (${error.message})`);
    }
    this.source = new MediaStreamAudioSourceNode(this.context, { mediaStream: this.stream });
    this.node = new AudioWorkletNode(this.context, "duotone-capture", { numberOfOutputs: 0 });
    this.node.port.onmessage = ({ data }) => {
      this.peak = data.samples.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
      this.take(data.samples, data.time);
    };
    this.source.connect(this.node);
    this.stream.getAudioTracks()[0].addEventListener("ended", () => this.onlost?.());
    await this.context.resume();
    return this;
  }

  async stop() {
    this.node.port.onmessage = null;
    this.source.disconnect();
    await this.release();
  }

  async release() {
    for (const track of this.stream.getTracks()) track.stop();
    if (this.own) await this.context.close();
  }
}

/** Records the microphone: `level()` is the peak of the last block, `stop()` resolves to a WAV file at the sound card's rate.
    Rejects with an Error that says what to do where there is no microphone. */
export async function record() {
  const blocks = [];
  let frames = 0;
  const capture = new Capture((samples) => {
    if (frames >= MOST_MINUTES * 60 * capture.context.sampleRate) return;
    blocks.push(toPcm(samples));
    frames += samples.length / 2;
  });
  await capture.open();
  return {
    level: () => capture.peak,
    seconds: () => frames / capture.context.sampleRate,
    stop: async () => {
      const rate = capture.context.sampleRate;
      await capture.stop();
      if (frames === 0) throw new Error("Nothing came from the microphone. Check that it is on, and that the system lets the browser use it.");
      return new File([wav(blocks, 2, rate)], "recording.wav", { type: "audio/wav" });
    },
  };
}
