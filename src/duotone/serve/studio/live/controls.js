/* Controls of a session, each with where it stands: sent, coming (acknowledged, and heard from a sample on that is not heard yet), heard. */

import { make } from "/studio/shared/dom.js";

/** In the order of the page. `keys`: raise and, with Shift, lower. Ranges are those that make sense by hand; the protocol's are wider. */
export const CONTROLS = [
  { name: "temperature", title: "Temperature", min: 0, max: 2, step: 0.01, key: "t" },
  { name: "guidance", title: "Guidance", min: 1, max: 6, step: 0.05, key: "g" },
  { name: "steps", title: "Steps", min: 1, max: 32, step: 1, key: "s" },
  { name: "gain", title: "Gain", min: 0, max: 2, step: 0.01, key: "v" },
  { name: "context", title: "Context", min: 0, max: 64, step: 1, key: "c", none: "all" },
  { name: "solver", title: "Solver", choice: true, more: true },
  { name: "shift", title: "Schedule shift", min: 0.25, max: 4, step: 0.05, more: true },
  { name: "guidance_branch", title: "Guided away from", choice: true, more: true },
  { name: "context_noise", title: "Context noise", min: 0, max: 0.9, step: 0.01, more: true },
  { name: "summary_scale", title: "Summary scale", min: 0, max: 2, step: 0.01, more: true, vector: true },
  { name: "summary_bias", title: "Summary bias", min: -2, max: 2, step: 0.01, more: true, vector: true },
  { name: "channel_scale", title: "Channel scale", min: 0, max: 2, step: 0.01, more: true, vector: true },
  { name: "channel_bias", title: "Channel bias", min: -2, max: 2, step: 0.01, more: true, vector: true },
  { name: "feedback", title: "Feed scale and bias back", check: true, more: true },
];

/** The value of a control in what the service tells of all controls; of a vector the number for all elements, or null where they differ. */
export function valueOf(spec, controls) {
  const found = controls.sampling?.[spec.name] ?? controls[spec.name];
  if (!spec.vector) return found ?? null;
  return Array.isArray(found) ? (found.every((x) => x === found[0]) ? found[0] : null) : found;
}

const rounded = (value, { min, max, step }) => Number((Math.round(Math.min(max, Math.max(min, value)) / step) * step).toFixed(4));

/** A value as it is read. */
function words(spec, value) {
  if (spec.choice) return value;
  if (spec.check) return value ? "on" : "off";
  return value === null ? spec.none ?? "varied" : Number(value).toFixed(spec.step < 1 ? 2 : 0);
}

export class Controls {
  /** `properties` are those of the protocol; `most` gives largest values that depend on the model; `send(changes)` resolves to the
      acknowledgement; `told(spec, text, sample)` is called where a change is acknowledged. */
  constructor({ properties, most, send, told, say }) {
    Object.assign(this, { properties, send, told, say, rows: new Map(), last: null });
    this.specs = CONTROLS.map((spec) => ({ ...spec, max: most[spec.name] ?? spec.max }));
    this.live = false; // whether a session plays that can be told
    this.touched = new Set(); // controls that were changed by hand: they hold for the next take too
  }

  /** The rows of the basic or of the further controls. */
  rowsOf(more) { return this.specs.filter((spec) => Boolean(spec.more) === more).map((spec) => this.row(spec)); }

  row(spec) {
    const about = this.properties[spec.name], id = `live-${spec.name}`;
    const input = this.input(spec, about);
    Object.assign(input, { id, title: about.description });
    const output = make("output", { htmlFor: id }), when = make("span", { className: "when", id: `${id}-when` });
    input.setAttribute("aria-describedby", when.id);
    const key = spec.key ? make("kbd", { textContent: spec.key.toUpperCase() }) : "";
    const row = make("div", { className: "control" }, make("label", { htmlFor: id, title: about.description }, spec.title, key), input, output, when);
    const state = { spec, input, output, when, row, phase: "rest", wish: null, sent: null, at: 0, busy: false };
    this.rows.set(spec.name, state);
    input.addEventListener(spec.choice || spec.check ? "change" : "input", () => this.change(spec.name, this.read(state)));
    input.addEventListener("focus", () => { this.last = spec.name; });
    this.show(state, about.default);
    return row;
  }

