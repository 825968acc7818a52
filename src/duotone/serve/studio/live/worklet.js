/* The thread of sound: plays the ring, and captures a microphone. */

import { Reader, Ring } from "./ring.js";

const TELL = 16; // blocks of 128 frames between two reports
const BLOCK = 2048; // frames of a captured block

class Player extends AudioWorkletProcessor {
  constructor({ processorOptions: { buffer, capacity } }) {
    super();
    this.shared = buffer !== null;
    this.ring = new Ring(buffer ?? new ArrayBuffer(Ring.bytes(capacity)));
    this.reader = new Reader(this.ring);
    this.blocks = 0;
    this.port.onmessage = ({ data }) => {
      if (data.samples) this.ring.write(data.samples);
      else this.ring.set(data.index, data.value);
    };
  }

  process(inputs, [[left, right]]) {
    this.reader.pull(left, right);
    if (++this.blocks % TELL === 0) this.port.postMessage({ header: this.shared ? null : this.ring.header });
    return true;
  }
}

/** Sends blocks of interleaved stereo samples with the time of the first; a microphone of one channel is on both. */
class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.renew();
  }

  renew() {
    this.block = new Float32Array(2 * BLOCK);
    this.filled = 0;
  }

  process([channels]) {
    if (channels.length === 0) return true; // no microphone is connected at this moment
    const [left, right] = channels.length > 1 ? channels : [channels[0], channels[0]];
    if (this.filled === 0) this.time = currentTime;
    for (let i = 0; i < left.length; i++) {
      this.block[2 * (this.filled + i)] = left[i];
      this.block[2 * (this.filled + i) + 1] = right[i];
    }
    this.filled += left.length;
    if (this.filled === BLOCK) {
      this.port.postMessage({ samples: this.block, time: this.time }, [this.block.buffer]);
      this.renew();
    }
    return true;
  }
}

registerProcessor("duotone-player", Player);
registerProcessor("duotone-capture", Capture);
