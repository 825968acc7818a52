/* Blind tests of the versions that are open. */

import { BlindTest } from "/studio/shared/blind.js";
import { $, make } from "/studio/shared/dom.js";
import { hearBy, player, show } from "./compare.js";
import { project } from "./project.js";

export const blind = new BlindTest({ versions: () => project.versions, changed: () => { player.choose(); show(); } });

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

/** Begins a test, where there is something to compare, or ends the one that runs. */
export function toggle() {
  if (blind.trial) blind.end(); else if (!$("blind").hidden) blind.begin();
}

export function mountBlind() {
  hearBy(() => blind.trial && { version: project.versions[blind.version], title: blind.letters[blind.letter].letter });
  blind.mount();
  project.addEventListener("opened", () => { if (blind.trial) blind.end(); list(); });
  project.addEventListener("version", () => { if (!blind.trial) list(); });
}