  input(spec, about) {
    if (spec.choice) return make("select", {}, ...about.enum.map((value) => make("option", { value, textContent: value })));
    if (spec.check) return make("input", { type: "checkbox" });
    return make("input", { type: "range", min: spec.min, max: spec.none ? spec.max + 1 : spec.max, step: spec.step });
  }

  read({ spec, input }) {
    if (spec.choice) return input.value;
    if (spec.check) return input.checked;
    return spec.none && Number(input.value) > spec.max ? null : Number(input.value);
  }

  /** Shows a value, whoever set it. */
  show(state, value) {
    const { spec, input, output } = state;
    state.value = value;
    if (spec.choice) input.value = value;
    else if (spec.check) input.checked = Boolean(value);
    else {
      input.value = value === null && spec.none ? spec.max + 1 : value ?? 0;
      output.textContent = words(spec, value);
      input.setAttribute("aria-valuetext", output.textContent);
    }
  }

  /** The reader wants this value. */
  change(name, value) {
    const state = this.rows.get(name);
    this.last = name;
    this.touched.add(name);
    this.show(state, value);
    state.wish = value;
    if (this.live) this.push(state);
    else if (this.away) this.enter(state, "lost");
  }

  /** From keys: moves it by so many steps, a fortieth of the range each. */
  nudge(name, steps) {
    const { spec, value } = this.rows.get(name), by = Math.max(spec.step, Math.round((spec.max - spec.min) / 40 / spec.step) * spec.step);
    const next = (value ?? spec.max + by) + steps * by; // "all" is one step above the most
    this.change(name, spec.none && next > spec.max ? null : rounded(next, spec));
  }

  /** From knobs: a share of the range. */
  turn(name, share) {
    const found = this.rows.get(name);
    if (!found || found.spec.choice || found.spec.check) return;
    const { spec } = found, value = spec.min + share * (spec.max - spec.min);
    this.change(name, rounded(value, spec));
  }

  /** Sends the last wish; one message of a control is on its way at a time. */
  async push(state) {
    this.enter(state, "sent");
    if (state.busy) return;
    state.busy = true;
    try {
      while (this.live && state.wish !== state.sent) {
        const value = state.wish;
        const ack = await this.send({ [state.spec.name]: value });
        state.sent = value;
        state.at = ack.sample;
        if (state.wish === value) this.enter(state, "coming");
        this.told(state.spec, words(state.spec, value), ack.sample);
      }
    } catch (error) {
      if (!this.live) {
        this.enter(state, "lost");
        return;
      }
      state.wish = state.sent;
      this.show(state, state.sent);
      this.enter(state, "refused");
      this.say(error.message, "error");
    } finally {
      state.busy = false;
    }
  }

  enter(state, phase) {
    state.phase = phase;
    state.when.dataset.phase = phase;
    state.when.textContent = { rest: "", sent: "sent", refused: "refused", lost: "waits for the service", coming: "…", heard: "heard" }[phase];
  }

  /** A session plays with these controls; those that were changed meanwhile are sent again. */
  sync(controls) {
    this.live = true;
    this.away = false;
    for (const state of this.rows.values()) {
      const value = valueOf(state.spec, controls);
      state.sent = value;
      if (state.phase === "lost" && state.wish !== value) this.push(state);
      else if (state.phase !== "sent") {
        state.wish = value;
        this.show(state, value);
        if (state.phase !== "coming" && state.phase !== "heard") this.enter(state, "rest");
      }
    }
  }

  /** No session plays: changes wait for the next. */
  rest() {
    this.live = this.away = false;
    for (const state of this.rows.values()) this.enter(state, "rest");
  }

  /** The connection is lost: changes are sent when it is there again. */
  hold() {
    this.live = false;
    this.away = true;
    for (const state of this.rows.values()) if (state.phase === "sent") this.enter(state, "lost");
  }

  /** Controls to begin a take with: what was set by hand. */
  chosen() { return Object.fromEntries([...this.touched].map((name) => [name, this.rows.get(name).value])); }

  /** What is heard now decides which changes are heard. Returns the names of those that have just begun to be. */
  refresh(heard, rate) {
    const begun = [];
    for (const state of this.rows.values()) {
      if (state.phase !== "coming") continue;
      const left = (state.at - heard) / rate;
      if (left <= 0) {
        this.enter(state, "heard");
        begun.push(`${state.spec.title} ${words(state.spec, state.value)}`);
      } else state.when.textContent = `in ${left.toFixed(1)} s`;
    }
    return begun;
  }
}
