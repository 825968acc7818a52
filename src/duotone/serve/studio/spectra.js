/* A worker that computes spectrograms, so that the page stays responsive. It is sent {sound, samples} once for each sound, then
   {id, sound, ...what to compute}, and answers {id, values}. */

import { spectrum } from "/studio/shared/spectrum.js";

const sounds = new Map();

addEventListener("message", ({ data: { id, sound, samples, rate, ...wish } }) => {
  if (samples) {
    sounds.set(sound, samples);
    return;
  }
  if (id === undefined) {
    sounds.clear();
    return;
  }
  const values = spectrum(sounds.get(sound), rate, wish);
  postMessage({ id, values }, [values.buffer]);
});
