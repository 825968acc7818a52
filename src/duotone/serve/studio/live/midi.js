/* Web MIDI: a knob is bound to the control that was touched last. What is bound is kept in this browser. */

const KEPT = "duotone-midi";
const CHANGE = 0xb0; // status of a control change

export const available = () => "requestMIDIAccess" in navigator;

export class Midi {
  /** `last()` names the control that was touched last; `turn(name, share)` sets it, share 0 to 1; `told(text)` says what happens. */
  constructor({ last, turn, told }) {
    Object.assign(this, { last, turn, told, bound: read() });
    this.learning = false;
  }

  async open() {
    let access = null;
    try {
      access = await navigator.requestMIDIAccess();
    } catch (error) {
      throw new Error(`The browser does not let this page use MIDI (${error.message}). Allow it beside the address, then press the button again.`);
    }
    const listen = () => { for (const input of access.inputs.values()) input.onmidimessage = (event) => this.take(event.data); };
    access.onstatechange = listen;
    listen();
    return [...access.inputs.values()].map(({ name }) => name);
  }

  take([status, number, value]) {
    if ((status & 0xf0) !== CHANGE) return;
    const knob = `${(status & 0x0f) + 1}/${number}`;
    if (this.learning && this.last()) {
      this.bound[knob] = this.last();
      this.learning = false;
      localStorage.setItem(KEPT, JSON.stringify(this.bound));
      this.told(`Knob ${number} (channel ${(status & 0x0f) + 1}) turns ${this.last()}.`);
    }
    if (this.bound[knob]) this.turn(this.bound[knob], value / 127);
  }
}

function read() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return {};
  }
}
