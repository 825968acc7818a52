/* Spectrograms: levels of a sound over time and frequency, and their colours. */

/** Cosines and sines of a turn in `n` steps. */
const turns = new Map();
function turn(n) {
  if (!turns.has(n)) {
    const part = (wave) => Float64Array.from({ length: n / 2 }, (_, k) => wave((-2 * Math.PI * k) / n));
    turns.set(n, [part(Math.cos), part(Math.sin)]);
  }
  return turns.get(n);
}

/** In-place FFT of a complex signal whose length is a power of two (Cooley and Tukey 1965). */
function fft(re, im) {
  const n = re.length, [cos, sin] = turn(n);
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) { [re[i], re[j]] = [re[j], re[i]]; [im[i], im[j]] = [im[j], im[i]]; }
  }
  for (let length = 2; length <= n; length <<= 1) {
    const half = length >> 1, step = n / length;
    for (let begin = 0; begin < n; begin += length) {
      for (let k = 0, i = begin; k < half; k++, i++) {
        const c = cos[k * step], s = sin[k * step], j = i + half;
        const x = re[j] * c - im[j] * s, y = re[j] * s + im[j] * c;
        re[j] = re[i] - x; im[j] = im[i] - y; re[i] += x; im[i] += y;
      }
    }
  }
}

/** The mean of the channels of an AudioBuffer. */
export function mono(buffer) {
  const mean = new Float32Array(buffer.length);
  for (let c = 0; c < buffer.numberOfChannels; c++) {
    const channel = buffer.getChannelData(c);
    for (let i = 0; i < mean.length; i++) mean[i] += channel[i] / buffer.numberOfChannels;
  }
  return mean;
}

/** Levels in dB of the samples `from` to `to`, [columns][rows]: for each column a Hann window of `size` around its middle, for
    each row the loudest bin between its edges. `edges` are rows + 1 frequencies in Hz, upwards. Two columns are transformed at
    once, as real and imaginary part, so `columns` is even. */
export function spectrum(samples, rate, { size, edges, columns, from = 0, to = samples.length }) {
  const window = Float32Array.from({ length: size }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / size));
  const rows = edges.length - 1, out = new Float32Array(columns * rows);
  const re = new Float64Array(size), im = new Float64Array(size);
  const low = Int32Array.from({ length: rows }, (_, row) => Math.floor((edges[row] / rate) * size));
  const high = low.map((bin, row) => Math.max(bin + 1, Math.ceil((edges[row + 1] / rate) * size)));
  const fill = (into, column) => {
    const start = Math.round(from + ((column + 0.5) / columns) * (to - from)) - size / 2;
    for (let i = 0; i < size; i++) into[i] = (samples[start + i] ?? 0) * window[i]; // silence before and after
  };
  for (let column = 0; column < columns; column += 2) {
    fill(re, column);
    fill(im, column + 1);
    fft(re, im);
    for (let row = 0; row < rows; row++) {
      let first = 0, second = 0;
      for (let k = low[row]; k < high[row]; k++) {
        const m = (size - k) % size; // the spectra of two real signals: the even and the odd part
        const a = re[k] + re[m], b = im[k] - im[m], c = im[k] + im[m], d = re[m] - re[k];
        first = Math.max(first, a * a + b * b);
        second = Math.max(second, c * c + d * d);
      }
      out[column * rows + row] = 10 * Math.log10(first + 1e-12);
      out[(column + 1) * rows + row] = 10 * Math.log10(second + 1e-12);
    }
  }
  return out;
}

/** Edges of rows on a linear axis from 0 to `top` Hz. */
export function linearEdges(top, rows) { return Float64Array.from({ length: rows + 1 }, (_, row) => (row / rows) * top); }

/** 256 colours between `stops`, dark to bright, as pixels: bytes red, green, blue, opaque. */
export function palette(stops) {
  return new Uint32Array(Uint8Array.from({ length: 1024 }, (_, i) => {
    const at = ((i >> 2) / 255) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2), c = i & 3;
    return c === 3 ? 255 : stops[low][c] + (stops[low + 1][c] - stops[low][c]) * (at - low);
  }).buffer);
}

/** Draws levels, [columns][rows]; `range` dB below `loudest` are the darkest colour. */
export function paint(canvas, values, { rows, loudest, range, colours }) {
  const columns = values.length / rows;
  if (canvas.width !== columns || canvas.height !== rows) Object.assign(canvas, { width: columns, height: rows });
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows), pixels = new Uint32Array(image.data.buffer);
  for (let column = 0; column < columns; column++) {
    for (let row = 0; row < rows; row++) {
      const share = (values[column * rows + row] - loudest) / range + 1;
      pixels[(rows - 1 - row) * columns + column] = colours[Math.round(255 * Math.min(1, Math.max(0, share)))];
    }
  }
  context.putImageData(image, 0, 0);
}
