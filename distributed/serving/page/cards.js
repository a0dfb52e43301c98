// The grid: a card for each item, with its tags and what a person says of them.
import { $, bar, button, complain, count, element } from "./dom.js";
import { picture, strip } from "./pictures.js";
import { ask, latest } from "./scorer.js";

const SHOWN = 10; // tags of a card before "show all"
const LONG = 60; // characters of a name that may be cut
const JUDGES = [["add", "accept", "yes", "✓"], ["remove", "reject", "no", "✕"]];

export class Card {
  /** actions: showNear(tag), drop(card), changed(card); scale(): of all cards; hasSimilar(). */
  constructor(item, actions) {
    Object.assign(this, { item, actions });
    this.rows = []; // {tag, row, judges}
    this.isWhole = false;
    this.name = element("h3", { title: item.label, tabindex: "-1" }, item.label);
    this.note = element("p", { class: "note quiet" });
    this.own = element("ul", { class: "chips", "aria-label": "its own tags" });
    this.list = element("ol", { class: "bars judged", "aria-label": `tags of ${item.label}` });
    this.more = button({ class: "name more-tags" }, "", () => {
      this.isWhole = true;
      this.#showTags();
      this.rows[SHOWN]?.name.focus();
    });
    this.add = element("input", { type: "text", list: "completions", maxlength: "1000", autocomplete: "off",
      placeholder: "further tag", "aria-label": `further tag of ${item.label}` });
    this.form = element("form", { class: "row" }, this.add, element("button", {}, "add"));
    this.chips = element("ul", { class: "chips", "aria-label": "further tags" });
    this.send = button({ class: "first" }, "send feedback", () => sendFeedback([this]));
    const feedback = element("div", { class: "feedback" }, this.form, this.chips, this.send);
    this.similar = element("div", {},
      button({ class: "name similar" }, "similar in training", () => this.showSimilar()));
    const drop = button({ class: "square", "aria-label": `take ${item.label} out`, title: "take it out" }, "✕",
      () => actions.drop(this));
    this.feedback = feedback;
    const body = element("div", { class: "body" }, element("div", { class: "title" }, this.name, drop),
      this.note, this.own, this.list, this.more, feedback, this.similar);
    this.li = element("li", { class: "card panel" }, ...this.#picture(), body);
    this.li.card = this;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.add.value.trim()) this.judge(this.add.value.trim(), "add");
      this.add.value = "";
    });
    this.add.addEventListener("input", () => complete(this.add.value));
    this.show();
  }

  #picture() {
    if (!this.item.file) return [];
    this.address = URL.createObjectURL(this.item.file);
    const image = element("img", { src: this.address, alt: this.item.label, loading: "lazy", decoding: "async" });
    const frame = element("div", { class: "frame" }, image);
    image.addEventListener("error", () => frame.replaceChildren(
      element("span", { class: "quiet" }, "This browser cannot show it.")));
    return [frame];
  }

  /** Free what it holds. */
  close() {
    if (this.address) URL.revokeObjectURL(this.address);
    this.li.remove();
  }

  /** The state of its item. */
  show() {
    const { state, note, tags, own } = this.item;
    this.li.dataset.state = state;
    this.li.setAttribute("aria-busy", String(state === "working"));
    const words = { waiting: tags ? "These are the tags from before." : "Waiting.",
      working: "Looking for tags…", failed: note, done: tags?.length ? note : "No tag is probable enough." }[state];
    this.note.textContent = words;
    this.note.classList.toggle("fault", state === "failed");
    const found = new Set((tags ?? []).map(({ tag }) => tag));
    this.own.hidden = !own.length;
    this.own.replaceChildren(element("li", { class: "quiet" }, "in training:"), ...own.map((tag) => element("li", {},
      found.has(tag) ? element("span", { class: "yes" }, `✓ ${tag}`) : element("span", {}, tag))));
    this.feedback.hidden = !tags;
    this.similar.hidden = !tags || !this.actions.hasSimilar();
    if (this.shown !== tags) {
      this.shown = tags;
      this.isWhole = false;
      this.#showTags();
    }
    this.#showVerdicts();
  }

  #showTags() {
    const scale = this.actions.scale();
    const hadFocus = this.rows.findIndex(({ row }) => row.contains(document.activeElement));
    const tags = this.item.tags ?? [];
    const shown = this.isWhole ? tags : tags.slice(0, SHOWN);
    this.rows = shown.map(({ tag, score, name: shownName, implied_by: by, unseen }) => {
      const name = tagButton(tag, this.actions.showNear, shownName);
      const judges = JUDGES.map(([kind, word, look, sign]) => {
        const made = button({ class: `square ${look}`, "aria-label": `${word} ${tag}`, title: word }, sign,
          () => this.judge(tag, this.item.verdicts.get(tag) === kind ? null : kind));
        return { kind, made };
      });
      return { tag, name, judges, row: bar(name, score, scale, ...judges.map(({ made }) => made),
        ...(by ? [becauseOf(tags.find(({ tag: other }) => other === by) ?? { tag: by })] : unseen ? [byName()] : [])) };
    });
    this.list.replaceChildren(...this.rows.map(({ row }) => row));
    if (hadFocus >= 0) (this.rows[Math.min(hadFocus, this.rows.length - 1)]?.name ?? this.name).focus();
    this.more.hidden = shown.length === tags.length;
    this.more.textContent = `show all ${tags.length}`;
  }

  /** Rows of training that are like it, in place of the button. */
  async showSimilar() {
    const hadFocus = this.similar.contains(document.activeElement);
    try {
      const { rows } = await ask("v1/similar", { limit: 7, ...await this.item.content() });
      const others = rows.filter(({ image_id: id }) => id !== this.item.id).slice(0, 6);
      const made = others.map(({ image_id: id, tags, score }) =>
        picture(id, { title: `${id}: ${tags.join(", ")} (${score.toFixed(2)})` }));
      this.similar.replaceChildren(element("h4", { tabindex: "-1" }, "Similar in training"),
        strip(`training pictures similar to ${this.item.label}`, ...made));
      if (hadFocus) this.similar.firstChild.focus();
    } catch (error) {
      complain(error.message);
    }
  }

  rescale(scale) {
    for (const { row } of this.rows) row.rescale(scale);
  }

  judge(tag, kind) {
    this.item.judge(tag, kind);
    this.show();
    this.actions.changed(this);
  }

  #showVerdicts() {
    const { verdicts, sent } = this.item;
    for (const { tag, judges } of this.rows) {
      for (const { kind, made } of judges) made.setAttribute("aria-pressed", String(verdicts.get(tag) === kind));
    }
    const shown = new Set(this.rows.map(({ tag }) => tag)); // their buttons say it
    const further = [...verdicts].filter(([tag]) => !shown.has(tag));
    this.chips.replaceChildren(...further.map(([tag, kind]) => {
      const look = { class: kind === "add" ? "yes" : "no", "aria-label": `${kind} ${tag}: take back` };
      return element("li", {}, button(look, `${kind === "add" ? "+" : "−"} ${tag}`, () => {
        this.judge(tag, null);
        this.add.focus();
      }));
    }));
    this.send.hidden = sent;
  }
}

