/* What was heard, take after take, for saving it: the last minutes, as they came from the service. */

import { wav } from "../wav.js";

export const MINUTES = 5; // that are kept: 55 MB at 48 kHz

export class Heard {
  constructor(rate, minutes = MINUTES) {
    Object.assign(this, { rate, most: minutes * 60 * rate });
    this.before = []; // blocks of the takes before this one
    this.take = []; // {place, samples} of this take, also of what is not heard yet
    this.frames = 0;
  }

  push(place, samples) {
    this.take.push({ place, samples });
    this.frames += samples.length / 2;
    while (this.frames > this.most) {
      const oldest = this.before.length ? this.before.shift() : this.take.shift().samples;
      this.frames -= oldest.length / 2;
    }
  }

  /** Another take begins; of this one, what is beyond sample `heard` was never heard. */
  renew(heard) {
    this.before = this.blocks(heard);
    this.take = [];
    this.frames = count(this.before);
  }

  blocks(heard) {
    const found = [...this.before];
    for (const { place, samples } of this.take) {
      const frames = Math.min(samples.length / 2, Math.floor(heard - place));
      if (frames > 0) found.push(samples.subarray(0, 2 * frames));
    }
    return found;
  }

  /** Seconds up to sample `heard` of this take. */
  seconds(heard) { return count(this.blocks(heard)) / this.rate; }

  wav(heard) { return wav(this.blocks(heard), 2, this.rate); }
}

function count(blocks) { return blocks.reduce((sum, { length }) => sum + length / 2, 0); }
