/* One ring of interleaved stereo samples between the page and the thread of sound, and the reader that plays it.

   Both channels are in one ring, so that they cannot slip apart. Counters grow without end (modulo 2^32) and are taken modulo
   the capacity, a power of two:

     0 ........ READ ............. WRITE ........ READ + capacity
                |<---- filled ---->|<---- room --->|

   The reader waits until enough has come, fades in, and fades out before it runs dry, so that an underrun is a short silence and
   not a click; after it the reader waits for more than at the start (hysteresis), for a ring that has run dry once soon does so again. */

const HEADER = 16; // 32-bit numbers before the samples
export const WRITE = 0, READ = 1, UNDERRUNS = 2, STATE = 3, FLUSH = 4, FLUSHES = 5, ENDED = 6, PAUSED = 7, START = 8, REFILL = 9, PEAK = 10;
export const WAITING = 0, PLAYING = 1; // of STATE
export const FADE = 240; // frames: 5 ms at 48 kHz
const SCALE = 1e6; // of the peaks of both channels, as whole numbers at PEAK and the place after it
const FALL = 0.9995; // of a peak, a frame: 40 dB in 0.19 s

export class Ring {
  /** A ring in a buffer that `Ring.room` measured: a SharedArrayBuffer where two threads use it. */
  constructor(buffer) {
    this.buffer = buffer;
    this.header = new Int32Array(buffer, 0, HEADER);
    this.samples = new Float32Array(buffer, 4 * HEADER);
    this.capacity = this.samples.length / 2;
  }

  /** Bytes for so many frames. */
  static bytes(capacity) {
    if ((capacity & (capacity - 1)) !== 0) throw new Error(`A ring of ${capacity} frames, expected a power of two.`);
    return 4 * HEADER + 8 * capacity;
  }

  get(index) { return Atomics.load(this.header, index); }

  set(index, value) { Atomics.store(this.header, index, value); }

  get filled() { return (this.get(WRITE) - this.get(READ)) | 0; }

  get room() { return this.capacity - this.filled; }

  /** Writes as many interleaved samples as there is room for; gives the number of frames. */
  write(samples) {
    const count = Math.min(this.room, samples.length / 2), write = this.get(WRITE);
    const at = (write >>> 0) % this.capacity, first = Math.min(count, this.capacity - at);
    this.samples.set(samples.subarray(0, 2 * first), 2 * at);
    this.samples.set(samples.subarray(2 * first, 2 * count), 0);
    this.set(WRITE, (write + count) | 0); // after the samples: what is counted is there
    return count;
  }

  /** What was not played is not wanted any longer. */
  flush() {
    this.set(FLUSH, this.get(WRITE));
    this.set(FLUSHES, this.get(FLUSHES) + 1);
  }

  /** Peaks of what is heard, [left, right], falling. */
  get peaks() { return [this.get(PEAK) / SCALE, this.get(PEAK + 1) / SCALE]; }
}

/** The same on the page's side where memory cannot be shared: what is written is sent, and the reader's numbers come back. */
export class Remote {
  constructor(port, capacity) {
    this.port = port;
    this.capacity = capacity;
    this.header = new Int32Array(HEADER);
    port.addEventListener("message", ({ data }) => {
      for (const index of [READ, UNDERRUNS, STATE, PEAK, PEAK + 1]) this.header[index] = data.header[index];
    });
  }

  get(index) { return this.header[index]; }

  set(index, value) {
    this.header[index] = value;
    this.port.postMessage({ index, value });
  }

  write(samples) {
    const count = Math.min(this.room, samples.length / 2), sent = samples.slice(0, 2 * count);
    this.header[WRITE] = (this.header[WRITE] + count) | 0;
    this.port.postMessage({ samples: sent }, [sent.buffer]);
    return count;
  }
}
for (const name of ["filled", "room", "flush", "peaks"]) {
  Object.defineProperty(Remote.prototype, name, Object.getOwnPropertyDescriptor(Ring.prototype, name));
}

const toward = (gain, target) => (gain < target ? Math.min(target, gain + 1 / FADE) : Math.max(target, gain - 1 / FADE));

export class Reader {
  constructor(ring) {
    this.ring = ring;
    this.gain = 0;
    this.flushes = ring.get(FLUSHES);
    this.dry = false; // whether the reader waits because of an underrun
    this.peaks = [0, 0];
  }

  /** Fills both arrays with the next samples, or with silence. */
  pull(left, right) {
    const { ring } = this, flushing = ring.get(FLUSHES) !== this.flushes, paused = ring.get(PAUSED) === 1, ended = ring.get(ENDED) === 1;
    const read = ring.get(READ), filled = ring.filled;
    let state = ring.get(STATE);
    if (state === WAITING && !paused && !flushing && this.enough(filled, ended)) state = PLAYING;
    let taken = 0;
    for (let i = 0; i < left.length; i++) {
      const remaining = filled - taken;
      const fall = paused || flushing || (!ended && remaining <= FADE);
      const target = state === PLAYING && remaining > 0 && !fall ? 1 : 0;
      this.gain = toward(this.gain, target);
      if (state === PLAYING && remaining > 0 && this.gain > 0) {
        const at = 2 * (((read + taken) >>> 0) % ring.capacity);
        left[i] = ring.samples[at] * this.gain;
        right[i] = ring.samples[at + 1] * this.gain;
        taken++;
      } else {
        left[i] = right[i] = 0;
        if (state === PLAYING) state = this.rest(paused, flushing, ended);
      }
    }
    ring.set(READ, (read + taken) | 0);
    if (flushing && state === WAITING) this.jump();
    ring.set(STATE, state);
    this.measure(left, right);
  }

  /** Whether there is enough to begin with. */
  enough(filled, ended) {
    return filled > 0 && (ended || filled >= this.ring.get(this.dry ? REFILL : START));
  }

  /** Nothing is heard from here on; counts underruns. */
  rest(paused, flushing, ended) {
    this.gain = 0;
    if (!paused && !flushing) {
      this.dry = !ended;
      if (!ended) this.ring.set(UNDERRUNS, this.ring.get(UNDERRUNS) + 1);
    }
    return WAITING;
  }

  jump() {
    this.flushes = this.ring.get(FLUSHES);
    this.ring.set(READ, this.ring.get(FLUSH));
    this.dry = false;
  }

  measure(left, right) {
    [left, right].forEach((samples, c) => {
      let peak = this.peaks[c];
      for (let i = 0; i < samples.length; i++) peak = Math.max(peak * FALL, Math.abs(samples[i]));
      this.peaks[c] = peak;
      this.ring.set(PEAK + c, Math.round(Math.min(100, peak) * SCALE));
    });
  }
}
