// Which tags are wanted: the switch, and the numbers beside it.
import { $, element } from "./dom.js";

const SAID = {
  top: "The tags with the highest probability. Right most often.",
  macro: "The tags that together find rare ones too (expected macro F1). A rare tag may stand before a common one "
    + "that is more probable.",
  threshold: "As many tags as each picture deserves, perhaps none. A precision asks that this share of all said tags "
    + "is right.",
};
const SCORES = "This model gives scores, not probabilities: it can say the highest ones only. "
  + "Bars go from the lowest to the highest score that is shown.";
let probabilities = true;
let language = null; // of display names: the browser's first that the vocabulary has

/** The browser's first language that is one of these; de-AT is content with de. */
function known(languages) {
  for (const wish of navigator.languages) {
    for (let one = wish.toLowerCase(); one; one = one.slice(0, Math.max(one.lastIndexOf("-"), 0))) {
      if (languages.includes(one)) return one;
    }
  }
  return null;
}

/** The query of tags: those of the chosen group, and their names as the browser's user reads them. */
export function vocabularyQuery() {
  const { group, lang } = wantedVocabulary();
  return (group ? `&group=${encodeURIComponent(group)}` : "") + (lang ? `&lang=${encodeURIComponent(lang)}` : "");
}

function wantedVocabulary() {
  return { ...($("group").value ? { group: $("group").value } : {}), ...(language ? { lang: language } : {}) };
}

const chosen = () => document.querySelector("input[name=decide]:checked").value;

/** Offer what the model can do. */
export function offer(model) {
  probabilities = model.probabilities;
  language = known(model.languages);
  const group = model.groups.includes($("group").value) ? $("group").value : "";
  $("group").replaceChildren(element("option", { value: "" }, "all tags"),
    ...model.groups.map((name) => element("option", { value: name }, name)));
  $("group").value = group;
  $("group-part").hidden = !model.groups.length;
  for (const one of document.querySelectorAll("input[name=decide]")) {
    one.disabled = !model.decisions.includes(one.value);
    if (one.checked && one.disabled) document.querySelector("input[name=decide][value=top]").checked = true;
  }
  $("threshold-unit").textContent = probabilities ? "%" : "(score)";
  refresh();
}

/** Show the numbers that belong to the chosen decision. */
export function refresh() {
  const decide = chosen();
  $("k-part").hidden = decide === "threshold"; // how many, the model says
  $("precision-part").hidden = decide !== "threshold";
  $("decide-said").textContent = probabilities ? SAID[decide] : SCORES;
}

export function choose(decide) {
  const one = document.querySelector(`input[name=decide][value=${decide}]`);
  if (one.disabled || one.checked) return;
  one.checked = true;
  one.dispatchEvent(new Event("change", { bubbles: true }));
}

/** The fields of a request. Mends numbers that cannot be meant. */
export function wanted() {
  const decide = chosen();
  const found = { decide, ...wantedVocabulary() };
  if (decide === "threshold") {
    const precision = $("precision").valueAsNumber;
    if (!Number.isNaN(precision)) found.precision = Math.min(Math.max(precision, 1), 100) / 100;
    $("precision").value = found.precision ? Number((100 * found.precision).toFixed(6)) : "";
  } else {
    found.k = Math.min(Math.max(Math.round($("k").valueAsNumber) || 5, 1), 1000);
    $("k").value = found.k;
  }
  const threshold = $("threshold").valueAsNumber;
  if (!Number.isNaN(threshold)) found.threshold = probabilities ? threshold / 100 : threshold;
  return found;
}
