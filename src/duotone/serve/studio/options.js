/* Options of decoding, as the codec offers them, and the choice of the codec where several are loaded. */

import { $, make } from "/studio/shared/dom.js";
import { say } from "./messages.js";
import { project } from "./project.js";

const ABOUT = {
  steps: "denoising steps", iterations: "iterations of Griffin-Lim, which improve phases", seed: "of the noise that decoding begins with",
};

function field(name, input) {
  input.addEventListener("change", () => { project.options[name] = input.value; });
  const told = ABOUT[name] ? make("span", { className: "soft", textContent: ABOUT[name] }) : "";
  return make("label", {}, name[0].toUpperCase() + name.slice(1), input, told);
}

function number(name, least) {
  return field(name, make("input", { type: "number", id: `option-${name}`, min: least, step: 1, placeholder: "default" }));
}

/** The fields for the codec that is chosen. */
function show() {
  const { codec } = project, strategies = codec.strategies.filter((name) => name !== "live");
  project.options = { model: project.options.model };
  const choices = ["", ...strategies].map((value) => make("option", { value, textContent: value || "default" }));
  const fields = [
    ...(strategies.length ? [field("strategy", make("select", { id: "option-strategy" }, ...choices))] : []),
    ...codec.options.map((name) => number(name, name === "steps" ? 1 : 0)),
    ...(codec.seeded ? [number("seed", 0)] : []),
  ];
  const button = make("button", { type: "button", id: "again", textContent: "Decode again" });
  button.addEventListener("click", () => project.again().catch((error) => say(error.message, "error")));
  $("decoding").hidden = fields.length === 0;
  $("options").replaceChildren(...fields, button);
}

export function mountOptions() {
  const { codecs } = project.models;
  $("model-choice").hidden = codecs.length < 2;
  $("codec").hidden = codecs.length > 1;
  $("model").replaceChildren(...codecs.map(({ name }) => make("option", { value: name, textContent: name })));
  $("model").addEventListener("change", () => {
    project.options = { model: $("model").value };
    show();
    if (project.file) project.open(project.file, "", project.start).catch((error) => say(error.message, "error"));
  });
  project.options = { model: codecs[0].name };
  show();
}
