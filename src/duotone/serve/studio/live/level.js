/* Meters of a level: 60 dB below full scale is their beginning. */

const RANGE = 60; // dB
const CLIPS = 0.999, LOUD = 0.84; // peaks from which on a meter is red, and amber

/** Shows a peak of samples within +-1 in an element of class gauge. */
export function showLevel(element, peak) {
  const decibels = 20 * Math.log10(Math.max(1e-5, peak)), share = Math.max(0, Math.min(1, 1 + decibels / RANGE));
  element.firstElementChild.style.setProperty("--share", share);
  element.dataset.state = peak >= CLIPS ? "bad" : peak > LOUD ? "warn" : "";
  element.setAttribute("aria-valuenow", Math.round(100 * share));
  element.setAttribute("aria-valuetext", `${Math.round(decibels)} dB`);
}
