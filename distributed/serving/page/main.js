// The page: what comes in, the grid with its toolbar, the model that answers.
import { Card, sendFeedback } from "./cards.js";
import { $, button, complain, count, element, number, Scale } from "./dom.js";
import { Item, pastedItem } from "./items.js";
import * as keys from "./keys.js";
import * as options from "./options.js";
import { picture } from "./pictures.js";
import { Queue } from "./queue.js";
import { csvOf, plainResults, save } from "./results.js";
import { ask, latest } from "./scorer.js";
import { closeNear, search, showDrift, showNear, showTrial } from "./side.js";

const MOST = 1000; // pictures at a time: more is work for jobs.annotate
let model = null; // what GET v1/model said last
const cards = new Map(); // of each item
const queue = new Queue({ wanted: options.wanted, changed: itemChanged, failed: (error) => complain(error.message) });

// The grid

const scoresShown = () => queue.items.flatMap(({ tags }) => (tags ?? []).map(({ score }) => score));
const scale = () => new Scale(model?.probabilities ?? true, scoresShown());
const actions = {
  showNear, drop: (card) => take([card]), changed: showToolbar, scale, hasSimilar: () => model?.pictures,
};
let last = scale();

/** Bars of all cards, where lower or higher scores have come. */
function rescale() {
  const now = scale();
  if (now.low === last.low && now.high === last.high) return;
  last = now;
  for (const card of cards.values()) card.rescale(now);
}

/** Put items before all others, and annotate them. */
function add(items) {
  const taken = items.slice(0, Math.max(MOST - queue.items.length, 0));
  const left = items.length - taken.length;
  complain(left ? `This page holds ${number(MOST)} pictures; ${number(left)} were left out. Clear it first, or `
    + "annotate many by python -m jobs.annotate." : "");
  queue.items.unshift(...taken);
  for (const item of taken) cards.set(item, new Card(item, actions));
  $("grid").prepend(...taken.map((item) => cards.get(item).li));
  if (taken.length) cards.get(taken[0]).li.scrollIntoView({ block: "nearest" });
  showToolbar();
  queue.run();
}

/** The same example or features are shown once. */
function addOnce(item) {
  const known = queue.items.find(({ id }) => id === item.id);
  if (!known) return add([item]);
  cards.get(known).name.focus();
  cards.get(known).li.scrollIntoView({ block: "nearest" });
  if (known.state === "failed") queue.again([known]);
}

/** Take cards out of the grid. */
function take(gone) {
  const had = gone.find(({ li }) => li.contains(document.activeElement));
  const next = had?.li.nextElementSibling ?? had?.li.previousElementSibling;
  for (const card of gone) {
    queue.items.splice(queue.items.indexOf(card.item), 1);
    cards.delete(card.item);
    card.close();
  }
  showToolbar();
  if (had) (next?.isConnected ? next.card.name : $("result-title")).focus(); // what had the focus is gone
}

function itemChanged(item) {
  if (item) {
    cards.get(item)?.show();
    if (item.state === "done" && !model?.probabilities) rescale();
  }
  showToolbar();
}

const unsentItems = () => queue.items.filter(({ sent }) => !sent);

function showToolbar() {
  const { items } = queue;
  const [waiting, working, failed] = ["waiting", "working", "failed"].map((state) => queue.with(state).length);
  const unsent = unsentItems().length;
  $("toolbar").hidden = !items.length;
  $("empty").hidden = items.length > 0;
  $("drop").classList.toggle("small", items.length > 0);
  $("stop").hidden = $("progress").hidden = !queue.running;
  $("go-on").hidden = Boolean(queue.running) || !waiting;
  $("retry").hidden = Boolean(queue.running) || !failed;
  $("send-all").hidden = !unsent;
  $("send-all").textContent = `send feedback of ${count(unsent, "picture")}`;
  $("progress").max = items.length;
  $("progress").value = items.length - waiting - working;
  const versions = [...new Set(items.map(({ version }) => version).filter(Boolean))];
  const by = versions.length ? ` by version ${versions.join(", ")}` : "";
  const faults = failed ? `, ${number(failed)} failed` : "";
  const rest = waiting ? `, ${number(waiting)} not yet` : "";
  const progress = `${number(items.length - waiting - working)} of ${number(items.length)}${faults}`;
  const result = `${number(items.length - failed - waiting)} annotated${by}${faults}${rest}`;
  const said = queue.waitsFor || (queue.running ? progress : result);
  if ($("said").textContent !== said) $("said").textContent = said;
}

