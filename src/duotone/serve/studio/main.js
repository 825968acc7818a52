/* The studio: starts everything, and hands to each module what it needs. Plain ES modules, no build step.

   How they fit together. A module owns the elements of one section and exports functions; no module reads another's elements.

     main.js           theme, header, keys; makes `context` and mounts the sections
     api.js            requests to the service: the token, errors as objects, whether the service answers
     messages.js       say(message, kind): one line above the page; kind is "info", "done", "warning" or "error"
     project.js        the sound that is open: its WAV, its .duo files, its versions; tells of changes by events
     source.js         drop, pick, record, clips          -> project
     encoding.js       the panel "Encode live": its .duo is opened too
     duo.js            a .duo that is read while it arrives
     colours.js        of tokens and latents
     saving.js         save(blob, name)
     compare.js        versions above each other, zoom    <- project
     blind.js          blind tests of the versions
     bits.js           figures, pictures, saving          <- project
     live/live_encode.js  the microphone in a session of kind encode
     live/recorder.js  record(): Promise<{stop(): Promise<File>}>, a WAV file of the microphone
     live/panel.js     mount(element, context): the section "Continue and jam"
     /studio/shared/   what the page of `duotone demo` uses too: spectra, the player that switches, trials and their counts

   `context` is what live/panel.js gets; its values are read when they are needed, for they change:
     models         the answer of GET /v1/models
     token          the token, or null where none is needed
     currentDuo()   the .duo that is open, as a Blob (of tokens if it has them), or null
     currentWave()  the sound that is open, as a WAV Blob, or null
     say(message, kind)

   Colours are custom properties (style.css), dark and light by light-dark(); a canvas asks ink("tokens") of theme.js when it is
   drawn, and draws again at the event "theme" of document. Parts of sections have the classes .panel, .line, .slider, .gauge,
   .segments, .figures, .figure, .chip; see style.css. */

import { $ } from "/studio/shared/dom.js";
import { models, onState, onToken, token, watch } from "./api.js";
import * as bits from "./bits.js";
import { blind, mountBlind, toggle } from "./blind.js";
import * as compare from "./compare.js";
import { encoding, toggleEncoding } from "./encoding.js";
import { say } from "./messages.js";
import { mountOptions } from "./options.js";
import { project } from "./project.js";
import { mountSource } from "./source.js";
import { toggleTheme } from "./theme.js";
import { timeline } from "./timeline.js";

const RETRY_MS = 1500;

const context = {
  get models() { return project.models; },
  get token() { return token(); },
  currentDuo: () => project.duos.tokens ?? project.duos.latents ?? null,
  currentWave: () => project.wav,
  say,
};

/* ---- Header ---- */

function describe({ codecs: [codec], flow }) {
  const rate = codec.faces.includes("tokens") ? `${(codec.bit_rate / 1000).toFixed(1)} kbit/s` : "latents";
  $("codec").textContent = `${codec.name} · ${rate} · ${(codec.parameters / 1e6).toFixed(1)}M`;
  $("flow").textContent = flow ? `${flow.name} · ${(flow.parameters / 1e6).toFixed(1)}M` : "";
}

/** Asks for the token; resolves to what was entered, and rejects where the reader would not. */
function askToken(told) {
  const dialog = $("ask"), form = dialog.querySelector("form");
  $("ask-told").textContent = told;
  dialog.showModal();
  return new Promise((resolve, reject) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      resolve($("token").value);
      $("token").value = "";
      dialog.close();
    };
    dialog.onclose = () => { // not when it was opened again before the event of its last close came
      if (!dialog.open) reject(new Error("This service needs a token. Load the page anew to enter one."));
    };
  });
}

/** What the service has; waits for it where it does not answer yet. */
async function connected() {
  for (;;) {
    try {
      return await models();
    } catch (error) {
      if (error.status !== 0) throw error;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

/* ---- Keys ---- */

const position = () => compare.player.position();
const KEYS = {
  " ": compare.toggle,
  ArrowUp: () => (blind.trial ? blind.listenNext(-1) : compare.step(-1)),
  ArrowDown: () => (blind.trial ? blind.listenNext(1) : compare.step(1)),
  ArrowLeft: (event) => compare.seek(position() - (event.shiftKey ? 0.1 : 1)),
  ArrowRight: (event) => compare.seek(position() + (event.shiftKey ? 0.1 : 1)),
  "+": () => timeline.zoom(0.5, position()), "=": () => timeline.zoom(0.5, position()),
  "-": () => timeline.zoom(2, position()), 0: () => timeline.all(),
  f: compare.nextKind, l: () => compare.setLoop(!compare.state.loop),
  b: toggle, Escape: () => compare.setRegion(null), Enter: () => blind.answerHeard(),
};

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("ask").open) return;
  const { target, key } = event, letter = key.length === 1 ? key.toLowerCase() : key;
  if (target.closest?.("select, textarea, #live, input:not([type=radio], [type=range], [type=checkbox])")) return;
  if (target.closest?.("button, summary, a, input[type=range]") && (key === " " || key === "Enter")) return; // theirs
  if (target.matches?.("input[type=range]") && key.startsWith("Arrow")) return;
  if (letter === "t") {
    toggleTheme();
    return;
  }
  if (letter === "e" && !blind.trial) {
    toggleEncoding();
    return;
  }
  if (!project.versions.length) return;
  const digit = "123456789".indexOf(key);
  const number = () => (blind.trial ? digit < 3 && blind.listen(digit) : project.versions[digit] && compare.choose(project.versions[digit].key));
  const action = digit >= 0 && key.length === 1 ? number : KEYS[letter];
  if (!action) return;
  event.preventDefault();
  action(event);
}

/* ---- Beginning ---- */

async function mountLive() {
  const { mount } = await import("./live/panel.js");
  $("live").hidden = false;
  window.studio.live = await mount($("live"), context);
}

async function start() {
  $("theme").addEventListener("click", toggleTheme);
  document.addEventListener("keydown", press);
  // After a click the space bar should play, not click again; with the keyboard, focus stays where it is.
  document.addEventListener("click", (event) => { if (event.detail) event.target.closest?.("button")?.blur(); });
  onToken(askToken);
  onState((state, text) => { $("server").dataset.state = state; $("server").textContent = text; });
  watch();
  project.models = await connected();
  describe(project.models);
  mountOptions();
  await Promise.all([mountSource(), compare.mountCompare()]);
  mountBlind();
  bits.mountBits();
  document.body.dataset.ready = "";
  if (project.models.flow) await mountLive();
}

/** For checks by a script: what is open, heard and counted. */
window.studio = { project, player: compare.player, timeline, state: compare.state, blind, context, encoding };

start().catch((error) => say(error.message, "error"));
