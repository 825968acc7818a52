/* The studio: starts everything, and hands to each module what it needs. Plain ES modules, no build step.

   How they fit together. A module owns the elements of one section and exports functions; no module reads another's elements.

     main.js           theme, header, keys; makes `context` and mounts the sections
     api.js            requests to the service: the token, errors as objects, whether the service answers
     messages.js       say(message, kind): one line above the page; kind is "info", "done", "warning" or "error"
     project.js        the sound that is open: its WAV, its .duo files, its versions; tells of changes by events
     source.js         drop, pick, record, clips          -> project
     compare.js        versions above each other, zoom    <- project
     blind.js          blind tests of the versions
     bits.js           figures, pictures, saving          <- project
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

import { models, onState, setToken, token, watch } from "./api.js";
import { $ } from "./dom.js";
import { say } from "./messages.js";
import { toggleTheme } from "./theme.js";

const context = {
  models: null,
  get token() { return token(); },
  currentDuo: () => null,
  currentWave: () => null,
  say,
};

/** The header: what answers, and what is loaded. */
function describe(found) {
  const [codec] = found.codecs;
  $("codec").textContent = `${codec.name} · ${codec.faces.includes("tokens") ? `${(codec.bit_rate / 1000).toFixed(1)} kbit/s` : "latents"}`;
  $("flow").textContent = found.flow ? found.flow.name : "";
}

/** Asks for the token until one is right. */
async function askToken(told) {
  const dialog = $("ask");
  $("ask-told").textContent = told;
  dialog.showModal();
  await new Promise((resolve) => dialog.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    resolve();
  }, { once: true }));
  setToken($("token").value);
  $("token").value = "";
  dialog.close();
}

async function connect() {
  for (;;) {
    try {
      context.models = await models();
      return;
    } catch (error) {
      if (error.status !== 401) throw error;
      await askToken(error.message);
    }
  }
}

async function mountLive() {
  const { mount } = await import("./live/panel.js");
  $("live").hidden = false;
  await mount($("live"), context);
}

async function start() {
  $("theme").addEventListener("click", toggleTheme);
  onState((state, text) => { $("server").dataset.state = state; $("server").textContent = text; });
  watch();
  await connect();
  describe(context.models);
  if (context.models.flow) await mountLive();
}

start().catch((error) => say(error.message, "error"));
