// Correction by brush, or by points that go to SAM and come back as a mask.
import { keys, notice, send } from "./page.js";
import { asker, verdict } from "./values.js";

const at = (id) => document.getElementById(id);
const editor = at("editor"), stage = at("stage"), sheet = stage.firstElementChild;
const UNDO_BYTES = 200e6, UNKNOWN = 255;
let state = null;

async function unpacked(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function packed(array) {
  const stream = new Blob([array]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

/** data: of the page; note: kept with the correction; saved: called when it is kept. */
export async function openEditor(data, note, saved) {
  const bytes = await (await fetch("/api/label/" + data.id)).arrayBuffer();
  const label = await unpacked(bytes);
  state = {
    data, note, saved, label, width: data.width, height: data.height, zoom: 1, tool: "brush", size: 8,
    k: data.slots[0].class || 1, cursor: [data.width >> 1, data.height >> 1], undo: [], points: [], masks: [], choice: 0,
    asked: 0, changed: false,
  };
  at("edit-image").src = `/panel/${data.id}/image.png?v=${data.version}`;
  for (const id of ["mask", "proposal"]) {
    at(id).width = data.width;
    at(id).height = data.height;
  }
  editor.showModal();
  chooseTool("brush");
  chooseClass(state.k);
  chooseSize(Math.max(2, Math.round(Math.max(data.width, data.height) / 40)));
  resize();
  paint();
  state.read = asker(data, () => data.slots[0].slot, (v) => (at("edit-under").textContent = `${v.x}, ${v.y}: ${verdict(data, v)}`));
  read("polite");
  stage.focus();
  // SAM is loaded and the embedding read while one looks for the place
  send("/api/click/" + data.id, { points: [[state.cursor[0], state.cursor[1], 1]] }).catch(() => {});
}

function resize() {
  const fit = Math.min((stage.clientWidth - 24) / state.width, (stage.clientHeight - 24) / state.height);
  sheet.style.width = state.width * fit * state.zoom + "px";
  sheet.style.height = state.height * fit * state.zoom + "px";
}
addEventListener("resize", () => state && editor.open && resize());

// -- drawing --------------------------------------------------------------------------------------

const rgb = (code) => [1, 3, 5].map((n) => parseInt(code.slice(n, n + 2), 16));

function colours() {
  const table = new Uint32Array(256);
  state.data.colours.forEach((code, n) => {
    const [r, g, b] = rgb(code);
    table[n + 1] = (255 << 24) | (b << 16) | (g << 8) | r;
  });
  table[UNKNOWN] = (255 << 24) | (150 << 16) | (150 << 8) | 150;
  return table;
}

function paint() {
  const table = colours();
  const picture = new ImageData(state.width, state.height);
  const pixels = new Uint32Array(picture.data.buffer);
  for (let n = 0; n < pixels.length; n++) pixels[n] = table[state.label[n]];
  at("mask").getContext("2d").putImageData(picture, 0, 0);
  overlay();
}

/** SAM's proposal, the points, and the cursor. */
function overlay() {
  const context = at("proposal").getContext("2d");
  context.clearRect(0, 0, state.width, state.height);
  const mask = state.masks[state.choice];
  if (mask) {
    const picture = new ImageData(state.width, state.height);
    const pixels = new Uint32Array(picture.data.buffer);
    const ink = colours()[state.k] || 0xffffffff;
    for (let n = 0; n < pixels.length; n++) if (mask[n] && (n + ((n / state.width) | 0)) % 3) pixels[n] = ink;
    context.putImageData(picture, 0, 0);
  }
  const grain = Math.max(0.75, Math.max(state.width, state.height) / 260);
  for (const [x, y, on] of state.points) {
    context.beginPath();
    context.arc(x + 0.5, y + 0.5, 1.8 * grain, 0, 7);
    context.fillStyle = on ? "#fff" : "#1b1f24";
    context.strokeStyle = on ? "#1b1f24" : "#fff";
    context.lineWidth = 0.8 * grain;
    context.fill();
    context.stroke();
  }
  const [x, y] = state.cursor;
  const radius = state.tool === "sam" ? 2.2 * grain : state.size / 2;
  for (const [ink, wide] of [["#000", 1.4], ["#fff", 0.7]]) {
    context.strokeStyle = ink;
    context.lineWidth = wide * grain;
    context.beginPath();
    context.arc(x + 0.5, y + 0.5, radius, 0, 7);
    context.stroke();
  }
}

/** Tell what the label was here, and how sure; live: how a screen reader takes it, "polite" where a key moved the cursor. */
function read(live) {
  at("edit-under").setAttribute("aria-live", live);
  state.read(...state.cursor);
}

function remember() {
  state.undo.push(state.label.slice());
  while (state.undo.length * state.label.length > UNDO_BYTES || state.undo.length > 60) state.undo.shift();
  state.changed = true;
}

function stamp(x, y) {
  const value = state.tool === "erase" ? 0 : state.k;
  const reach = state.size / 2;
  const top = Math.max(0, Math.ceil(y - reach)), bottom = Math.min(state.height - 1, Math.floor(y + reach));
  for (let row = top; row <= bottom; row++) {
    const half = Math.sqrt(Math.max(0, reach * reach - (row - y) ** 2));
    const left = Math.max(0, Math.ceil(x - half)), right = Math.min(state.width - 1, Math.floor(x + half));
    if (right >= left) state.label.fill(value, row * state.width + left, row * state.width + right + 1);
  }
}

function stroke([x0, y0], [x1, y1]) {
  const steps = Math.max(1, Math.ceil(Math.hypot(x1 - x0, y1 - y0) / Math.max(1, state.size / 4)));
  for (let n = 0; n <= steps; n++) stamp(x0 + ((x1 - x0) * n) / steps, y0 + ((y1 - y0) * n) / steps);
}

// -- SAM ------------------------------------------------------------------------------------------

async function ask(x, y, on) {
  state.points.push([x, y, on ? 1 : 0]);
  overlay();
  if (!state.points.some((point) => point[2])) return hint("SAM needs a point on the defect first");
  const turn = ++state.asked, started = performance.now();
  try {
    const answer = await send("/api/click/" + state.data.id, { points: state.points });
    if (turn !== state.asked) return;
    state.masks = await Promise.all(answer.masks.map((text) => unpacked(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)))));
    state.choice = 0;
    overlay();
    const more = state.masks.length > 1 ? `; m shows another of ${state.masks.length}` : "";
    hint(`SAM answered in ${Math.round(performance.now() - started)} ms, IoU ${answer.iou[0].toFixed(2)}: f takes it${more}`);
    editor.dataset.answered = turn;
  } catch (error) {
    notice(error.message);
  }
}

function take() {
  const mask = state.masks[state.choice];
  if (!mask) return;
  remember();
  for (let n = 0; n < mask.length; n++) if (mask[n]) state.label[n] = state.k;
  forget();
  paint();
  hint("Taken: " + named());
}

function forget() {
  state.points = [];
  state.masks = [];
  state.asked++;
}

// -- choices --------------------------------------------------------------------------------------

const named = () => (state.k === UNKNOWN ? "ignore" : state.data.classes[state.k - 1]);
const hint = (text) => (at("hint").textContent = text);
const hints = {
  brush: "Drag to paint; arrows and space do the same. Background is what is not painted.",
  erase: "Drag to turn into background.",
  sam: "Click on the defect; shift-click beside it. Several points narrow it down.",
};

function chooseTool(tool) {
  state.tool = tool;
  for (const button of editor.querySelectorAll("[data-tool]"))
    button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
  hint(hints[tool]);
  overlay();
}

function chooseClass(k) {
  if (k !== UNKNOWN && !state.data.classes[k - 1]) return;
  state.k = k;
  for (const button of editor.querySelectorAll("[data-class]"))
    button.setAttribute("aria-pressed", String(Number(button.dataset.class) === k));
  if (state.tool === "erase") chooseTool("brush");
  overlay();
}

function chooseSize(size) {
  state.size = Math.min(80, Math.max(1, size));
  at("size").value = state.size;
  at("size-text").textContent = state.size;
  overlay();
}

function undo() {
  if (state.points.length) {
    forget();
    overlay();
  } else if (state.undo.length) {
    state.label = state.undo.pop();
    paint();
  }
}

async function save() {
  if (state.masks.length) take();
  const where = `/api/correct/${state.data.id}?count=${state.data.review.count}&note=${encodeURIComponent(state.note)}`;
  try {
    await send(where, await packed(state.label), "application/octet-stream");
    state.changed = false;
    editor.close();
    notice("Kept: this mask now stands in P's place");
    state.saved();
  } catch (error) {
    notice(error.message);
  }
}

function leave() {
  if (state.changed && !confirm("Leave without keeping the correction?")) return;
  editor.close();
}

function zoom(factor) {
  state.zoom = Math.min(16, Math.max(1, state.zoom * factor));
  resize();
}

// -- pointer and keys -----------------------------------------------------------------------------

function where(event) {
  const box = sheet.getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * state.width);
  const y = Math.floor(((event.clientY - box.top) / box.height) * state.height);
  return [Math.min(state.width - 1, Math.max(0, x)), Math.min(state.height - 1, Math.max(0, y))];
}

