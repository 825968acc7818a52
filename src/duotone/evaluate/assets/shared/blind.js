/* The controls of blind tests, which have the same names on every page. */

import { $, make, segments } from "./dom.js";
import { answerText, KINDS, letters, newTrial, question, Tally } from "./trials.js";

/** Trials of the page's versions: `versions()` have keys and titles; `changed()` is called when another one is to be heard. */
export class BlindTest {
  constructor({ versions, changed }) {
    Object.assign(this, { versions, changed, kind: "nearer", letter: 2, trial: null, tally: new Tally() }); // trial: the one that runs
  }

  get letters() { return letters(this.trial, (i) => this.versions()[i].title); }

  /** The number of the version behind the chosen letter. */
  get version() { return this.trial.order[this.letter]; }

  begin() {
    const pair = [Number($("first").value), Number($("second").value)];
    if (pair[0] === pair[1]) {
      $("verdict").textContent = "Choose two different versions.";
      return;
    }
    this.trial = newTrial(this.kind, pair);
    this.letter = 2;
    document.documentElement.dataset.blind = "";
    $("setup").hidden = true;
    $("trial").hidden = false;
    $("question").textContent = question(this.trial);
    $("choices").replaceChildren(...this.letters.map(({ letter, about }, i) => {
      const input = make("input", { type: "radio", name: "letter", value: i, checked: i === this.letter });
      input.addEventListener("change", () => this.listen(i));
      return make("label", {}, input, make("b", { textContent: letter }), make("span", { textContent: about }), make("kbd", { textContent: i + 1 }));
    }));
    for (const i of [0, 1]) $(`answer-${i}`).textContent = answerText(this.trial, i);
    this.changed();
  }

  /** Lets A (0), B (1), or X and the original (2) be heard. */
  listen(letter) {
    this.letter = letter;
    $("choices").querySelectorAll("input")[letter].checked = true;
    this.changed();
  }

  listenNext(by) { this.listen((this.letter + by + 3) % 3); }

  answer(letter) {
    $("verdict").textContent = this.tally.answer(this.trial, letter, this.versions());
    this.showTally();
    this.begin();
  }

  /** What is heard is the answer, where it can be one. */
  answerHeard() { if (this.trial && this.letter < 2) this.answer(this.letter); }

  end() {
    this.trial = null;
    delete document.documentElement.dataset.blind;
    $("setup").hidden = false;
    $("trial").hidden = true;
    $("verdict").textContent = "";
    this.changed();
  }

  reset() {
    this.tally.clear();
    $("verdict").textContent = "";
    this.showTally();
  }

  showTally() {
    $("tally").hidden = this.tally.size === 0;
    $("tally").querySelector("tbody").replaceChildren(...this.tally.rows().map((cells) => (
      make("tr", {}, ...cells.map((textContent) => make("td", { textContent }))))));
  }

  /** Makes the controls work. */
  mount() {
    segments($("kind"), "kind", Object.entries(KINDS), this.kind, (kind) => { this.kind = kind; });
    $("begin").addEventListener("click", () => this.begin());
    $("end").addEventListener("click", () => this.end());
    $("reset").addEventListener("click", () => this.reset());
    for (const i of [0, 1]) $(`answer-${i}`).addEventListener("click", () => this.answer(i));
    for (const id of ["first", "second"]) {
      $(id).addEventListener("change", () => { $(id).dataset.key = this.versions()[$(id).value].key; });
    }
  }
}
