/* The elements of the section "Continue and jam". */

import { make, segments } from "/studio/shared/dom.js";
import { MINUTES } from "./heard.js";

const ICON = { play: "M7 4.5v15l12.5-7.5z", pause: "M6 4.5h4.5v15H6zM13.5 4.5H18v15h-4.5z", stop: "M5.5 5.5h13v13h-13z" };

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", ICON[name]);
  svg.append(path);
  return svg;
}

function button(id, text, key, properties = {}) {
  return make("button", { type: "button", id: `live-${id}`, ...properties }, ...(ICON[properties.icon] ? [icon(properties.icon)] : []), make("span", { textContent: text }), key ? make("kbd", { textContent: key }) : "");
}

function gauge(id, label) {
  const element = make("div", { className: "gauge", id: `live-${id}`, role: "meter" }, make("span"));
  for (const [name, value] of [["aria-label", label], ["aria-valuemin", "0"], ["aria-valuemax", "100"], ["aria-valuenow", "0"]]) element.setAttribute(name, value);
  return element;
}

function figure(id, title) { return make("div", { className: "figure" }, make("b", { id: `live-${id}`, textContent: "–" }), make("span", { textContent: title })); }

export const KEYS = [
  ["Enter", "start"], ["Space", "pause and go on"], ["Esc", "stop"], ["A", "take again: the same beginning, another seed"], ["N", "new seed, crossfaded"],
  ["P", "back to the prompt, crossfaded"], ["M", "microphone on and off, in a jam"], ["D", "save what was heard"],
  ["T G S V C", "more temperature, guidance, steps, gain (volume), context; with Shift less"],
];

/** Builds everything; returns the elements by name. `most` is the look-ahead that the service allows. */
export function build(element, { most, midi }) {
  const of = {};
  const keep = (name, made) => { of[name] = made; return made; };
  const kind = make("div", { className: "segments", role: "radiogroup", ariaLabel: "Kind of session" });
  const from = make("div", { className: "segments", role: "radiogroup", ariaLabel: "What it begins with" });
  of.kind = "continue";
  of.from = "nothing";
  segments(kind, "live-kind", [["continue", "Continue"], ["jam", "Jam along"]], "continue", (value) => { of.kind = value; of.changed(); });
  segments(from, "live-from", [["nothing", "From nothing"], ["wave", "After the open sound"], ["duo", "After the open .duo"]], "nothing", (value) => { of.from = value; of.changed(); });
  of.fromInputs = from;
  const ahead = keep("lookahead", make("select", { id: "live-lookahead" }, ...Array.from({ length: most }, (_, i) => make("option", { value: i + 1, textContent: i + 1, selected: i + 1 === 2 }))));
  element.append(
    make("p", { className: "soft", textContent: "Music without end from the flow: start from nothing or go on from what is open above, change it while it plays, and see at which moment each change is heard." }),
    make("div", { className: "line start setup" }, kind, from,
      make("label", {}, "Seed", keep("seed", make("input", { type: "number", id: "live-seed", min: 0, step: 1, value: 0 }))),
      make("label", { title: "Chunks that are made before they are heard: more is safer, fewer is faster to react" }, "Look-ahead", ahead, "chunks"),
      keep("includeLabel", make("label", { hidden: true }, keep("include", make("input", { type: "checkbox" })), "Hear it first"))),
    keep("promptNote", make("p", { className: "soft", id: "live-prompt-note", role: "status", hidden: true })),
    make("div", { className: "line start deck" },
      keep("start", button("start", "Start", "Enter", { className: "strong", icon: "play" })),
      keep("pause", button("pause", "Pause", "Space", { icon: "pause", disabled: true })),
      keep("stop", button("stop", "Stop", "Esc", { icon: "stop", disabled: true })),
      keep("again", button("again", "Take again", "A", { disabled: true })),
      keep("reseed", button("reseed", "New seed", "N", { disabled: true })),
      keep("reanchor", button("reanchor", "Back to the prompt", "P", { disabled: true })),
      keep("mic", button("mic", "Microphone", "M", { hidden: true, disabled: true, ariaPressed: "false" }))),
    make("div", { className: "stage" }, keep("tape", make("canvas", { className: "tape", role: "img", ariaLabel: "What was heard, what is made ahead, and where changes are heard" })),
      make("div", { className: "levels" }, keep("left", gauge("left", "Level left")), keep("right", gauge("right", "Level right")))),
    keep("status", make("p", { id: "live-status", role: "status", textContent: "Nothing plays." })),
    make("div", { className: "figures" }, keep("clock", figure("clock", "heard")), keep("ahead", figure("ahead", "made ahead")), keep("slack", figure("slack", "least slack")),
      keep("underruns", figure("underruns", "underruns")), keep("latency", figure("latency", "control to ear, at most")), keep("trip", figure("trip", "to the service and back")), keep("health", figure("health", "health")), keep("input", figure("input", "of your chunks in the context"))),
    keep("basic", make("div", { className: "controls" })),
    make("details", {}, make("summary", { textContent: "More controls" }),
      make("label", { className: "fade", title: "Of new seeds and returns to the prompt; at most a chunk" }, "Crossfade", keep("fade", make("input", { type: "number", min: 0, max: 10, step: 0.05, value: 0.25, id: "live-fade" })), "s"),
      keep("more", make("div", { className: "controls" })), keep("oscillators", make("div"))),
    make("div", { className: "line start saves" },
      keep("save", button("save", "Save what was heard", "D", { disabled: true, title: `WAV, 16 bits; the last ${MINUTES} minutes are kept` })),
      keep("saveState", button("save-state", "Save the session", "", { disabled: true, title: "A file with which the session goes on, sample for sample" })),
      keep("openState", button("open-state", "Open a session", "", {})),
      keep("stateFile", make("input", { type: "file", hidden: true, accept: ".duostate", ariaLabel: "A saved session" })),
      keep("midi", button("midi", "Connect MIDI", "", { hidden: !midi })),
      keep("learn", button("learn", "Bind a knob", "", { hidden: true, title: "Touch a control, press this, turn a knob" })),
      make("span", { className: "soft", textContent: `The last ${MINUTES} minutes of what was heard are kept.` })),
    make("details", {}, make("summary", { textContent: "Keys of this section" }), make("p", { className: "soft", textContent: "They work while the focus is in this section: click into it, or use Tab." }),
      make("dl", { className: "keys" }, ...KEYS.flatMap(([key, told]) => [make("dt", {}, ...key.split(" ").flatMap((each) => [make("kbd", { textContent: each }), " "])), make("dd", { textContent: told })]))),
  );
  return of;
}
