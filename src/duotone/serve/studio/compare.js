/* The section "Compare": versions above each other, the player that switches between them, zoom. */

import { $, clockText, make, segments } from "/studio/shared/dom.js";
import { Player } from "/studio/shared/player.js";
import { drawWave, forget, KINDS, levelsOf, loadColours, View } from "./drawing.js";
import { say } from "./messages.js";
import { project, RATE } from "./project.js";
import { ink } from "./theme.js";
import { showTimes, timeline, watchZoom } from "./timeline.js";

const PLAY = "M7 4.5v15l12.5-7.5z", PAUSE = "M6 4.5h4.5v15H6zM13.5 4.5H18v15h-4.5z";
export const state = { key: null, kind: "full", loop: true, region: null };
let views = new Map(); // key -> View
let blind = () => null; // in a blind test: the version behind the chosen letter, and what is shown of it

/** Lets a blind test decide what is heard: `of` gives {version, title} or null. */
export function hearBy(of) { blind = of; }

export const player = new Player({
  rate: RATE,
  duration: () => project.seconds,
  sounds: async () => project.ready.map(({ buffer }) => buffer),
  audible: () => project.ready.findIndex(({ key }) => key === heard()),
  level: (i) => project.ready[i].gain,
  region: () => state.region, loop: () => state.loop,
  changed: () => { show(); if (player.playing) requestAnimationFrame(follow); },
});

function heard() { return blind()?.version.key ?? state.key; }

const failed = (error) => say(`The sound cannot be played here: ${error.message}`, "error");

export function toggle() {
  if (!project.ready.length) return;
  if (player.playing) player.pause(); else player.play().catch(failed);
  show();
}

export function choose(key) {
  if (!project.find(key)?.buffer) return;
  state.key = key;
  player.choose();
  show();
  drawOverview();
}

/** The next version, or the one before. */
export function step(by) {
  const ready = project.ready, now = ready.findIndex(({ key }) => key === state.key);
  if (ready.length) choose(ready[Math.min(ready.length - 1, Math.max(0, now + by))].key);
}

export function seek(seconds) {
  if (!project.ready.length) return;
  if (player.seek(seconds)) state.region = null;
  player.restart().catch(failed);
  timeline.follow(player.position());
  show();
}

export function setRegion(region) {
  state.region = region;
  player.offset = player.position();
  player.restart().catch(failed);
  show();
}

export function setLoop(loop) {
  player.offset = player.position();
  state.loop = loop;
  player.restart().catch(failed);
  show();
}

export function setKind(kind) {
  state.kind = kind;
  for (const input of $("range").querySelectorAll("input")) input.checked = input.value === kind;
  ticks();
  draw();
}

export function nextKind() {
  const kinds = Object.keys(KINDS);
  setKind(kinds[(kinds.indexOf(state.kind) + 1) % kinds.length]);
}

/* ---- Rows ---- */

function build() {
  player.pause();
  Object.assign(state, { region: null, key: project.versions[0].key });
  player.offset = 0;
  views = new Map();
  forget();
  $("compare").hidden = $("transport").hidden = false;
  $("opus-missing").hidden = project.models.opus || !project.find("original");
  $("versions").replaceChildren(...project.versions.map(row));
  timeline.all();
  ticks();
  show();
}

