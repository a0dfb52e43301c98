// Which tags are wanted: the switch, and the numbers beside it.
import { $ } from "./dom.js";

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

const chosen = () => document.querySelector("input[name=decide]:checked").value;

/** Offer what the model can do. */
export function offer(model) {
  probabilities = model.probabilities;
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
  const found = { decide };
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
