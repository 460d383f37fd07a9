// Before anything is drawn: the scheme that was chosen last time.
const chosen = localStorage.getItem("theme");
if (chosen) document.documentElement.dataset.theme = chosen;
