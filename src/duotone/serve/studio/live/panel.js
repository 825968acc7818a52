/* The section "Continue and jam": sessions of the flow, played and changed while they play. mount(element, context) fills it.

   The sound goes service -> session.js -> player.js -> ring.js -> worklet.js, and beside that to the tape and to what can be saved.
   A change goes controls.js -> session.js, comes back acknowledged with a sample, and is shown as heard when the player gets there. */

import { clockText } from "/studio/shared/dom.js";
import { project } from "../project.js";
import { save } from "../saving.js";
import { Controls } from "./controls.js";
import { Heard } from "./heard.js";
import { build } from "./layout.js";
import { showLevel } from "./level.js";
import { Lfos } from "./lfos.js";
import { available, Midi } from "./midi.js";
import { PlayAlong } from "./play_along.js";
import { Player } from "./player.js";
import { Session } from "./session.js";
import { Tape } from "./tape.js";

const REPORT_MS = 100, HEALTH_MS = 3000, SHOW_MS = 200;
const RECENT = 24; // pieces of which the least slack is shown
const STILL_MS = 500; // between two pictures where the reader wants little motion
const COLLAPSED = 0.3; // deviation of normalised latents, which is about 1 for music like the training's
const TITLES = { idle: "Nothing plays.", opening: "Opening a session …", playing: "Plays.", paused: "Paused; the service waits too.", waiting: "The connection was lost." };

/** Stop was pressed while something was asked of the session. */
class Left extends Error {}

class Panel {
  constructor(element, context, protocol) {
    Object.assign(this, { element, context, session: null, player: null, state: "idle", slacks: [], spoken: "" });
    this.of = build(element, { most: context.models.limits.lookahead, midi: available() });
    const { properties } = protocol.properties.command.$defs.Changes, shapes = protocol.properties.command.$defs.Lfo.properties.shape.enum;
    const send = (controls) => this.session.command({ type: "set", controls });
    const { sampling, context_chunks: seen } = context.models.flow;
    this.controls = new Controls({ properties, most: { context: seen ?? undefined }, send, say: context.say, told: (spec, text, sample) => this.tape.mark(sample, `${spec.title.toLowerCase()} ${text}`) });
    this.lfos = new Lfos({ shapes, send, say: context.say, told: (text, sample) => this.tape.mark(sample, text) });
    this.of.basic.append(...this.controls.rowsOf(false));
    this.of.more.append(...this.controls.rowsOf(true));
    this.of.oscillators.append(this.lfos.element);
    this.tape = new Tape(this.of.tape);
    this.along = new PlayAlong({ player: () => this.player, session: () => this.session, say: context.say, changed: () => this.show() });
    this.midi = new Midi({ last: () => this.controls.last, turn: (name, share) => this.controls.turn(name, share), told: (text) => context.say(text, "done") });
    this.controls.sync({ ...Object.fromEntries(Object.entries(properties).map(([name, { default: value }]) => [name, value])), sampling });
    this.controls.rest();
    this.wire();
  }

  wire() {
    const { of } = this, on = (name, action) => of[name].addEventListener("click", () => this.attempt(action));
    on("start", () => this.start());
    on("pause", () => this.pause());
    on("stop", () => this.stop());
    on("again", () => this.again());
    on("reseed", () => this.reseed());
    on("reanchor", () => this.reanchor());
    on("mic", () => this.along.toggle());
    on("save", () => this.save());
    on("saveState", () => this.saveState());
    on("openState", () => of.stateFile.click());
    of.stateFile.addEventListener("change", () => this.attempt(() => this.openState(of.stateFile.files[0])));
    on("midi", async () => {
      const names = await this.midi.open();
      of.learn.hidden = false;
      this.context.say(names.length ? `MIDI: ${names.join(", ")}. Touch a control, press “Bind a knob”, and turn the knob.` : "No MIDI device is connected; one that you connect now is taken.", "info");
    });
    on("learn", () => {
      this.midi.learning = true;
      this.context.say(this.controls.last ? `Turn a knob: it will be bound to ${this.controls.last}.` : "Touch a control first, then turn a knob.", "info");
    });
    of.changed = () => this.show();
    this.element.tabIndex = -1;
    this.element.addEventListener("keydown", (event) => this.key(event));
    // The keys of this section work where the focus is in it; a click on a button leaves it there, and not on the button, for the space bar.
    this.element.addEventListener("click", (event) => { if (event.detail && !event.target.closest("input, select, summary, label")) this.element.focus({ preventScroll: true }); });
    for (const type of ["opened", "encoded"]) project.addEventListener(type, () => this.show());
    addEventListener("pagehide", () => this.session?.close());
    this.show();
  }

