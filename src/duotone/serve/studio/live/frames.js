/* The binary frames of sessions (docs/serve.md): a type byte, then what the type says, little-endian. */

export const VERSION = 1;
export const TYPES = { handshake: 1, audio: 2, control: 3, metadata: 4, error: 5, ping: 6 };
export const WHAT = { duo: 1, state: 2, prompt: 3 };
const FRAME_SECONDS = 0.04; // of sound in an audio frame, at most
const PART_BYTES = 1 << 16; // of a metadata frame
const ECHO_BYTES = 64; // of a ping, at most
const encoder = new TextEncoder(), decoder = new TextDecoder("utf-8", { fatal: true });

/** What is no frame. */
export class FrameError extends Error {}

/* ---- Making ---- */

/** A message of a type byte, `head` bytes that `fill(view)` writes, and `rest`. */
function message(type, head, fill, rest) {
  const bytes = new Uint8Array(1 + head + rest.byteLength);
  bytes[0] = type;
  fill(new DataView(bytes.buffer, 1, head));
  bytes.set(new Uint8Array(rest.buffer, rest.byteOffset, rest.byteLength), 1 + head);
  return bytes;
}

const nothing = () => {};
const text = (object) => encoder.encode(JSON.stringify(object));
const place = (number) => (view) => view.setBigUint64(0, BigInt(number), true);

export function handshake(document, version = VERSION) {
  return message(TYPES.handshake, 2, (view) => view.setUint16(0, version, true), text(document));
}

/** Samples as an Int16Array, two channels interleaved; the first is sample `first`. (Every machine that runs a browser is little-endian.) */
export function audio(first, samples) { return message(TYPES.audio, 8, place(first), samples); }

export function control(object) { return message(TYPES.control, 0, nothing, text(object)); }

export function metadata(what, last, bytes) {
  return message(TYPES.metadata, 2, (view) => { view.setUint8(0, what); view.setUint8(1, last ? 1 : 0); }, bytes);
}

export function failure(document) { return message(TYPES.error, 0, nothing, text(document)); }

export function ping(samples, echo = new Uint8Array(0)) { return message(TYPES.ping, 8, place(samples), echo); }

/** Bytes as metadata frames; the final one is marked. */
export function* parts(what, bytes) {
  for (let at = 0; at < Math.max(1, bytes.length); at += PART_BYTES) {
    yield metadata(what, at + PART_BYTES >= bytes.length, bytes.subarray(at, at + PART_BYTES));
  }
}

/** Interleaved samples of two channels as audio frames of equal length, one more sample in some: at most 40 ms, and more than half of it. */
export function* pieces(first, samples, rate) {
  const total = samples.length / 2, count = Math.ceil(total / Math.max(1, Math.floor(rate * FRAME_SECONDS)));
  for (let i = 0; i < count; i++) {
    const from = Math.floor((i * total) / count), to = Math.floor(((i + 1) * total) / count);
    yield audio(first + from, samples.subarray(2 * from, 2 * to));
  }
}

/* ---- Reading ---- */

function need(body, bytes, name) {
  if (body.byteLength < bytes) throw new FrameError(`Got ${name} of ${body.byteLength} bytes after its type, expected at least ${bytes}.`);
}

function number(body, name) {
  need(body, 8, name);
  return Number(body.getBigUint64(0, true));
}

const from = (body, at) => new Uint8Array(body.buffer, body.byteOffset + at, body.byteLength - at);

function object(body, at, name) {
  let found = null;
  try {
    found = JSON.parse(decoder.decode(from(body, at)));
  } catch (error) {
    throw new FrameError(`Got ${name} whose JSON cannot be read (${error.message}).`);
  }
  if (typeof found !== "object" || found === null || Array.isArray(found)) throw new FrameError(`Got ${name} without an object in JSON.`);
  return found;
}

const READERS = {
  [TYPES.handshake]: (body) => {
    need(body, 2, "a handshake");
    return { type: "handshake", version: body.getUint16(0, true), document: object(body, 2, "a handshake") };
  },
  [TYPES.audio]: (body) => {
    const first = number(body, "an audio frame"), bytes = body.byteLength - 8;
    if (bytes % 4) throw new FrameError(`Got ${bytes} bytes of sound, expected a multiple of 4: two channels of 16 bits.`);
    return { type: "audio", place: first, samples: new Int16Array(from(body, 8).slice().buffer) };
  },
  [TYPES.control]: (body) => ({ type: "control", event: object(body, 0, "a control frame") }),
  [TYPES.metadata]: (body) => {
    need(body, 2, "a metadata frame");
    const what = body.getUint8(0), last = body.getUint8(1);
    if (what < 1 || what > 3 || last > 1) throw new FrameError(`Got metadata of kind ${what} with mark ${last}, expected kind 1 to 3 and mark 0 or 1.`);
    return { type: "metadata", what, last: last === 1, data: from(body, 2).slice() };
  },
  [TYPES.error]: (body) => ({ type: "error", document: object(body, 0, "an error frame") }),
  [TYPES.ping]: (body) => {
    const samples = number(body, "a ping"), echo = from(body, 8).slice();
    if (echo.length > ECHO_BYTES) throw new FrameError(`Got a ping with ${echo.length} bytes to send back, expected at most ${ECHO_BYTES}.`);
    return { type: "ping", samples, echo };
  },
};

/** A frame from the ArrayBuffer of a message. Throws FrameError for what is none. */
export function parse(buffer) {
  const type = buffer.byteLength ? new Uint8Array(buffer)[0] : null;
  const read = READERS[type];
  if (!read) throw new FrameError(`Got ${type === null ? "an empty message" : `a message of type ${type}`}, expected a frame of type 1 to 6 (docs/serve.md).`);
  return read(new DataView(buffer, 1));
}
