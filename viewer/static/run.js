// The run page: keys, and a look now and then whether something has changed.
import { keys, noDialog } from "./page.js";

keys({ u: () => (location.href = "/") }, noDialog);
const underWay = document.getElementById("under-way");
let seen = null;
async function pulse() {
  try {
    const now = await (await fetch("/api/pulse")).json();
    if (seen !== null && now.count !== seen && !document.getSelection().toString()) location.reload();
    seen = now.count;
    underWay.textContent = now.run ?? "";
    underWay.hidden = !now.run;
  } catch { /* the server was stopped */ }
  setTimeout(pulse, 4000);
}
pulse();