  async attempt(action) {
    try {
      await action();
    } catch (error) {
      if (error instanceof Left) return;
      this.context.say(error.message, "error");
      if (this.state === "opening") this.enter("idle");
    }
  }

  key(event) {
    const { target, key } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || target.matches("input[type=number], input[type=text], select")) return;
    if (target.matches("button, summary, input[type=checkbox], input[type=radio]") && (key === " " || key === "Enter")) return; // theirs
    const letter = key.length === 1 ? key.toLowerCase() : key;
    const press = { Enter: "start", " ": "pause", Escape: "stop", a: "again", n: "reseed", p: "reanchor", m: "mic", d: "save" }[letter];
    const spec = [...this.controls.rows.values()].map((row) => row.spec).find((each) => each.key === letter);
    if (!press && !spec) return;
    event.preventDefault();
    event.stopPropagation();
    if (spec) this.controls.nudge(spec.name, event.shiftKey ? -1 : 1);
    else if (!this.of[press].disabled && !this.of[press].hidden) this.of[press].click();
  }

  /* ---- Sessions ---- */

  get prompt() {
    if (this.of.from === "wave") return this.context.currentWave();
    return this.of.from === "duo" ? this.context.currentDuo() : null;
  }

  get seed() { return Math.max(0, Math.floor(Number(this.of.seed.value) || 0)); }

  async start() {
    if (this.state === "opening") return;
    await this.open();
    this.prompted = this.prompt;
    await this.begin(this.prompted);
  }

  async begin(prompt) {
    const options = { seed: this.seed, lookahead: Number(this.of.lookahead.value), include_prompt: prompt !== null && this.of.include.checked };
    this.started(await this.unlessLeft((session) => session.start(prompt, { ...options, controls: { ...this.controls.chosen(), ...this.lfos.chosen() } })));
    this.pause(false);
  }

  /** A connected session of the kind that is chosen, and a player. */
  async open() {
    if (this.session && this.session.state !== "closed" && this.session.hello.kind === this.of.kind) return;
    await this.leave();
    this.enter("opening");
    const codec = this.context.models.codecs[0], chunk = codec.chunk_seconds;
    const lookahead = Number(this.of.lookahead.value), full = chunk * (lookahead + 1); // what the service makes unless it is told that some was played
    const player = new Player(codec.rate_out, { start: Math.min(1.5 * chunk, 0.9 * full), refill: Math.min(2.5 * chunk, 0.9 * full) });
    const session = new Session({ kind: this.of.kind, token: this.context.token, lookahead });
    Object.assign(this, { player, session, rate: codec.rate_out, chunk });
    this.heard ??= new Heard(this.rate);
    this.listen(session, player);
    await this.unlessLeft(() => Promise.all([player.open(), session.open()]));
    this.health = setInterval(() => this.askHealth(), HEALTH_MS);
    this.shown = setInterval(() => this.show(), SHOW_MS);
  }

  /** What a promise about the session of now gives; rejects with `Left` where that session was left meanwhile. */
  async unlessLeft(work) {
    const { session } = this;
    const found = await work(session).catch((error) => { if (session === this.session) throw error; });
    if (session !== this.session) throw new Left();
    return found;
  }

  listen(session, player) {
    const own = (action) => ({ detail }) => { if (session === this.session) action(detail); };
    session.addEventListener("sound", own((sound) => this.sound(sound)));
    session.addEventListener("event", own((event) => this.event(event)));
    session.addEventListener("fault", own(({ message }) => this.context.say(message, "error")));
    session.addEventListener("state", own((detail) => this.connection(detail)));
    session.addEventListener("closed", own(({ error }) => this.closed(error)));
    player.addEventListener("tick", () => this.report());
  }

  sound({ place, samples, fresh }) {
    const { player, heard } = this;
    if (fresh) {
      if (heard.take.length) heard.renew(player.heard);
      player.begin(place);
      this.tape.clear(this.rate);
      this.slacks = [];
    } else if (player.place < place + samples.length / 2) {
      this.slacks = [...this.slacks, player.ahead].slice(-RECENT);
    }
    player.push(place, samples);
    heard.push(place, samples);
    this.tape.push(place, samples);
    this.animate();
  }

  report() {
    const now = performance.now();
    if (this.session?.state !== "open" || now - (this.reported ?? 0) < REPORT_MS) return;
    this.reported = now;
    this.session.report(this.player.played);
  }

  event(event) {
    if (event.type === "started") {
      this.latency = event.latency_seconds;
      this.controls.sync(event.controls);
      this.lfos.live = true;
      this.enter(this.player.paused ? "paused" : "playing");
    } else if (event.type === "health") this.showHealth(event);
  }

  /** Shows how much of the prompt is used, where that is not all of it. */
  started({ prompt_chunks: chunks, prompt_left_out: left }) {
    this.promptChunks = chunks;
    this.of.promptNote.hidden = !left;
    this.of.promptNote.textContent = `The prompt is long: its last ${(chunks * this.chunk).toFixed(0)} s are used, and ${left.toFixed(left < 10 ? 1 : 0)} s before them are left out (prompt_seconds).`;
  }

  connection({ state, wait, reason }) {
    const soon = wait < 1 ? "in a moment" : `in ${Math.round(wait)} s`;
    if (state === "waiting" && this.state === "opening") {
      this.of.status.textContent = `${reason.message} This page asks again ${soon}; Stop ends that.`;
    } else if (state === "waiting") {
      this.lost = true;
      this.controls.hold();
      this.lfos.live = false;
      this.enter("waiting");
      this.of.status.textContent = `The connection was lost; the next try is ${soon}. What was made is played on.`;
    } else if (state === "open" && this.lost) {
      this.lost = false;
      this.context.say("The connection is there again; the session goes on where it was.", "done");
    }
  }

  closed(error) {
    if (error) this.context.say(error.message, "error");
    this.leave();
  }

  async leave() {
    const { session, player } = this;
    if (!session && !player) return;
    clearInterval(this.health);
    clearInterval(this.shown);
    await this.along.stop();
    if (player?.context && this.heard?.take.length) this.heard.renew(player.heard);
    Object.assign(this, { session: null, player: null, lost: false });
    session?.close();
    this.controls.rest();
    this.lfos.live = false;
    this.enter("idle");
    if (player?.ring) {
      player.pause();
      setTimeout(() => player.close(), 100); // after its fade
    } else await player?.close();
  }

  /* ---- What the reader does ---- */

  pause(paused = !this.player.paused) {
    this.player.pause(paused);
    if (this.state === "playing" || this.state === "paused") this.enter(paused ? "paused" : "playing");
    this.animate();
  }

  stop() { return this.leave(); }

  another() { this.of.seed.value = (this.seed + 1 + Math.floor(Math.random() * 99999)) % 100000; }

  async again() {
    this.another();
    await this.begin(this.prompted ?? null);
  }

  async reseed() {
    this.another();
    const ack = await this.session.command({ type: "reseed", seed: this.seed, fade: this.fade });
    this.tape.mark(ack.sample, `seed ${this.seed}`);
  }

  async reanchor() {
    const ack = await this.session.command({ type: "reanchor", fade: this.fade });
    this.tape.mark(ack.sample, "back to the prompt");
  }

  get fade() { return Math.max(0, Number(this.of.fade.value) || 0); }

  get place() { return this.player?.heard ?? Infinity; }

  save() { save(this.heard.wav(this.place), "duotone-live.wav"); }

  async saveState() { save(await this.session.exportState(), "session.duostate"); }

  async openState(file) {
    this.of.stateFile.value = "";
    await this.open();
    this.prompted = null;
    this.started(await this.unlessLeft((session) => session.importState(file)));
    this.pause(false);
  }

  /* ---- What is shown ---- */

  enter(state) {
    this.state = state;
    this.of.status.textContent = TITLES[state];
    this.element.dataset.state = state;
    this.show();
  }

  show() {
    const { of, state, player } = this, live = state === "playing" || state === "paused";
    const has = { nothing: true, wave: Boolean(this.context.currentWave()), duo: Boolean(this.context.currentDuo()) };
    for (const input of of.fromInputs.querySelectorAll("input")) {
      input.disabled = !has[input.value];
      if (input.checked && input.disabled) { of.from = "nothing"; of.fromInputs.querySelector("input").checked = true; }
    }
    of.includeLabel.hidden = of.from === "nothing";
    of.start.disabled = state === "opening" || state === "waiting";
    of.start.querySelector("span").textContent = live ? "Start anew" : "Start";
    for (const name of ["pause", "again", "reseed", "saveState"]) of[name].disabled = !live;
    of.pause.querySelector("span").textContent = state === "paused" ? "Go on" : "Pause";
    of.reanchor.disabled = !live || !this.promptChunks;
    of.stop.disabled = state === "idle";
    of.mic.hidden = of.kind !== "jam";
    of.mic.disabled = !live || this.session?.hello.kind !== "jam";
    of.mic.setAttribute("aria-pressed", Boolean(this.along.capture));
    of.input.hidden = of.mic.hidden;
    of.save.disabled = !this.heard || this.heard.seconds(this.place) === 0;
    if (player?.ring) this.showFigures(player);
    this.levels();
  }

  showFigures(player) {
    const { of } = this, text = (name, value) => { of[name].querySelector("b").textContent = value; };
    const seconds = (value, digits = 1) => `${value.toFixed(digits)} s`;
    text("clock", clockText(player.heard / this.rate));
    text("ahead", seconds(player.ahead));
    text("slack", this.slacks.length ? seconds(Math.min(...this.slacks), 2) : "–");
    text("underruns", player.underruns + (player.lost ? ` · ${(player.lost / this.rate).toFixed(1)} s lost` : ""));
    text("latency", this.latency ? seconds(this.latency + (player.context.outputLatency || 0)) : "–");
    text("trip", this.session?.roundTrip ? `${Math.round(1000 * this.session.roundTrip)} ms` : "–");
    const begun = this.controls.refresh(player.heard, this.rate);
    if (begun.length) of.status.textContent = `Heard now: ${begun.join(", ")}.`;
  }

  levels() {
    const peaks = this.player && this.state !== "idle" ? this.player.peaks : [0, 0];
    ["left", "right"].forEach((name, c) => showLevel(this.of[name], peaks[c]));
  }

  async askHealth() {
    if (this.state !== "playing" || this.session.state !== "open") return;
    await this.attempt(() => this.session.command({ type: "health" }).then((event) => this.showHealth(event)));
  }

  showHealth({ stuck, lag, deviation, replaced, loudness, placed, late, underruns }) {
    this.of.input.querySelector("b").textContent = placed + (late ? ` · ${late} too late` : "");
    const loop = stuck === "repeats" ? `repeats every ${(lag * this.chunk).toFixed(1)} s` : stuck;
    const found = loop ?? (deviation < COLLAPSED ? "collapsing" : "alive"), element = this.of.health;
    element.querySelector("b").textContent = found;
    element.querySelector("span").textContent = `health · ${loudness.toFixed(0)} dBFS · spread ${deviation.toFixed(2)}${replaced ? ` · ${replaced} replaced` : ""}${underruns ? ` · ${underruns} late` : ""}`;
    element.dataset.state = found === "alive" ? "good" : "bad";
    if (stuck && this.spoken !== found) this.context.say(`The music ${stuck === "silent" ? "has fallen silent" : found}. A new seed (N), more temperature (T) or the way back to the prompt (P) helps.`, "warning");
    this.spoken = stuck ? found : "";
  }

  /** Draws while something plays. */
  animate() {
    if (this.drawing) return;
    this.drawing = true;
    const still = matchMedia("(prefers-reduced-motion: reduce)"), next = (draw) => (still.matches ? setTimeout(draw, STILL_MS) : requestAnimationFrame(draw));
    const draw = () => {
      if (!this.player?.ring) { this.drawing = false; return; }
      this.tape.draw(this.player.heard);
      this.levels();
      next(draw);
    };
    draw();
  }
}

/** Fills the section. Resolves to the panel, for checks by a script. */
export async function mount(element, context) {
  const headers = context.token ? { Authorization: `Bearer ${context.token}` } : {}, answer = await fetch("/v1/protocol", { headers });
  if (!answer.ok) throw new Error("The service does not tell its protocol, which the controls need. Is the page older than the service? Load it again.");
  return new Panel(element, context, await answer.json());
}
