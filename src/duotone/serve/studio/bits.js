/* The section "Tokens and latents": how large the files are, what is in them as pictures over the same time as the spectrograms,
   and saving them. */

import { $, make } from "/studio/shared/dom.js";
import { post } from "./api.js";
import { digitsOf, latentColour, tokenColour, tokenGrid } from "./colours.js";
import { bytesText, state } from "./compare.js";
import { say } from "./messages.js";
import { project } from "./project.js";
import { save } from "./saving.js";
import { timeline, watchZoom } from "./timeline.js";

const PAGE = 256; // chunks that the service gives at a time

/* ---- Pictures ---- */

/** A picture of cells: `rows` a column, `cells` seconds a column; told(column, row) says what a cell is. */
class Picture {
  constructor(face, { columns, rows, seconds, chunk, colour, told, title, about }) {
    Object.assign(this, { columns, rows, seconds, chunk, told, cursor: null });
    this.whole = make("canvas", { width: columns, height: rows });
    const context = this.whole.getContext("2d"), image = context.createImageData(columns, rows);
    for (let column = 0; column < columns; column++) {
      for (let row = 0; row < rows; row++) image.data.set([...colour(column, row), 255], 4 * (row * columns + column));
    }
    context.putImageData(image, 0, 0);
    this.canvas = make("canvas");
    this.cell = make("div", { className: "cell", hidden: true });
    this.view = make("div", { className: "view", tabIndex: 0 }, this.canvas, this.cell, make("div", { className: "head" }));
    this.view.setAttribute("role", "img");
    this.view.setAttribute("aria-label", `${title} over time. Arrow keys read single values.`);
    this.view.setAttribute("aria-describedby", `readout-${face}`);
    this.readout = make("small", { id: `readout-${face}`, className: "readout" });
    this.readout.setAttribute("aria-live", "polite");
    const name = make("div", { className: "name" }, make("b", { textContent: title }), make("span", { textContent: about }), this.readout);
    this.element = make("div", { className: "picture", id: `picture-${face}` }, name, this.view);
    this.element.dataset.group = face;
    this.watch();
  }

  watch() {
    const at = (event) => {
      const box = this.view.getBoundingClientRect();
      const row = Math.floor(((event.clientY - box.top) / box.height) * this.rows);
      this.point(Math.floor(timeline.at(event, this.view) / this.seconds), Math.min(this.rows - 1, Math.max(0, row)));
    };
    this.view.addEventListener("pointermove", at);
    this.view.addEventListener("pointerdown", at);
    this.view.addEventListener("pointerleave", () => { if (document.activeElement !== this.view) this.point(null); });
    this.view.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!by) return;
      event.preventDefault();
      event.stopPropagation();
      const [column, row] = this.cursor ?? [Math.floor(timeline.from / this.seconds) - by[0], -by[1] * (by[1] > 0)];
      this.point(Math.min(this.columns - 1, Math.max(0, column + by[0])), Math.min(this.rows - 1, Math.max(0, row + by[1])));
      timeline.follow((this.cursor[0] + 0.5) * this.seconds);
    });
    watchZoom(this.view);
  }

  point(column, row) {
    this.cursor = column === null || column >= this.columns ? null : [column, row];
    this.readout.textContent = this.cursor ? this.told(column, row) : "";
    this.mark();
  }

  mark() {
    this.cell.hidden = !this.cursor;
    if (!this.cursor) return;
    const [column, row] = this.cursor, from = timeline.share(column * this.seconds);
    Object.assign(this.cell.style, { left: `${100 * from}%`, width: `${(100 * this.seconds) / timeline.span}%`, top: `${(100 * row) / this.rows}%`, height: `${100 / this.rows}%` });
  }

  draw() {
    const { canvas } = this, width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio)), height = Math.max(1, Math.round(canvas.clientHeight * devicePixelRatio));
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(this.whole, timeline.from / this.seconds, 0, timeline.span / this.seconds, this.rows, 0, 0, width, height);
    context.fillStyle = "#09081a"; // lines between chunks
    for (let chunk = Math.ceil(timeline.from / this.chunk); chunk * this.chunk < timeline.to; chunk++) {
      context.fillRect(Math.round(timeline.share(chunk * this.chunk) * width), 0, Math.max(1, devicePixelRatio), height);
    }
    this.mark();
  }
}

/** Codes and latents of a whole .duo. */
async function values(duo, chunks) {
  const parts = [];
  for (let start = 0; start < chunks; start += PAGE) parts.push(await (await post("/v1/values", duo, { start, chunks: PAGE })).json());
  const [first] = parts;
  if (first.codes) first.codes.values = first.codes.values.map((_, k) => parts.flatMap(({ codes }) => codes.values[k]));
  if (first.latents) first.latents.values = parts.flatMap(({ latents }) => latents.values);
  return { ...first, chunks };
}

const inChunk = (column, each) => `chunk ${Math.floor(column / each) + 1}`;

