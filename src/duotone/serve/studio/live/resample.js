/* Resampling of a stream, where the browser cannot give a context at the rate that is wanted: a windowed sinc of 48 zero crossings
   (Kaiser window), read from a table with linear interpolation (Smith, "Digital Audio Resampling", 2002). Interleaved stereo. */

const CROSSINGS = 24; // of the sinc on either side
const DETAIL = 512; // entries of the table between two crossings
const BETA = 8; // of the Kaiser window: side lobes at about -80 dB

let table = null;

/** The modified Bessel function of order 0, by its series. */
function bessel(x) {
  let sum = 1, term = 1;
  for (let k = 1; term > 1e-12 * sum; k++) { term *= (x / (2 * k)) ** 2; sum += term; }
  return sum;
}

function kernel() {
  return Float64Array.from({ length: CROSSINGS * DETAIL + 2 }, (_, i) => {
    const x = i / DETAIL;
    if (x >= CROSSINGS) return 0;
    const sinc = x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
    return (sinc * bessel(BETA * Math.sqrt(1 - (x / CROSSINGS) ** 2))) / bessel(BETA);
  });
}

export class Resampler {
  /** From one rate to another, in Hz. What comes out begins with the first sample that goes in. */
  constructor(from, to) {
    table ??= kernel();
    this.step = from / to; // of input a sample of output
    this.cut = 0.94 * Math.min(1, to / from); // cutoff, of the Nyquist frequency of the input: the transition ends at the lower one
    this.reach = Math.ceil(CROSSINGS / this.cut);
    this.held = new Float32Array(2 * this.reach); // input from `at - reach` on; silence before the first sample
    this.at = this.reach; // the place of the next sample of output, in frames of what is held
  }

  /** The output for the next input; it lags behind by `reach` samples of input. */
  push(samples) {
    const all = new Float32Array(this.held.length + samples.length);
    all.set(this.held);
    all.set(samples, this.held.length);
    const frames = all.length / 2, count = Math.max(0, Math.ceil((frames - this.reach - this.at) / this.step));
    const out = new Float32Array(2 * count);
    for (let i = 0; i < count; i++) this.one(all, this.at + i * this.step, out, 2 * i);
    const next = this.at + count * this.step, keep = Math.max(0, Math.floor(next) - this.reach);
    this.held = all.slice(2 * keep);
    this.at = next - keep;
    return out;
  }

  /** What is left, as if silence followed. */
  finish() { return this.push(new Float32Array(2 * (this.reach + 1))); }

  one(all, place, out, at) {
    let left = 0, right = 0;
    const first = Math.max(0, Math.ceil(place - this.reach)), last = Math.min(all.length / 2 - 1, Math.floor(place + this.reach));
    for (let j = first; j <= last; j++) {
      const x = Math.abs(place - j) * this.cut * DETAIL, i = Math.floor(x);
      if (i > CROSSINGS * DETAIL) continue;
      const weight = table[i] + (x - i) * (table[i + 1] - table[i]);
      left += weight * all[2 * j];
      right += weight * all[2 * j + 1];
    }
    out[at] = left * this.cut;
    out[at + 1] = right * this.cut;
  }
}