function download(kind) {
  const results = plainResults(queue.items);
  const name = `tags-${new Date().toISOString().slice(0, 19).replaceAll(":", "-")}.${kind}`;
  if (kind === "csv") return save(name, "text/csv", csvOf(results));
  save(name, "application/json", `${JSON.stringify({ ...options.wanted(), results }, null, 1)}\n`);
}

// What to annotate

function addFiles(files) {
  const list = [...files ?? []];
  if (!list.length) return;
  if (!model?.takes.includes("images")) return complain("This model takes no pictures, only features.");
  add(list.map((file) => new Item({ label: file.name, file })));
}

function addPasted(event) {
  event.preventDefault();
  complain("");
  pastedItem($("features").value).then(addOnce, (error) => complain(error.message));
}

function example(id, own, action) {
  const made = button({ title: own.join(", ") }, id, action);
  if (model.pictures) made.prepend(picture(id, { title: own.join(", "), alt: "" })); // its name stands below
  return made;
}

function showExamples({ examples }) {
  $("examples-part").hidden = !examples.length;
  $("examples").replaceChildren(...examples.map(({ image_id: id, features, tags: own }) =>
    element("li", {}, example(id, own, () => addOnce(new Item({ id, label: id, features, own }))))));
}

// The model

async function poll() {
  await look();
  setTimeout(poll, 10000);
}

function look() {
  latest("trial", ask("v1/trial"), showTrial, () => {});
  latest("drift", ask("v1/drift"), showDrift, () => {});
  return latest("model", ask("v1/model"), showModel, (error) => { $("state").textContent = error.message; });
}

function useToken(event) {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value.trim());
  $("token").value = "";
  $("token-form").hidden = true;
  complain("");
  look().then(() => queue.run());
}

function showModel(now) {
  const swapped = model?.version !== now.version;
  if (swapped && model) $("state").textContent = `took the place of ${model.version}`;
  else $("state").textContent = now.refused ? `a newer bundle was refused: ${now.refused}` : "";
  const first = model === null;
  model = now;
  queue.limits = now.limits;
  $("version").textContent = now.version;
  $("method").textContent = now.method;
  $("tags").textContent = number(now.tags);
  const parts = now.columns.map(({ name, D }) => `${name} ${D}`).join(", ");
  $("dim").textContent = $("features-dim").textContent = now.columns.length > 1 ? `${now.D} (${parts})` : now.D;
  const takesPictures = now.takes.includes("images");
  $("drop").hidden = !takesPictures;
  $("features-only").hidden = takesPictures;
  $("numbers").hidden = !now.takes.includes("features");
  if (first) $("numbers").open = !takesPictures;
  options.offer(now);
  if (!swapped) return;
  latest("examples", ask("v1/examples?limit=12"), showExamples);
  search();
}

// Events

for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault(); // a drop beside the field must not leave the page
    $("drop").classList.toggle("over", name === "dragenter" || name === "dragover");
    if (name === "drop") addFiles(event.dataTransfer.files);
  });
}
document.addEventListener("paste", (event) => addFiles(event.clipboardData?.files));
$("file").addEventListener("change", () => {
  addFiles($("file").files);
  $("file").value = ""; // so that the same file may be chosen again
});
$("token-form").addEventListener("submit", useToken);
$("features-form").addEventListener("submit", addPasted);
$("features").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) addPasted(event);
});
$("options").addEventListener("submit", (event) => event.preventDefault());
$("options").addEventListener("change", () => {
  options.refresh();
  options.wanted(); // mends the numbers
  search(); // of the chosen group
  complain("");
  if (queue.items.length) queue.again(queue.items.filter(({ state }) => state !== "failed"));
});
$("stop").addEventListener("click", () => queue.stop());
$("go-on").addEventListener("click", () => {
  complain("");
  queue.run();
});
$("retry").addEventListener("click", () => queue.again(queue.with("failed")));
$("send-all").addEventListener("click", () => sendFeedback([...cards.values()].filter(({ item }) => !item.sent)));
$("csv").addEventListener("click", () => download("csv"));
$("json").addEventListener("click", () => download("json"));
$("clear").addEventListener("click", () => {
  const unsent = unsentItems().length;
  if (unsent && !confirm(`The feedback of ${count(unsent, "picture")} was not sent. Clear all the same?`)) return;
  queue.stop();
  take([...cards.values()]);
});
$("near-close").addEventListener("click", closeNear);
$("prefix").addEventListener("input", search);
$("search-form").addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("beforeunload", (event) => { if (unsentItems().length) event.preventDefault(); });
keys.listen();
options.refresh();
poll();