/** shown: the tag in the language of who reads it. */
export function tagButton(tag, showNear, shown = tag) {
  const names = [...new Set([shown, tag])].filter((name) => name !== shown || name.length > LONG);
  const title = [...names, "show its neighbours"].join(": ");
  return button({ class: "name", title }, element("span", { class: "clip" }, shown), () => showNear(tag));
}

/** Why an implied tag is as probable as it is. */
function becauseOf({ tag, name = tag }) {
  return element("span", { class: "why quiet clip", title: "the vocabulary says that one implies the other" },
    `because of ${name}`);
}

/** How a tag is scored that has no training image. */
function byName() {
  return element("span", { class: "why quiet", title: "no training image has this tag: its score comes from what its name means" },
    "by its name alone");
}

/** Tags that begin so, for the fields of further tags. */
function complete(prefix) {
  latest("complete", ask(`v1/tags?limit=8&prefix=${encodeURIComponent(prefix.trim())}`), ({ tags }) => {
    $("completions").replaceChildren(...tags.map(({ tag, found_by: by }) =>
      element("option", by ? { value: tag, label: `${tag} (${by})` } : { value: tag })));
  });
}

/** Send what was said of these cards, one after the other; what is not kept can be sent again. */
export async function sendFeedback(cards) {
  for (const card of cards) {
    const { item } = card;
    const [add, remove] = [item.judged("add"), item.judged("remove")];
    const said = JSON.stringify([add, remove]);
    try {
      card.note.textContent = "Sending…";
      const content = await item.content();
      await ask("v1/feedback", { image_id: item.id, add, remove, ...content });
      complain("");
      if (JSON.stringify([item.judged("add"), item.judged("remove")]) === said) {
        item.sent = true;
        item.note = `Kept: ${count(add.length, "tag")} to add, ${remove.length} to remove.`;
      }
    } catch (error) {
      item.note = "Not kept.";
      complain(error.message);
    }
    const hadFocus = card.send === document.activeElement;
    card.show();
    if (hadFocus && item.sent) card.name.focus(); // the button is gone
    card.actions.changed(card);
    if (!item.sent) return;
  }
}