let drawing = null;
at("proposal").addEventListener("pointerdown", (event) => {
  event.preventDefault();
  stage.focus();
  state.cursor = where(event);
  read("off");
  if (state.tool === "sam") return ask(...state.cursor, !event.shiftKey && event.button === 0);
  remember();
  drawing = state.cursor;
  at("proposal").setPointerCapture(event.pointerId);
  stamp(...drawing);
  paint();
});
at("proposal").addEventListener("pointermove", (event) => {
  const before = state.cursor;
  state.cursor = where(event);
  if (drawing) {
    stroke(before, state.cursor);
    paint();
  } else overlay();
  read("off");
});
at("proposal").addEventListener("pointerup", () => (drawing = null));
at("proposal").addEventListener("contextmenu", (event) => event.preventDefault());

function step(event, x, y) {
  const far = event.shiftKey ? 10 : 1;
  const before = state.cursor;
  state.cursor = [Math.min(state.width - 1, Math.max(0, before[0] + x * far)), Math.min(state.height - 1, Math.max(0, before[1] + y * far))];
  overlay();
  read("polite");
}

function act(event) {
  if (state.tool === "sam") return ask(...state.cursor, !event.shiftKey);
  remember();
  stamp(...state.cursor);
  paint();
}

const bound = {
  b: () => chooseTool("brush"), x: () => chooseTool("erase"), s: () => chooseTool("sam"),
  "[": () => chooseSize(state.size - 1), "]": () => chooseSize(state.size + 1), z: undo, f: take,
  m: () => { state.choice = (state.choice + 1) % Math.max(1, state.masks.length); overlay(); },
  "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4),
  0: () => chooseClass(UNKNOWN), Enter: save, " ": act,
  ArrowLeft: (event) => step(event, -1, 0), ArrowRight: (event) => step(event, 1, 0),
  ArrowUp: (event) => step(event, 0, -1), ArrowDown: (event) => step(event, 0, 1),
};
for (let n = 1; n < 10; n++) bound[n] = () => chooseClass(n);
keys(bound, () => editor.open);
editor.addEventListener("cancel", (event) => {
  event.preventDefault();
  leave();
});
for (const button of editor.querySelectorAll("[data-tool]"))
  button.addEventListener("click", () => chooseTool(button.dataset.tool));
for (const button of editor.querySelectorAll("[data-class]"))
  button.addEventListener("click", () => chooseClass(Number(button.dataset.class)));
at("size").addEventListener("input", (event) => chooseSize(Number(event.target.value)));
at("edit-undo").addEventListener("click", undo);
at("edit-cancel").addEventListener("click", leave);
at("edit-save").addEventListener("click", save);
