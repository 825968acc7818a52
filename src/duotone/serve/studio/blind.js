/* Blind tests of the versions that are open. */

import { $, make, segments } from "/studio/shared/dom.js";
import { answerText, KINDS, letters, newTrial, question, Tally } from "/studio/shared/trials.js";
import { hearBy, player, show } from "./compare.js";
import { project } from "./project.js";

export const tally = new Tally();
let kind = "nearer", letter = 2;
export let trial = null; // the one that runs

const title = (i) => project.versions[i].title;

/** Both lists of versions: those that can be heard, with the former choice where it is still there. */
function list() {
  const ready = project.versions.map((each, i) => [each, i]).filter(([{ buffer }]) => buffer);
  for (const [id, wanted, fallback] of [["first", "tokens", 0], ["second", "opus-nearest", 1]]) {
    const former = $(id).dataset.key ?? wanted;
    $(id).replaceChildren(...ready.map(([each, i]) => make("option", { value: i, textContent: each.title })));
    const found = ready.find(([{ key }]) => key === former) ?? ready[Math.min(fallback + Number(ready.length > 2), ready.length - 1)];
    if (found) $(id).value = found[1];
  }
  $("blind").hidden = ready.length < 2 || !project.find("original");
}

export function begin() {
  if ($("blind").hidden) return;
  const pair = [Number($("first").value), Number($("second").value)];
  if (pair[0] === pair[1]) {
    $("verdict").textContent = "Choose two different versions.";
    return;
  }
  trial = newTrial(kind, pair);
  letter = 2;
  document.documentElement.dataset.blind = "";
  $("setup").hidden = true;
  $("trial").hidden = false;
  $("question").textContent = question(trial);
  $("choices").replaceChildren(...letters(trial, title).map(({ letter: name, about }, i) => {
    const input = make("input", { type: "radio", name: "letter", value: i, checked: i === letter });
    input.addEventListener("change", () => listen(i));
    return make("label", {}, input, make("b", { textContent: name }), make("span", { textContent: about }), make("kbd", { textContent: i + 1 }));
  }));
  for (const i of [0, 1]) $(`answer-${i}`).textContent = answerText(trial, i);
  player.choose();
  show();
}

/** Lets A (0), B (1), or X and the original (2) be heard. */
export function listen(next) {
  letter = next;
  $("choices").querySelectorAll("input")[letter].checked = true;
  player.choose();
  show();
}

export function listenNext(by) { listen((letter + by + 3) % 3); }

export function answerHeard() { if (trial && letter < 2) answer(letter); }

function answer(given) {
  $("verdict").textContent = tally.answer(trial, given, project.versions);
  showTally();
  begin();
}

export function end() {
  trial = null;
  delete document.documentElement.dataset.blind;
  $("setup").hidden = false;
  $("trial").hidden = true;
  $("verdict").textContent = "";
  player.choose();
  show();
}

function showTally() {
  $("tally").hidden = tally.size === 0;
  $("tally").querySelector("tbody").replaceChildren(...tally.rows().map((cells) => (
    make("tr", {}, ...cells.map((textContent) => make("td", { textContent }))))));
}

export function mountBlind() {
  hearBy(() => trial && { version: project.versions[trial.order[letter]], title: letters(trial, title)[letter].letter });
  segments($("kind"), "kind", Object.entries(KINDS), kind, (next) => { kind = next; });
  $("begin").addEventListener("click", begin);
  $("end").addEventListener("click", end);
  $("reset").addEventListener("click", () => { tally.clear(); $("verdict").textContent = ""; showTally(); });
  for (const i of [0, 1]) $(`answer-${i}`).addEventListener("click", () => answer(i));
  for (const id of ["first", "second"]) $(id).addEventListener("change", () => { $(id).dataset.key = project.versions[$(id).value].key; });
  project.addEventListener("opened", () => { if (trial) end(); list(); });
  project.addEventListener("version", () => { if (!trial) list(); });
}
