// What keys do. Nothing while a field is typed into, and nothing at all where they are switched off.
import { $, element } from "./dom.js";
import * as options from "./options.js";
import { closeNear } from "./side.js";

/** Rows of the help: the keys, what they do, and the action with the card that has the focus. */
const KEYS = [
  [["?"], "this help", () => $("help").showModal()],
  [["o"], "choose pictures", () => $("file").click()],
  [["j", "ArrowRight"], "next picture", () => go(1)],
  [["k", "ArrowLeft"], "picture before", () => go(-1)],
  [["ArrowDown"], "next tag of the picture", () => step(1)],
  [["ArrowUp"], "tag before", () => step(-1)],
  [["a"], "accept the tag, or take that back", () => judge("add")],
  [["r"], "reject the tag, or take that back", () => judge("remove")],
  [["n"], "neighbours of the tag", () => $("grid").contains(document.activeElement) && rowInFocus()?.name.click()],
  [["m"], "similar pictures of training", () => cardInFocus()?.similar.querySelector("button")?.click()],
  [["t"], "type a further tag", () => cardInFocus()?.add.focus()],
  [["s"], "send the feedback of all pictures", () => $("send-all").hidden || $("send-all").click()],
  [["Delete"], "take the picture out", () => cardInFocus()?.actions.drop(cardInFocus())],
  [["1", "2", "3"], "most probable, rare tags too, all worth saying",
    (key) => options.choose({ 1: "top", 2: "macro", 3: "threshold" }[key])],
  [["/"], "find tags", () => $("prefix").focus()],
  [["x"], "stop, or go on", () => $($("stop").hidden ? "go-on" : "stop").click()],
  [["Escape"], "leave a field, close the neighbours or this help", leave],
];
const SHOWN = { ArrowRight: "→", ArrowLeft: "←", ArrowDown: "↓", ArrowUp: "↑", Escape: "Esc" };

const cards = () => [...$("grid").children].map((li) => li.card);
const cardInFocus = () => document.activeElement.closest("#grid > li")?.card;

function rowInFocus() {
  const card = cardInFocus();
  return card?.rows.find(({ row }) => row.contains(document.activeElement));
}

function enter(card) {
  (card?.rows[0]?.name ?? card?.name)?.focus({ preventScroll: true });
  card?.li.scrollIntoView({ block: "nearest" });
}

/** To the next card, or the one before; from elsewhere to the first. */
function go(by) {
  const all = cards();
  const at = all.indexOf(cardInFocus());
  enter(all[at < 0 ? 0 : Math.min(Math.max(at + by, 0), all.length - 1)]);
}

function step(by) {
  const card = cardInFocus();
  if (!card) return;
  const at = card.rows.indexOf(rowInFocus());
  card.rows[Math.min(Math.max(at + by, 0), card.rows.length - 1)]?.name.focus();
}

/** Judge the tag in focus, and go to the next one. */
function judge(kind) {
  const found = rowInFocus();
  if (!found) return;
  found.judges.find((one) => one.kind === kind).made.click();
  step(1);
}

const isField = (target) => target.matches("textarea, select, input:not([type=radio], [type=checkbox], [type=file])");

function leave() {
  if (isField(document.activeElement)) document.activeElement.blur();
  else closeNear();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const target = event.target;
  const isEscape = event.key === "Escape";
  const isArrow = event.key.startsWith("Arrow");
  if (isArrow && !cardInFocus()) return; // they scroll, and move in the switches
  if (isField(target) && !isEscape) return;
  if ($("help").open || !(isEscape || isArrow || $("keys-on").checked)) return;
  const found = KEYS.find(([keys]) => keys.includes(event.key.length === 1 ? event.key.toLowerCase() : event.key));
  if (!found) return;
  if (!isEscape) event.preventDefault();
  found[2](event.key);
}

export function listen() {
  $("keys").replaceChildren(...KEYS.map(([keys, words]) => element("div", {},
    element("dt", {}, ...keys.flatMap((key, at) => [at ? " " : "", element("kbd", {}, SHOWN[key] ?? key)])),
    element("dd", {}, words))));
  $("keys-on").checked = globalThis.remembered("keys") !== "off";
  $("keys-on").addEventListener("change", () => globalThis.remember("keys", $("keys-on").checked ? "on" : "off"));
  $("open-help").addEventListener("click", () => $("help").showModal());
  document.addEventListener("keydown", onKey);
}