function tokenPicture({ codes, latents, chunk_seconds: chunk, chunks }, info) {
  const books = codes.values.length, single = books === 1, { each, rows } = tokenGrid(books, codes.steps, latents?.columns);
  const place = (column, row) => (single ? Math.floor(column / each) * codes.steps + (column % each) * rows + row : column);
  const levels = (row) => (codes.digits ? codes.digits[single ? 0 : row % codes.sizes.length] : null);
  const token = (column, row) => codes.values[single ? 0 : row][place(column, row)];
  const unordered = info.codec.family === "codicodec" && single;
  return new Picture("tokens", {
    columns: chunks * each, rows, seconds: chunk / each, chunk, title: "Tokens",
    about: unordered ? `${codes.steps} a chunk of ${chunk.toFixed(2)} s; each describes the whole chunk` : `${codes.steps} steps a chunk of ${chunk.toFixed(2)} s, ${books} codebook${books > 1 ? "s" : ""}`,
    colour: (column, row) => tokenColour(token(column, row), levels(row)),
    told: (column, row) => {
      const number = token(column, row), own = levels(row), digits = own ? `, digits ${digitsOf(number, own).join(" ")}` : "";
      return `${inChunk(column, each)}, ${single ? `token ${place(column, row) % codes.steps + 1}` : `codebook ${row + 1}`}: ${number}${digits}`;
    },
  });
}

function latentPicture({ latents, chunk_seconds: chunk, chunks, kind }) {
  const { rows, columns: each } = latents;
  return new Picture("latents", {
    columns: chunks * each, rows, seconds: chunk / each, chunk, title: kind === "tokens" ? "Latents, rounded" : "Latents",
    about: `${each} vectors of ${rows} values a chunk`,
    colour: (column, row) => latentColour(latents.values[column][row]),
    told: (column, row) => `${inChunk(column, each)}, vector ${column % each + 1}, value ${row + 1}: ${latents.values[column][row].toFixed(2)}`,
  });
}

let pictures = [];

async function showPictures() {
  const opened = project.duos;
  const found = {};
  for (const [face, duo] of Object.entries(opened)) found[face] = await values(duo, project.info[face].chunks);
  if (opened !== project.duos) return; // another sound is open by now
  const codes = found.tokens?.codes ? "tokens" : "latents", latents = found.latents?.latents ? "latents" : "tokens";
  pictures = [
    ...(found[codes]?.codes ? [tokenPicture(found[codes], project.info[codes])] : []),
    ...(found[latents]?.latents ? [latentPicture(found[latents])] : []),
  ];
  $("pictures").replaceChildren(...pictures.map(({ element }) => element));
  draw();
  $("pictures").dataset.drawn = Object.keys(opened).join(" ");
}

function draw() { for (const picture of pictures) picture.draw(); }

/* ---- Figures and saving ---- */

function figure(value, told) { return make("div", { className: "figure" }, make("b", { textContent: value }), make("span", { textContent: told })); }

function showFigures() {
  const { tokens, latents } = project.info, one = tokens ?? latents, original = project.find("original");
  if (!one) return;
  const spec = one.codec, perSecond = (spec.steps * spec.codebooks.length * spec.rate) / spec.chunk;
  $("figures").replaceChildren(
    ...(tokens ? [
      figure(`${tokens.kbit_per_second.toFixed(2)} kbit/s`, "tokens, as the file has them"),
      figure(bytesText(tokens.bytes), `for ${project.seconds.toFixed(1)} s`),
      ...(original ? [figure(`${(original.bytes / tokens.bytes).toFixed(0)} : 1`, "smaller than 16-bit PCM")] : []),
      figure(`${perSecond.toFixed(1)} tokens/s`, `of ${spec.codebooks[0].toLocaleString("en")} kinds, ${spec.codebooks.length === 1 ? "one codebook" : `${spec.codebooks.length} codebooks`}`),
    ] : []),
    ...(latents ? [figure(bytesText(latents.bytes), "latents")] : []),
    figure(`${one.chunks} chunks`, `of ${(spec.chunk / spec.rate).toFixed(3)} s`),
  );
}

function saved(blob, name) {
  save(blob, name);
  say(`Saved ${name} (${bytesText(blob.size)}).`, "done");
}

const stem = () => project.name.replace(/\.[^.]{1,5}$/, "") || "sound";

function showSaving() {
  const button = (text, blob, name) => {
    const found = make("button", { type: "button", textContent: text });
    found.addEventListener("click", () => saved(blob(), name()));
    return found;
  };
  $("saving").replaceChildren(
    ...["tokens", "latents"].filter((face) => project.duos[face]).map((face) => (
      button(`Save the ${face} (.duo)`, () => project.duos[face], () => `${stem()}.${face}.duo`))),
    ...(project.versions.some(({ wav }) => wav) ? [button("Save what is heard (.wav)", heardWav, () => `${stem()}.${state.key}.wav`)] : []),
  );
}

function heardWav() { return (project.find(state.key)?.wav ? project.find(state.key) : project.versions.find(({ wav }) => wav)).wav; }

export function mountBits() {
  project.addEventListener("opened", () => {
    pictures = [];
    $("pictures").replaceChildren();
    delete $("pictures").dataset.drawn;
    $("figures").replaceChildren();
    $("bits").hidden = true;
  });
  project.addEventListener("version", ({ detail }) => {
    if (!Object.keys(project.duos).length) return;
    $("bits").hidden = false;
    showFigures();
    showSaving();
  });
  project.addEventListener("encoded", () => showPictures().catch((error) => say(error.message, "error")));
  timeline.addEventListener("window", draw);
  addEventListener("resize", draw);
}
