/* The panel "Encode live" in the section "Source": the .duo grows while the microphone records; at the end it is opened. */

import { $, clockText, make } from "/studio/shared/dom.js";
import { token } from "./api.js";
import { tokenColour, tokenGrid } from "./colours.js";
import { bytesText } from "./compare.js";
import { showLevel } from "./live/level.js";
import { LiveEncode } from "./live/live_encode.js";
import { say } from "./messages.js";
import { project } from "./project.js";
import { save } from "./saving.js";

const SHOW_MS = 200;
const SHOWN = 20; // seconds of tokens in the picture
const LINE = "#09081a", LEAST = 4; // between chunks, as in the pictures of whole files, where they are at least so many pixels wide

/** The tokens of the last seconds, chunk after chunk; when the picture is full, it moves on by a chunk. */
class Roll {
  constructor(canvas, { codec, feed }) {
    const { each, rows } = tokenGrid(feed.sizes.length, codec.steps, codec.columns);
    Object.assign(this, { canvas, codec, each, rows, most: Math.ceil(SHOWN / codec.chunk_seconds), chunks: 0 });
    this.ring = make("canvas", { width: this.most * each, height: rows });
  }

  push(codes) {
    const { each, rows, codec: { digits, codebooks } } = this, context = this.ring.getContext("2d"), image = context.createImageData(each, rows);
    for (let column = 0; column < each; column++) {
      for (let row = 0; row < rows; row++) {
        const levels = digits ? digits[codebooks.length === 1 ? 0 : row % codebooks.length] : null;
        image.data.set([...tokenColour(codes[column * rows + row], levels), 255], 4 * (row * each + column));
      }
    }
    context.putImageData(image, (this.chunks % this.most) * each, 0);
    this.chunks++;
  }

  draw() {
    const { canvas, each, rows, most } = this, width = Math.round(canvas.clientWidth * devicePixelRatio), height = Math.round(canvas.clientHeight * devicePixelRatio);
    if (!width) return;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d"), shown = Math.min(this.chunks, most), wide = width / most, first = (this.chunks - shown) % most;
    const put = (at, count, x) => { if (count) context.drawImage(this.ring, at * each, 0, count * each, rows, x * wide, 0, count * wide, height); };
    const before = Math.min(shown, most - first); // chunks up to the end of the ring; the later ones stand at its beginning
    context.clearRect(0, 0, width, height);
    context.imageSmoothingEnabled = false;
    put(first, before, 0);
    put(0, shown - before, before);
    context.fillStyle = LINE;
    if (wide > LEAST * devicePixelRatio) for (let i = 1; i <= shown; i++) context.fillRect(Math.round(i * wide), 0, devicePixelRatio, height);
  }
}

export const encoding = { work: null, roll: null }; // what runs or ran last
let opened = () => {}, changed = () => {}, timer = 0;

const running = () => encoding.work !== null && !encoding.work.ended;

function show() {
  const { work, roll } = encoding, { feed } = work;
  showLevel($("encoding-level"), work.level);
  const text = (name, value) => { $(`encoding-${name}`).textContent = value; };
  text("time", clockText(work.seconds));
  text("bytes", bytesText(work.bytes));
  text("rate", work.encoded ? `${((8 * feed.records) / work.encoded / 1000).toFixed(2)} kbit/s` : "–");
  text("count", (work.face === "tokens" ? work.tokens : feed.chunks).toLocaleString("en"));
  text("behind", `${Math.max(0, work.seconds - work.encoded).toFixed(1)} s`);
  roll?.draw();
}

function enter(state, told) {
  document.body.dataset.encoding = state;
  $("encoding").hidden = state === "off";
  $("encoding-status").textContent = told;
  $("encoding-stop").hidden = $("encoding-discard").hidden = state === "failed";
  $("encoding-stop").disabled = state !== "running";
  $("encoding-save").hidden = $("encoding-close").hidden = state !== "failed";
  $("encode-live").disabled = $("record").disabled = state !== "off" && state !== "failed";
  changed(state !== "off" && state !== "failed");
}

function begin() {
  const codec = project.codec, work = new LiveEncode(codec, token());
  Object.assign(encoding, { work, roll: work.face === "tokens" ? new Roll($("encoding-tokens"), work) : null });
  $("encoding-tokens").hidden = encoding.roll === null;
  $("encoding-unit").textContent = work.face === "tokens" ? "tokens" : "chunks of latents";
  let drawn = 0;
  work.addEventListener("parts", () => {
    while (encoding.roll && drawn < work.chunks.length) encoding.roll.push(work.chunks[drawn++]);
  });
  work.addEventListener("ended", ({ detail }) => finish(work, detail));
  return work;
}

async function start() {
  const work = begin();
  enter("opening", "Opening the microphone and a session …");
  try {
    await work.start();
  } catch (error) {
    if (work.ended) return;
    work.ended = true;
    enter("off", "");
    say(error.message, "error");
    return;
  }
  if (work.ended) return; // discarded while it opened
  enter("running", `Encoding with ${work.codec.name}: the .duo grows while you play or speak.`);
  $("encoding-stop").focus();
  timer = setInterval(show, SHOW_MS);
  show();
}

function stop() {
  enter("stopping", "The last chunks are encoded …");
  encoding.work.stop();
}

function finish(work, { file, error }) {
  clearInterval(timer);
  show();
  if (work.reason) say(work.reason, "warning");
  if (file && work.seconds <= project.most) {
    enter("off", "");
    opened(file);
  } else if (file) {
    keep(file, `${file.name} lasts ${work.seconds.toFixed(0)} s, and this page decodes at most ${project.most} s (compared_seconds).`, "Save the .duo");
  } else {
    say(error.message, "error");
    keep(work.wav(), "Live encoding ended early. The sound that the microphone gave is still here.", "Save the recording (.wav)");
  }
}

/** Stays open with a file that the page cannot show. */
function keep(file, told, title) {
  enter("failed", told);
  $("encoding-save").textContent = title;
  $("encoding-save").onclick = () => save(file, file.name);
  $("encoding-save").focus();
}

function discard() {
  clearInterval(timer);
  encoding.work.cancel();
  enter("off", "");
}

/** From the button and from the key. */
export function toggleEncoding() {
  if (!$("encode-live").disabled) start();
  else if (!$("encoding-stop").disabled) stop();
}

/** `open(file)` opens a .duo; `busy(whether)` is told whether sound is being encoded. */
export function mountEncoding({ open, busy }) {
  opened = open;
  changed = busy;
  $("encode-live").addEventListener("click", toggleEncoding);
  $("encoding-stop").addEventListener("click", stop);
  $("encoding-discard").addEventListener("click", discard);
  $("encoding-close").addEventListener("click", () => enter("off", ""));
  addEventListener("resize", () => { if (running()) encoding.roll?.draw(); });
  addEventListener("pagehide", () => { if (running()) discard(); });
}
