/* A live session over WebSocket: commands that resolve when they are answered, sound and events as they come,
   and going on after the connection was lost.

   Events (CustomEvents, what they tell in `detail`):
     state    {state, wait, reason}: "connecting", "open", "waiting" (for the next try, in `wait` seconds, because of an error or null), "closed"
     welcome  {welcome, resumed}: the answer of the service to the handshake, of each connection
     sound    {place, samples, fresh}: interleaved 16-bit samples of two channels; fresh where a sound of its own begins with them
     part     {what, last, data}: of a .duo or of a state
     event    an event of the protocol (docs/jam-protocol.schema.json)
     fault    the error object of a command or of the session
     closed   {code, error}: the session is over; error tells why, or is null after its end

   A session of kind continue or jam goes on by its key. Where the key is not known any longer, because the service was started
   anew without a folder for states, it goes on from the state that the service sent when it stopped. */

import { control, FrameError, handshake, parse, parts, pieces, ping, WHAT } from "./frames.js";

const FIRST_WAIT = 0.5, LONGEST_WAIT = 8; // seconds between tries: doubled from one to the next
const FULL_MINUTES = 1; // for which a session that the service has no room for is asked for again
const SILENT_MS = 5000; // without a report of samples played, one is sent so that the service knows that someone is there
const OVER = new Set([1000, 1002, 1008, 1009, 1011]); // close codes after which trying again gives the same
const FLOWING = new Set(["continue", "jam"]);
const BUSY = 1013, STOPS = 1012;

/** What the service told, or that it cannot be reached. */
export class SessionError extends Error {
  constructor(message, document = {}) {
    super(message);
    Object.assign(this, { limit: document.limit ?? null, retry: document.retry_after ?? null, document });
  }
}

const lost = () => new SessionError("The connection was lost before this was answered.");

export class Session extends EventTarget {
  /** `hello` is the handshake (docs/serve.md), of which `kind` is needed. */
  constructor(hello, url = address()) {
    super();
    Object.assign(this, { hello, url, welcome: null, state: "closed", socket: null });
    this.arrived = 0; // samples of the session that have come, counted from its beginning
    this.sent = 0; // samples played that were reported last
    this.roundTrip = null; // seconds, of the last ping
    this.waiting = new Map(); // commands by their id
    this.ids = 0;
    this.tries = 0;
    this.refused = null; // the last error object
    this.known = null; // the prompt that this connection has
    this.stateParts = []; // of a state that comes without being asked for: the service stops
    this.handed = null; // that state
    this.asking = null; // an export that is under way
    this.begun = false; // whether a session of the flow plays, which can go on
    this.handing = false; // whether the service is given that state, to go on from it
    this.fresh = false; // whether the next sound is the first of a start
  }

  /** Connects; resolves to the answer to the handshake. Rejects with a SessionError where the service refuses or is not there. */
  open() {
    return new Promise((resolve, reject) => {
      this.first = { resolve, reject };
      this.connect();
    });
  }

  enter(state, wait = 0, reason = null) {
    this.state = state;
    this.tell("state", { state, wait, reason });
  }

  tell(type, detail) { this.dispatchEvent(new CustomEvent(type, { detail })); }

  connect() {
    const resume = this.resumable ? { resume: this.welcome.key, received: this.arrived } : {};
    this.enter("connecting");
    const socket = new WebSocket(this.url);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.known = null;
    this.refused = null;
    let welcomed = false;
    socket.onopen = () => socket.send(handshake({ ...this.hello, ...resume }));
    socket.onmessage = ({ data }) => {
      try {
        const frame = parse(data);
        if (welcomed) return this.take(frame);
        if (frame.type === "error") { this.refused = frame.document; return undefined; }
        if (frame.type !== "handshake") throw new FrameError(`The service began with a frame of type ${frame.type}, expected a handshake.`);
        welcomed = true;
        return this.welcomed(frame.document, Boolean(resume.resume));
      } catch (error) {
        if (!(error instanceof FrameError)) throw error;
        return this.end(1002, new SessionError(error.message));
      }
    };
    socket.onclose = ({ code }) => { if (socket === this.socket) this.gone(code, Boolean(resume.resume), welcomed); };
  }

  get resumable() { return FLOWING.has(this.hello.kind) && this.welcome !== null && this.begun && this.handed === null; }

  welcomed(document, resumed) {
    this.welcome = document;
    this.tries = 0;
    if (resumed) this.arrived = Math.max(this.arrived, document.sample);
    this.enter("open");
    this.tell("welcome", { welcome: document, resumed });
    this.first?.resolve(document);
    this.first = null;
    this.beat = setInterval(() => this.report(this.sent), SILENT_MS);
    if (this.handed) {
      const state = this.handed;
      this.handed = this.kept = null;
      this.handing = true;
      this.importState(state).catch((error) => this.end(1011, error)).finally(() => { this.handing = false; });
    }
  }

  /* ---- What comes ---- */

  take(frame) {
    if (frame.type === "audio") {
      this.arrived = frame.place + frame.samples.length / 2;
      this.tell("sound", { ...frame, fresh: this.fresh });
      this.fresh = false;
    } else if (frame.type === "control") this.event(frame.event);
    else if (frame.type === "error") this.fault(frame.document);
    else if (frame.type === "metadata") this.part(frame);
    else if (frame.type === "ping" && frame.echo.length === 8) {
      this.roundTrip = (performance.now() - new Float64Array(frame.echo.buffer)[0]) / 1000;
    }
  }

  event(event) {
    if (event.type === "stopped") this.begun = false;
    if (event.type === "started") {
      this.begun = true;
      this.fresh = event.id !== null && !this.handing;
      if (this.fresh) this.arrived = 0;
    }
    if (event.id !== null && event.id !== undefined) this.answer(event.id, (waiting) => waiting.resolve(event));
    this.tell("event", event);
  }

