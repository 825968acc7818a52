/* Reads a .duo while it arrives (docs/duo-format.md, version 2): how many chunks there are, and the codes in them. Checksums are left
   to the service, which reads the whole file in the end. */

const VERSION = 2;
const START = 14; // magic, version, length of the header
const END = 29; // bytes of the end record
const CHECK = 4;

/** The integer that bytes are, the lowest first. */
function integer(bytes) {
  let text = "";
  for (let i = bytes.length - 1; i >= 0; i--) text += bytes[i].toString(16).padStart(2, "0");
  return BigInt(`0x${text || "0"}`);
}

export class DuoFeed {
  /** `spec` is the codec's, in full; `channels` those of the sound: a codec of one channel codes each of them as a stream. */
  constructor({ steps, codebooks, latent, scaled, channels: own }, kind, channels = 2) {
    this.streams = own === 1 ? channels : 1;
    const sizes = Array.from({ length: this.streams }, () => codebooks).flat();
    Object.assign(this, { kind, steps, sizes, scaled, chunks: 0, ended: false, records: 0, bytes: new Uint8Array(0), known: false });
    this.values = kind === "tokens" ? steps * sizes.length : latent.reduce((product, size) => product * size, 1) * this.streams;
    this.payloads = new Map(); // sizes by number of chunks
  }

  /** Takes the next bytes; returns the codes of each chunk that is complete, as arrays of `steps` x codebooks, or of latents nothing. */
  push(data) {
    const all = new Uint8Array(this.bytes.length + data.length);
    all.set(this.bytes);
    all.set(data, this.bytes.length);
    this.bytes = all;
    if (!this.known && !this.header()) return [];
    const found = [];
    while (!this.ended && this.bytes.length) {
      const count = this.bytes[0], length = count === 0 ? END : 1 + this.payload(count) + CHECK;
      if (this.bytes.length < length) break;
      if (count === 0) this.ended = true;
      else if (this.kind === "tokens") found.push(...this.codes(this.bytes.subarray(1, length - CHECK), count));
      this.chunks += count;
      this.records += count ? length : 0; // bytes
      this.bytes = this.bytes.slice(length);
    }
    return found;
  }

  /** Passes over the header, if it has come. */
  header() {
    if (this.bytes.length < START) return false;
    const view = new DataView(this.bytes.buffer, this.bytes.byteOffset), version = view.getUint16(8, true);
    if (version !== VERSION) throw new Error(`Got a .duo of version ${version}, expected ${VERSION}. Is the page older than the service? Load it again.`);
    const length = START + view.getUint32(10, true) + CHECK;
    if (this.bytes.length < length) return false;
    this.bytes = this.bytes.slice(length);
    this.known = true;
    return true;
  }

  /** Bytes of a record's payload. */
  payload(count) {
    if (this.kind === "latents") return 2 * this.values * count;
    if (!this.payloads.has(count)) {
      const turn = this.sizes.reduce((product, size) => product * BigInt(size), 1n), largest = turn ** BigInt(count * this.steps) - 1n;
      const packed = Math.ceil(largest.toString(16).length / 2);
      this.payloads.set(count, packed + (this.scaled ? 4 * count * this.streams : 0));
    }
    return this.payloads.get(count);
  }

  /** The digits of a record's integer: code by code, the first the lowest. */
  codes(payload, count) {
    const packed = this.scaled ? payload.subarray(0, payload.length - 4 * count * this.streams) : payload;
    const bases = this.sizes.map(BigInt);
    let number = integer(packed);
    return Array.from({ length: count }, () => Array.from({ length: this.values }, (_, i) => {
      const base = bases[i % bases.length], code = Number(number % base);
      number /= base;
      return code;
    }));
  }
}
