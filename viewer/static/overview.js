// The overview: keys to walk, open, filter and judge; the grid fills in as a run commits.
import { follow, keys, noDialog, notice, send } from "./page.js";

const grid = document.getElementById("grid");
const place = "bluemask place " + location.search;
const cards = () => [...grid.querySelectorAll(".card")];
let at = -1;

function select(n, show = true) {
  const all = cards();
  if (!all.length) return;
  if (n >= all.length) return follow("a[rel=next]");
  if (n < 0) return at < 0 ? select(0) : follow("a[rel=prev]");
  all[at]?.classList.remove("on");
  at = n;
  all[at].classList.add("on");
  all[at].querySelector("a").focus({ preventScroll: true });
  if (show) all[at].scrollIntoView({ block: "nearest" });
  sessionStorage.setItem(place, all[at].dataset.id);
}

const words = { accept: "Accepted", reject: "Rejected", correct: "Needs correction" };

async function judge(verdict) {
  const card = cards()[at];
  if (!card) return notice("Choose an image first: j and k walk");
  try {
    const page = await (await fetch("/api/review/" + card.dataset.id)).json();
    await send("/api/review/" + card.dataset.id, { verdict, note: page.note, count: page.count });
    badge(card, verdict);
    notice(words[verdict] + ": " + card.querySelector(".file").title);
    select(Math.min(at + 1, cards().length - 1));
  } catch (error) {
    notice(error.message);
  }
}

async function undo() {
  const card = cards()[at];
  if (!card) return;
  try {
    const page = await (await fetch("/api/review/" + card.dataset.id)).json();
    const now = await send("/api/undo/" + card.dataset.id, { count: page.count });
    badge(card, now.state === "none" ? "" : now.state);
    notice("Taken back");
  } catch (error) {
    notice(error.message);
  }
}

function badge(card, state) {
  const box = card.querySelector(".badges");
  box.querySelector(".accept, .reject, .correct, .again")?.remove();
  if (!state) return;
  const mark = document.createElement("span");
  mark.className = "badge " + state;
  mark.textContent = words[state] || "Look again";
  box.prepend(mark);
}

const bound = {
  j: () => select(at + 1),
  k: () => select(at - 1),
  Enter: () => cards()[at]?.querySelector("a").click(),
  a: () => judge("accept"),
  r: () => judge("reject"),
  c: () => judge("correct"),
  z: undo,
  n: () => follow("a[rel=next]"),
  p: () => follow("a[rel=prev]"),
  "/": () => document.getElementById("name").focus(),
  u: () => {
    const now = new URLSearchParams(location.search);
    now.get("review") === "none" ? now.delete("review") : now.set("review", "none");
    now.delete("after");
    now.delete("before");
    location.search = now.toString();
  },
};
for (let n = 1; n < 10; n++) bound[n] = () => follow(`.facet[data-key="${n}"]`);
keys(bound, noDialog);

document.getElementById("sort").addEventListener("change", (event) => event.target.form.requestSubmit());
grid.addEventListener("focusin", (event) => {
  const n = cards().indexOf(event.target.closest(".card"));
  if (n >= 0 && n !== at) select(n, false);
});

const last = sessionStorage.getItem(place);
const known = cards().findIndex((card) => card.dataset.id === last);
if (known >= 0) select(known);

// While a run writes, the page is fetched again; only what it shows is exchanged, the place is kept.
async function pulse() {
  try {
    const now = await (await fetch("/api/pulse")).json();
    if (String(now.count) !== grid.dataset.pulse) await renew();
  } catch { /* the server was stopped: the page stays as it is */ }
  setTimeout(pulse, document.hidden ? 15000 : 2500);
}

async function renew() {
  const text = await (await fetch(location.href)).text();
  const fresh = new DOMParser().parseFromString(text, "text/html");
  const chosen = cards()[at]?.dataset.id;
  const old = new Map(cards().map((card) => [card.dataset.id, card]));
  for (const card of fresh.querySelectorAll(".card")) {
    const before = old.get(card.dataset.id);
    // a card that says the same is kept, so that nothing flickers
    if (before && before.innerHTML === card.innerHTML) card.replaceWith(before);
  }
  const focused = document.activeElement?.id;
  grid.replaceChildren(...fresh.getElementById("grid").children);
  grid.dataset.pulse = fresh.getElementById("grid").dataset.pulse;
  for (const part of [".results > .bar", ".filters ul"]) {
    const now = document.querySelectorAll(part);
    fresh.querySelectorAll(part).forEach((item, n) => now[n]?.replaceWith(item));
  }
  const note = document.querySelector(".results > .nothing");
  const noteNow = fresh.querySelector(".results > .nothing");
  if (note && !noteNow) note.remove();
  at = cards().findIndex((card) => card.dataset.id === chosen);
  cards()[at]?.classList.add("on");
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}
setTimeout(pulse, 1500);
