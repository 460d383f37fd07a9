// What every page shares: keys, notices, the scheme, and requests that change something.

const html = document.documentElement;
const noticeBox = document.getElementById("notice");
let noticeTimer = 0;

export function notice(text) {
  noticeBox.textContent = text;
  noticeBox.classList.add("on");
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => noticeBox.classList.remove("on"), 2600);
}

export async function send(path, body, type = "application/json") {
  const packed = type === "application/json" ? JSON.stringify(body) : body;
  const answer = await fetch(path, { method: "POST", body: packed, headers: { "content-type": type } });
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error || "it was refused");
  return value;
}

function toggleTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = html.dataset.theme || (dark ? "dark" : "light");
  html.dataset.theme = now === "dark" ? "light" : "dark";
  localStorage.setItem("theme", html.dataset.theme);
}

const help = document.getElementById("help");
const shared = { "?": () => help.showModal(), t: toggleTheme };

/** Bind keys; what is typed into a field, or held with another key, is left alone. */
export function keys(bound, active = () => true) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !active()) return;
    if (event.target.closest("input:not([type=range]):not([type=checkbox]), textarea, select")) return;
    const action = bound[event.key];
    if (!action) return;
    if (event.target.closest("a, button, summary") && (event.key === "Enter" || event.key === " ")) return;
    event.preventDefault();
    action(event);
  });
}

const noDialog = () => !document.querySelector("dialog[open]");
keys(shared, noDialog);
document.getElementById("theme").addEventListener("click", toggleTheme);
document.getElementById("keys").addEventListener("click", () => help.showModal());

export const follow = (selector) => document.querySelector(selector)?.click();
export { noDialog };
