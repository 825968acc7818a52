/* The section "Source": drop, pick, record, the clips of the package; opens what it gets in the project. */

import { $, make } from "/studio/shared/dom.js";
import { mountEncoding } from "./encoding.js";
import { showLevel } from "./live/level.js";
import { record } from "./live/recorder.js";
import { say } from "./messages.js";
import { project } from "./project.js";

const LEVEL_MS = 100; // between two looks at the level of the microphone
let recording = null, encoding = false, timer = 0;

async function open(file, about = "", start = 0) {
  try {
    await project.open(file, about, start);
  } catch (error) {
    say(error.message, "error");
  }
}

const long = () => project.whole > project.most + 0.05;

/** What the section has where a sound is open, where none is, and while the microphone is encoded. */
function show() {
  const some = project.versions.length > 0;
  $("drop").hidden = some || encoding;
  $("loaded").hidden = !some || encoding;
  $("name").textContent = project.name;
  $("about").textContent = project.about;
  $("part-choice").hidden = !long();
  $("part").max = Math.floor(Math.max(0, project.whole - 1));
  $("part").value = project.start;
}

/** Tells of a sound that is longer than what the page works on. */
function tellPart() {
  if (long()) say(`${project.name} lasts ${project.whole.toFixed(project.whole < 10 ? 1 : 0)} s. This page works on ${project.most} s of it at a time (compared_seconds); choose where they begin. duotone encode takes all of it.`, "warning");
}

/** Takes a dropped or chosen file; tells where there are several. */
function take(files) {
  if (files.length > 1) say(`Got ${files.length} files; the first one is opened.`, "warning");
  if (files.length) open(files[0]);
}

function watchDrops() {
  const inside = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!inside(event)) return;
    event.preventDefault();
    $("drop").classList.add("over");
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
  addEventListener("drop", (event) => {
    if (!inside(event)) return;
    event.preventDefault();
    $("drop").classList.remove("over");
    take(event.dataTransfer.files);
  });
}

async function toggleRecording() {
  let file = null;
  $("record").disabled = true;
  try {
    if (recording) {
      const ended = recording;
      recording = null;
      file = await ended.stop();
    } else {
      recording = await record();
      timer = setInterval(() => showLevel($("record-level"), recording?.level() ?? 0), LEVEL_MS);
    }
  } catch (error) {
    say(error.message, "error");
  } finally {
    showRecording();
  }
  if (file) await open(file, "recorded here");
}

function showRecording() {
  const button = $("record");
  if (!recording) clearInterval(timer);
  button.disabled = false;
  button.setAttribute("aria-pressed", Boolean(recording));
  $("record-text").textContent = recording ? "Stop" : "Record";
  $("encode-live").disabled = Boolean(recording);
  $("record-level").hidden = !recording;
}

async function listClips() {
  const clips = await (await fetch("/studio/clips/clips.json")).json();
  $("clips").replaceChildren(...clips.map((clip) => {
    const button = make("button", { type: "button", title: `${clip.source}. ${clip.licence}` },
      make("b", { textContent: clip.title }), make("span", { textContent: clip.about }));
    button.addEventListener("click", async () => {
      const blob = await (await fetch(`/studio/clips/${clip.file}`)).blob();
      open(new File([blob], clip.title), clip.about);
    });
    return button;
  }));
}

export async function mountSource() {
  $("pick").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => { take($("file").files); $("file").value = ""; });
  $("record").addEventListener("click", toggleRecording);
  $("another").addEventListener("click", () => { $("drop").hidden = !$("drop").hidden; $("pick").focus(); });
  $("part").addEventListener("change", () => open(named(project.file, project.name), "", Math.max(0, Number($("part").value) || 0)));
  mountEncoding({ open: (file) => open(file, "encoded live"), busy: (whether) => { encoding = whether; show(); } });
  watchDrops();
  project.addEventListener("opened", show);
  project.addEventListener("opened", tellPart);
  project.addEventListener("progress", ({ detail }) => {
    $("progress").textContent = detail;
  });
  await listClips();
}

function named(blob, name) { return new File([blob], name); }
