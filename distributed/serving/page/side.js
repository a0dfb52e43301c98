// What stands beside the pictures: neighbours of a tag, search, a trial, drift.
import { $, bar, complain, element, figures, number, Scale } from "./dom.js";
import { tagButton } from "./cards.js";
import { vocabularyQuery } from "./options.js";
import { picture, strip } from "./pictures.js";
import { ask, latest } from "./scorer.js";

const COSINES = new Scale(true, []); // 0 to 1; what points away has no bar
COSINES.text = (cosine) => cosine.toFixed(2);
let cameFrom = null; // what had the focus when the neighbours were asked for

export function showNear(tag) {
  const before = document.activeElement;
  latest("near", ask(`v1/neighbours?limit=10&pictures=3&tag=${encodeURIComponent(tag)}`), (content) => {
    complain("");
    $("near-title").textContent = `Neighbours of ${content.tag}`;
    $("near-said").textContent = "Nearest first, by the cosine of the latents.";
    $("neighbours").replaceChildren(...content.neighbours.map(({ tag: other, score, image_ids: ids }) =>
      bar(tagButton(other, showNear), score, COSINES,
        ...(ids.length ? [strip(`pictures with ${other}`, ...ids.map((id) => picture(id)))] : []))));
    if (!$("near").contains(before)) cameFrom = before;
    $("near").classList.add("open"); // a sheet over the page where the screen is narrow
    $("near-title").focus({ preventScroll: true });
    $("side").scrollTop = 0;
  });
}

export function closeNear() {
  const hadFocus = $("near").contains(document.activeElement);
  $("near").classList.remove("open");
  if (hadFocus) cameFrom?.focus({ preventScroll: true });
}

export function search() {
  const query = `limit=20&prefix=${encodeURIComponent($("prefix").value)}${vocabularyQuery()}`;
  latest("search", ask(`v1/tags?${query}`), ({ tags }) => {
    $("search-said").textContent = tags.length ? "" : "No tag begins with that.";
    $("found").replaceChildren(...tags.map(({ tag, count, name, found_by: by }) => element("li", {},
      element("span", {}, tagButton(tag, showNear, name),
        ...(by && by !== name ? [element("span", { class: "quiet" }, ` also ${by}`)] : [])),
      element("span", { class: "number" }, number(count)))));
  });
}

// Shares of many rows: a digit more than for a single probability.
const share = (value) => `${number(100 * value, 1)}%`;

export function showTrial({ state, mode, model: tried, share: part, refused, compared, failed, dropped, live }) {
  $("trial").hidden = state === "off";
  $("trial-said").textContent = {
    off: "", loading: `The ${mode} is being loaded.`, ended: `The ${mode} has ended: it is the version that answers.`,
    refused: `The ${mode} was refused: ${refused}`,
    running: mode === "canary" ? `Canary ${tried} answers ${share(part)} of the requests.`
      : `Shadow ${tried} answers nobody; it scores what ${live} has answered.`,
  }[state] + (state === "running" && refused ? ` A newer one was refused: ${refused}` : "");
  const pair = (one, two, show) => one == null || two == null ? null : `${show(two)} (live ${show(one)})`;
  const c = compared ?? {};
  figures("trial-figures", state !== "running" ? [] : [
    ["rows compared", number(c.rows ?? 0)],
    ["tags in common", c.agreement == null ? null : share(c.agreement)],
    ["first tag the same", c.same_first == null ? null : share(c.same_first)],
    ["probabilities differ by", c.score_gap == null ? null : number(c.score_gap, 3)],
    ["probability of the first tag", pair(c.live_score, c.trial_score, (score) => number(score, 3))],
    ["ms a row", pair(c.live_ms, c.trial_ms, (ms) => number(ms, 3))],
    ["rows that it failed on", failed ? number(failed) : null],
    ["rows without time to compare", dropped ? number(dropped) : null],
  ]);
}

export function showDrift({ rows, unseen, expected_unseen: expected, tags_index: index, moved }) {
  $("drift").hidden = unseen == null && index == null;
  figures("drift-figures", [
    ["rows looked at", number(rows)],
    ["look like none of training", unseen == null ? null : `${share(unseen)} (${share(expected)} is usual)`],
    ["tags have moved by", index == null ? null : `${number(index)} (from .25: much)`],
    ...(index > 0.1 ? moved : []).slice(0, 5).map(({ tag, share: now, training }) =>
      [tag, `${share(now)} (training ${share(training)})`]),
  ]);
}