  fault(document) {
    this.refused = document;
    if (document.id !== null && document.id !== undefined) {
      this.answer(document.id, (waiting) => waiting.reject(new SessionError(document.message, document)));
    } else this.tell("fault", document);
  }

  answer(id, give) {
    const waiting = this.waiting.get(id);
    this.waiting.delete(id);
    if (waiting) give(waiting);
  }

  part(frame) {
    if (frame.what !== WHAT.state) return this.tell("part", frame);
    this.stateParts.push(frame.data);
    if (!frame.last) return undefined;
    const state = new Blob(this.stateParts);
    this.stateParts = [];
    if (this.asking) this.asking(state); else this.handed = state;
    return undefined;
  }

  /* ---- The end of a connection ---- */

  gone(code, resumed, welcomed) {
    clearInterval(this.beat);
    for (const { reject } of this.waiting.values()) reject(lost());
    this.waiting.clear();
    const told = this.refused, error = told ? new SessionError(told.message, told) : null;
    const forgotten = resumed && !welcomed && told?.limit === "kept_minutes";
    if (!this.tries) this.lostAt = performance.now();
    if (this.closing || (code === 1000 && welcomed)) return this.end(code, null);
    if (forgotten && this.kept) { // the service does not know the key, but we have the state that it sent
      this.handed = this.kept;
      return this.connect();
    }
    if (forgotten && this.away < this.welcome.limits.idle_seconds) return this.retry(null); // it may not know yet that the connection is lost
    if (forgotten || (OVER.has(code) && told)) return this.end(code, error);
    if (this.first && code !== BUSY) return this.end(code, error ?? new SessionError("The service does not answer. Is duotone serve running?"));
    if (!FLOWING.has(this.hello.kind) || (!this.begun && !this.first)) {
      return this.end(code, error ?? new SessionError(`The connection was lost (close code ${code}).`));
    }
    if (code === STOPS && this.handed) { // first by the key, which gives the sound that was on its way too
      this.kept = this.handed;
      this.handed = null;
    }
    return this.retry(error);
  }

  /** Seconds since the connection was lost. */
  get away() { return (performance.now() - this.lostAt) / 1000; }

  retry(error) {
    const most = (this.welcome?.limits.kept_minutes ?? FULL_MINUTES) * 60;
    if (this.away > most) {
      return this.end(1006, this.welcome ? new SessionError(`The service did not come back for ${(most / 60).toFixed(0)} minutes; it keeps the session no longer.`) : error);
    }
    const wait = error?.retry ?? Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this.tries);
    this.tries++;
    this.enter("waiting", wait, error);
    this.timer = setTimeout(() => this.connect(), wait * 1000);
    return undefined;
  }

  end(code, error) {
    clearInterval(this.beat);
    clearTimeout(this.timer);
    this.socket.onclose = null;
    if (this.socket.readyState < WebSocket.CLOSING) this.socket.close();
    for (const { reject } of this.waiting.values()) reject(error ?? lost());
    this.waiting.clear();
    this.enter("closed");
    this.first?.reject(error ?? lost());
    this.first = null;
    this.tell("closed", { code, error });
  }

  /* ---- What we say ---- */

  send(frame) { if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(frame); }

  /** Sends a command; resolves to its answer, an event. Rejects with a SessionError where the service refuses it or the connection is lost. */
  command(command) {
    if (this.state !== "open") return Promise.reject(lost());
    const id = ++this.ids;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.send(control({ ...command, id }));
    });
  }

  /** Begins to play; `prompt` is the bytes of a sound file or a .duo, as a Blob, or null. */
  async start(prompt = null, options = {}) {
    if (prompt && this.known !== prompt) {
      await this.upload(WHAT.prompt, prompt);
      this.known = prompt;
    }
    return this.command({ type: "start", ...options, prompt: prompt ? "upload" : null });
  }

  /** Sends a Blob in parts. */
  async upload(what, blob) {
    for (const part of parts(what, new Uint8Array(await blob.arrayBuffer()))) this.send(part);
  }

  /** Sound of the user: interleaved 16-bit samples of two channels at the session's rate, the first of them at `place`. */
  push(place, samples) {
    for (const piece of pieces(place, samples, this.welcome.rate)) this.send(piece);
  }

  /** Tells how many samples of the session were played; at least once a chunk. */
  report(samples) {
    this.sent = Math.max(0, Math.floor(samples));
    this.send(ping(this.sent, new Uint8Array(new Float64Array([performance.now()]).buffer)));
  }

  /** The session's state as a Blob, with which it can go on anywhere. */
  async exportState() {
    const state = new Promise((resolve) => { this.asking = resolve; });
    try {
      await this.command({ type: "export", path: "download" }); // its parts come before the answer
      return await state;
    } finally {
      this.asking = null;
    }
  }

  /** Goes on from a state; resolves to the event `started`. */
  async importState(state) {
    await this.upload(WHAT.state, state);
    return this.command({ type: "import", path: "upload" });
  }

  /** Ends the sound: of an encoder, the rest comes then; of a flow, `stopped`. */
  stop() { return this.command({ type: "stop" }); }

  /** Leaves: nothing is kept of a session that was left. */
  close() {
    if (this.state === "closed") return;
    this.closing = true;
    clearTimeout(this.timer);
    if (this.state === "open" && this.begun) this.send(control({ type: "stop", id: null }));
    if (this.state === "waiting") this.end(1000, null);
    else this.socket.close(1000);
  }
}

/** The address of sessions of the service that this page came from. */
function address() { return new URL("/v1/session", location.href).href.replace(/^http/, "ws"); }
