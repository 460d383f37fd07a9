// The image page: one zoom and pan for every panel, values under the pointer, review by key.
import { openEditor } from "./editor.js";
import { follow, keys, noDialog, notice, send } from "./page.js";
import { Panels } from "./panels.js";
import { asker, className, percent, verdict } from "./values.js";

const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);

// -- review ---------------------------------------------------------------------------------------

const words = { accept: "Accepted", reject: "Rejected", correct: "Needs correction", again: "The label changed: look again" };

function showReview(review) {
  data.review = review;
  at("verdict").textContent = review.state === "none" ? "" : words[review.state];
  at("verdict").className = "badge " + review.state;
  for (const button of document.querySelectorAll("[data-verdict]"))
    button.setAttribute("aria-pressed", String(review.state === button.dataset.verdict));
  if (document.activeElement !== at("note")) at("note").value = review.note;
  at("undo").disabled = !review.undo;
  const what = review.mask ? "Corrected" : review.verdict ? "Judged" : "Noted";
  at("reviewed").textContent = review.made
    ? `${what} ${review.made.slice(0, 16).replace("T", " ")} UTC, by ${review.source}` : "Nobody has looked at it yet.";
}

async function change(path, body, said) {
  try {
    const had = data.review.mask;
    showReview(await send(path + data.id, { ...body, count: data.review.count }));
    notice(said);
    if (had !== data.review.mask) location.reload();
  } catch (error) {
    notice(error.message);
  }
}

const judge = (verdict) => change("/api/review/", { verdict, note: at("note").value }, words[verdict]);
const undo = () => change("/api/undo/", {}, "Taken back");
const edit = () => openEditor(data, at("note").value, () => location.reload());

if (data.ready) {
  showReview(data.review);
  for (const button of document.querySelectorAll("[data-verdict]"))
    button.addEventListener("click", () => judge(button.dataset.verdict));
  at("undo").addEventListener("click", undo);
  at("edit").addEventListener("click", edit);
  at("note").addEventListener("change", () =>
    change("/api/review/", { verdict: data.review.verdict, note: at("note").value }, "Note kept"));
  at("note").addEventListener("keydown", (event) => {
    if (event.key === "Escape") event.target.blur();
  });
}

// -- panels ---------------------------------------------------------------------------------------

const strip = at("strip");
const readValues = asker(data, () => slot, showValues);
const panels = data.ready ? new Panels(strip, data, showZoom, readValues) : null;
let slot = data.ready ? data.slots[0].slot : 0;

function showZoom(zoom) {
  at("zoom").textContent = zoom === 1 ? "fit" : `${zoom.toFixed(zoom < 10 ? 1 : 0)}×`;
}

function showValues(v) {
  const parts = [["x, y", `${v.x}, ${v.y}`], ["P", className(data, v.class)], ["confidence", percent(v.confidence)],
    ["P1", className(data, v.p1)], ["P2", className(data, v.p2)], ["mean", v.mean.toFixed(2)],
    ["entropy", v.entropy.toFixed(2)], ["CAM", v.cam.toFixed(2)]];
  if (v.mark !== 255) parts.splice(1, 0, ["marked", className(data, v.mark)]);
  if (v.correction !== undefined) parts.splice(1, 0, ["by hand", className(data, v.correction)]);
  at("under").replaceChildren(...parts.flatMap(([name, value]) => {
    const strong = document.createElement("b");
    strong.textContent = value;
    return [name + " ", strong, "  "];
  }));
  panels.tell(`${verdict(data, v)} · ${v.x}, ${v.y}`);
}

/** Hold the place under the pointer, or the middle, or let go of it; arrows then move it. */
function holdByKey(on) {
  at("under").setAttribute("aria-live", on ? "polite" : "off");
  if (on) panels.holdHere(document.activeElement?.closest(".panel")?.dataset.name);
  else panels.release();
}

function chooseSlot(n) {
  const chosen = data.slots?.[n];
  if (!chosen) return;
  slot = chosen.slot;
  panels.show(slot);
  if (panels.held) readValues(...panels.held);
  for (const button of document.querySelectorAll(".slot"))
    button.setAttribute("aria-pressed", String(Number(button.dataset.slot) === slot));
}

if (panels) {
  panels.show(slot);
  at("in").addEventListener("click", () => panels.scale(1.5));
  at("out").addEventListener("click", () => panels.scale(1 / 1.5));
  at("fit").addEventListener("click", () => panels.fit());
  at("opacity").addEventListener("input", (event) => strip.style.setProperty("--over", event.target.value / 100));
  at("large").addEventListener("change", large);
  document.querySelectorAll(".slot").forEach((button, n) => button.addEventListener("click", () => chooseSlot(n)));
  if (localStorage.getItem("large")) { at("large").checked = true; large(); }
}

function large() {
  strip.classList.toggle("large", at("large").checked);
  localStorage.setItem("large", at("large").checked ? "1" : "");
  panels.place();
}

let hidden = false;

function toggleOverlay() {
  hidden = !hidden;
  strip.style.setProperty("--over", hidden ? 0 : at("opacity").value / 100);
}

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      notice("Copied " + button.dataset.copy.slice(0, 60));
    } catch {
      notice("This browser does not let pages copy: " + button.dataset.copy);
    }
  });
}

// -- keys -----------------------------------------------------------------------------------------

const moved = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const bound = { j: () => follow("a[rel=next]"), k: () => follow("a[rel=prev]"), u: () => at("up").click() };
if (panels) {
  Object.assign(bound, {
    a: () => judge("accept"), r: () => judge("reject"), c: () => judge("correct"), z: undo, e: edit,
    n: () => at("note").focus(), o: toggleOverlay,
    l: () => at("large").click(), v: () => holdByKey(!panels.held), Escape: () => holdByKey(false),
    "+": () => panels.scale(1.5), "=": () => panels.scale(1.5), "-": () => panels.scale(1 / 1.5), 0: () => panels.fit(),
  });
  for (let n = 1; n < 10; n++) bound[n] = () => chooseSlot(n - 1);
}
keys(bound, noDialog);
document.addEventListener("keydown", (event) => {
  const step = moved[event.key];
  if (!step || !panels || !noDialog() || event.target.closest("input, textarea, select")) return;
  if (panels.held) panels.step(...step.map((n) => n * (event.shiftKey ? 10 : 1)));
  else if (panels.zoom > 1) panels.move(...step);
  else return;
  event.preventDefault();
});
