// Light or dark: as the system says, or as was chosen in this browser. No module: it runs before the first
// paint, so that no wrong colours flash up.
"use strict";

function setTheme(chosen) {
  if (chosen === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
}

/** What this browser keeps under a name; null where it keeps nothing, or may not (private mode). */
function remembered(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch { /* it holds for this visit then */ }
}

setTheme(remembered("theme") ?? "auto");
document.addEventListener("DOMContentLoaded", () => {
  const switches = document.getElementById("theme");
  for (const one of switches.querySelectorAll("input")) one.checked = one.value === (remembered("theme") ?? "auto");
  switches.addEventListener("change", (event) => {
    setTheme(event.target.value);
    remember("theme", event.target.value);
  });
});
