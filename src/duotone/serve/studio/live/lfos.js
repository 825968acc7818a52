/* Oscillators that move controls: slots with target, shape, rate, depth. */

import { make } from "/studio/shared/dom.js";

const SLOTS = 8;
const TARGETS = ["temperature", "guidance", "gain", "steps", "shift", "context", "summary_scale", "summary_bias", "channel_scale", "channel_bias"];

export class Lfos {
  /** `send(changes)` resolves to the acknowledgement; `told(text, sample)` where one came. */
  constructor({ shapes, send, told, say }) {
    Object.assign(this, { shapes, send, told, say, slots: new Map() });
    this.list = make("div", { className: "lfos" });
    this.add = make("button", { type: "button", textContent: "Add an oscillator" });
    this.add.addEventListener("click", () => this.open());
    this.element = make("fieldset", {}, make("legend", { textContent: "Oscillators (LFOs) move a control in time with the sound" }), this.list, this.add);
  }

  open(lfo = { target: "temperature", shape: "sine", rate: 0.5, depth: 0.5 }) {
    const slot = [...Array(SLOTS).keys()].find((each) => !this.slots.has(each));
    const select = (name, values, chosen) => make("select", { value: chosen, ariaLabel: `Oscillator ${slot + 1}: ${name}` }, ...values.map((value) => make("option", { value, textContent: value.replace("_", " "), selected: value === chosen })));
    const number = (name, value, step, min) => make("input", { type: "number", value, step, min, ariaLabel: `Oscillator ${slot + 1}: ${name}` });
    const parts = { target: select("control", TARGETS, lfo.target), shape: select("shape", this.shapes, lfo.shape), rate: number("rate in Hz", lfo.rate, 0.05, 0.01), depth: number("depth", lfo.depth, 0.05, -100) };
    const away = make("button", { type: "button", className: "quiet", textContent: "Remove", ariaLabel: `Remove oscillator ${slot + 1}` });
    const row = make("div", { className: "line start" }, parts.target, parts.shape, make("label", {}, parts.rate, "Hz"), make("label", {}, "±", parts.depth), away);
    const push = () => this.set(slot, { target: parts.target.value, shape: parts.shape.value, rate: Number(parts.rate.value), depth: Number(parts.depth.value) });
    for (const part of Object.values(parts)) part.addEventListener("change", push);
    away.addEventListener("click", () => { row.remove(); this.set(slot, null); this.slots.delete(slot); this.add.disabled = false; });
    this.list.append(row);
    this.add.disabled = this.slots.size >= SLOTS - 1;
    push();
  }

  async set(slot, lfo) {
    this.slots.set(slot, lfo);
    if (!this.live) return;
    try {
      const ack = await this.send({ lfos: { [slot]: lfo } });
      this.told(lfo ? `oscillator on ${lfo.target.replace("_", " ")}` : "oscillator off", ack.sample);
    } catch (error) {
      this.say(error.message, "error");
    }
  }

  chosen() { return this.slots.size ? { lfos: Object.fromEntries(this.slots) } : {}; }
}
