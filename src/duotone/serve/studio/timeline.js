/* The part of the sound that is shown, shared by spectrograms, waveforms and pictures of bits. Event "window". */

import { $, make, tickStep } from "/studio/shared/dom.js";
import { project } from "./project.js";

const LEAST = 0.02; // seconds that can fill the width

class Timeline extends EventTarget {
  from = 0;
  to = 1;

  get span() { return this.to - this.from; }

  get everything() { return this.span > project.seconds - 1e-6; }

  show(from, to) {
    const span = Math.min(project.seconds, Math.max(LEAST, to - from));
    this.from = Math.min(Math.max(0, from), project.seconds - span);
    this.to = this.from + span;
    this.dispatchEvent(new Event("window"));
  }

  all() { this.show(0, project.seconds); }

  /** Makes the span `factor` times as long, and leaves the time `at` where it is. */
  zoom(factor, at = (this.from + this.to) / 2) {
    const span = Math.min(project.seconds, Math.max(LEAST, this.span * factor));
    const from = at - ((at - this.from) / this.span) * span;
    this.show(from, from + span);
  }

  /** Shows earlier or later time, by a share of the span. */
  pan(share) { this.show(this.from + share * this.span, this.to + share * this.span); }

  /** Turns the page where a time is not shown. */
  follow(seconds) {
    if (seconds < this.from || seconds >= this.to) this.show(seconds, seconds + this.span);
  }

  /** Where a time is in the width, from 0 to 1. */
  share(seconds) { return (seconds - this.from) / this.span; }

  /** The time at a pointer over an element. */
  at(event, element) {
    const box = element.getBoundingClientRect();
    return this.from + Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * this.span;
  }
}

export const timeline = new Timeline();

/** Marks of the time axis. */
export function showTimes() {
  const step = tickStep(timeline.span, innerWidth < 600 ? 5 : 10), digits = step < 0.01 ? 3 : step < 0.1 ? 2 : step < 1 ? 1 : 0;
  const marks = [];
  for (let i = Math.ceil(timeline.from / step - 1e-9); i * step < timeline.to - 0.015 * timeline.span; i++) {
    const mark = make("span", { textContent: `${(i * step).toFixed(digits)} s` }), share = timeline.share(i * step);
    mark.style.left = `${100 * share}%`;
    mark.classList.toggle("first", share < 0.02);
    marks.push(mark);
  }
  $("times").replaceChildren(...marks);
}

/** Wheel and pinch over an element zoom and move what is shown. */
export function watchZoom(element) {
  element.addEventListener("wheel", (event) => {
    const sideways = event.shiftKey ? event.deltaY : event.deltaX;
    if (event.ctrlKey || event.metaKey) timeline.zoom(Math.exp(event.deltaY * 0.004), timeline.at(event, element));
    else if (Math.abs(sideways) > (event.shiftKey ? 0 : Math.abs(event.deltaY)) && !timeline.everything) timeline.pan(sideways / 1000);
    else return;
    event.preventDefault();
  }, { passive: false });
  const pointers = new Map();
  let begun = null;
  const gap = () => { const [a, b] = [...pointers.values()]; return Math.max(10, Math.abs(a - b)); };
  element.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, event.clientX);
    begun = pointers.size === 2 ? { gap: gap(), span: timeline.span, at: timeline.at(event, element) } : null;
  });
  element.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    pointers.set(event.pointerId, event.clientX);
    if (begun) timeline.zoom((begun.span * begun.gap) / gap() / timeline.span, begun.at);
  });
  for (const type of ["pointerup", "pointercancel", "lostpointercapture"]) {
    element.addEventListener(type, (event) => { pointers.delete(event.pointerId); begun = null; });
  }
}