function row(version, i) {
  const input = make("input", { type: "radio", name: "version", value: version.key });
  input.addEventListener("change", () => choose(version.key));
  const name = make("div", { className: "name" }, make("kbd", { textContent: i + 1 }), make("b", { textContent: version.title }), make("span"), make("small"));
  const canvas = make("canvas", { id: `view-${version.key}` });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Picture of ${version.title}`);
  const view = make("div", { className: "view" }, canvas, make("div", { className: "part" }), make("div", { className: "head" }));
  views.set(version.key, new View(canvas, version));
  watchPointer(view, version.key);
  watchZoom(view);
  const label = make("label", { className: "version pending", id: `version-${version.key}` }, input, name, view);
  label.dataset.group = version.group;
  view.dataset.told = "waiting";
  return label;
}

function figures(version) {
  const label = $(`version-${version.key}`), [rate, note] = label.querySelectorAll("span, small");
  if (!version.bytes) return;
  const kbps = (version.bytes * 8) / project.seconds / 1000;
  rate.textContent = `${kbps >= 100 ? kbps.toFixed(0) : kbps.toFixed(1)} kbit/s · ${bytesText(version.bytes)}`;
  note.textContent = [version.note, version.distance === null ? "" : `log-mel distance ${version.distance.toFixed(2)} dB`].filter(Boolean).join(" · ") || version.detail;
  label.title = version.detail;
  label.classList.toggle("pending", !version.buffer);
}

export function bytesText(count) { return count < 1e6 ? `${count.toLocaleString("en")} B` : `${(count / 1e6).toFixed(2)} MB`; }

async function changed({ detail: version }) {
  figures(version);
  if (!version.buffer) return;
  if (views.get(version.key).version !== version || version.drawn !== version.made) {
    version.drawn = version.made;
    views.get(version.key).wholes.clear();
    if (player.playing) { player.offset = player.position(); player.restart().catch(failed); }
    if (timeline.to > project.seconds || version === project.versions[0]) timeline.all();
    drawOne(views.get(version.key));
    if (version.key === state.key) drawOverview();
    show();
  }
}

/** Frequencies beside each spectrogram. */
function ticks() {
  const { ticks: marks, share } = KINDS[state.kind];
  for (const view of $("versions").querySelectorAll(".view")) {
    view.querySelectorAll("i").forEach((mark) => mark.remove());
    view.append(...marks.map((hertz) => {
      const mark = make("i", { textContent: hertz < 1000 ? `${hertz}` : `${hertz / 1000}${hertz === marks.at(-1) ? " kHz" : "k"}` });
      mark.classList.toggle("minor", hertz === 500 || hertz === 2000);
      mark.style.bottom = `${100 * share(hertz)}%`;
      return mark;
    }));
  }
}

/* ---- Drawing ---- */

/** The level of the brightest colour: the original's loudest bin, less what a version is made louder by. */
async function loudest(version) {
  const first = project.versions[0], values = await levelsOf(first, state.kind);
  first.top ??= {};
  first.top[state.kind] ??= values.reduce((a, b) => Math.max(a, b));
  return first.top[state.kind] + 20 * Math.log10(first.gain / version.gain);
}

function drawOne(view) {
  const first = project.versions[0];
  if (!view.version.buffer || !first.buffer) return Promise.resolve();
  return view.draw(state.kind, () => loudest(view.version), ink(`stage-${view.version.group}`));
}

let drawing = 0;

async function draw() {
  const mine = ++drawing;
  $("stack").dataset.drawn = "";
  showTimes();
  await Promise.all([...views.values()].map(drawOne));
  if (mine === drawing) $("stack").dataset.drawn = `${state.kind}/${timeline.from.toFixed(3)}/${timeline.to.toFixed(3)}`;
}

function drawOverview() {
  const version = project.find(state.key);
  if (version?.buffer) drawWave($("overview-canvas"), version, { from: 0, to: project.seconds }, ink(version.group));
}

/* ---- What is shown ---- */

/** Brings what moves up to date: playhead, clock, slider. */
function move() {
  const at = player.position(), duration = project.seconds;
  document.body.style.setProperty("--at", timeline.share(at));
  $("overview").style.setProperty("--at", at / duration);
  $("clock").textContent = `${clockText(at)} / ${clockText(duration)}`;
  if (document.activeElement !== $("seek") || player.playing) $("seek").value = at / duration;
  $("seek").setAttribute("aria-valuetext", `${at.toFixed(1)} of ${duration.toFixed(1)} seconds`);
}

function follow() {
  if (player.playing && !timeline.everything && !dragging) timeline.follow(player.position());
  move();
  if (player.playing) requestAnimationFrame(follow);
}

/** Brings everything else up to date with the state. */
export function show() {
  $("play").setAttribute("aria-label", player.playing ? "Pause" : "Play");
  $("play").querySelector("path").setAttribute("d", player.playing ? PAUSE : PLAY);
  $("heard").textContent = blind()?.title ?? project.find(state.key)?.title ?? "";
  $("loop").setAttribute("aria-pressed", state.loop);
  const input = $("versions").querySelector(`input[value="${CSS.escape(state.key ?? "")}"]`);
  if (input) input.checked = true;
  const { style, classList } = document.body, region = state.region;
  classList.toggle("has-part", Boolean(region));
  if (region) {
    style.setProperty("--from", timeline.share(region[0]));
    style.setProperty("--share", (region[1] - region[0]) / timeline.span);
  }
  const frame = $("overview");
  frame.style.setProperty("--first", timeline.from / project.seconds);
  frame.style.setProperty("--shown", timeline.span / project.seconds);
  frame.setAttribute("aria-valuenow", timeline.from.toFixed(2));
  frame.setAttribute("aria-valuemax", Math.max(0, project.seconds - timeline.span).toFixed(2));
  frame.setAttribute("aria-valuetext", `${timeline.from.toFixed(1)} to ${timeline.to.toFixed(1)} seconds`);
  move();
}

/* ---- Pointers ---- */

let dragging = false;

/** A click on a picture goes there and chooses the version, a drag repeats a part. */
function watchPointer(view, key) {
  let begun = null;
  view.addEventListener("click", (event) => event.preventDefault()); // the label would choose once more
  view.addEventListener("pointerdown", (event) => {
    if (event.button || !event.isPrimary) { begun = null; return; }
    begun = { seconds: timeline.at(event, view), x: event.clientX };
    view.setPointerCapture(event.pointerId);
  });
  view.addEventListener("pointermove", (event) => {
    if (!begun || !event.isPrimary || Math.abs(event.clientX - begun.x) < 8) return;
    dragging = true;
    const part = [begun.seconds, timeline.at(event, view)].sort((a, b) => a - b);
    if (part[1] - part[0] > 0.02) { state.region = part; show(); }
  });
  view.addEventListener("pointercancel", () => { begun = null; dragging = false; }); // the page scrolls instead
  view.addEventListener("pointerup", (event) => {
    if (!begun || !event.isPrimary) return;
    choose(key);
    if (dragging && state.region) { state.loop = true; seek(state.region[0]); } else seek(begun.seconds);
    begun = null;
    dragging = false;
  });
}

/** The overview: a drag moves what is shown, arrow keys too. */
function watchOverview() {
  const frame = $("overview");
  let grip = null; // seconds from the window's beginning
  const at = (event) => {
    const box = frame.getBoundingClientRect();
    return ((event.clientX - box.left) / box.width) * project.seconds;
  };
  const move = (seconds) => timeline.show(seconds, seconds + timeline.span);
  frame.addEventListener("pointerdown", (event) => {
    frame.setPointerCapture(event.pointerId);
    const place = at(event);
    if (timeline.everything) { seek(place); return; }
    grip = place >= timeline.from && place <= timeline.to ? place - timeline.from : timeline.span / 2;
    move(place - grip);
  });
  frame.addEventListener("pointermove", (event) => { if (grip !== null) move(at(event) - grip); });
  for (const type of ["pointerup", "pointercancel"]) frame.addEventListener(type, () => { grip = null; });
  frame.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -0.25, ArrowRight: 0.25, PageUp: -1, PageDown: 1, Home: -1e9, End: 1e9 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    timeline.pan(by);
  });
  watchZoom(frame);
}

export async function mountCompare() {
  await loadColours();
  segments($("range"), "range", Object.entries(KINDS).map(([kind, { title }]) => [kind, title]), state.kind, setKind);
  $("play").addEventListener("click", toggle);
  $("loop").addEventListener("click", () => setLoop(!state.loop));
  $("seek").addEventListener("input", () => seek($("seek").value * project.seconds));
  $("zoom-in").addEventListener("click", () => timeline.zoom(0.5, player.position()));
  $("zoom-out").addEventListener("click", () => timeline.zoom(2, player.position()));
  $("zoom-all").addEventListener("click", () => timeline.all());
  watchOverview();
  timeline.addEventListener("window", () => { draw(); show(); });
  project.addEventListener("opened", build);
  project.addEventListener("version", changed);
  for (const [target, type] of [[window, "resize"], [document, "theme"]]) target.addEventListener(type, () => { draw(); drawOverview(); });
}
