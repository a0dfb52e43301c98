// Elements, and figures as people read them.

export const $ = (id) => document.getElementById(id);

/** A new element. Strings among the children become text, never HTML: tags and file names are others' words. */
export function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function button(attributes, text, action) {
  const made = element("button", { type: "button", ...attributes }, text);
  made.addEventListener("click", action);
  return made;
}

/** Say what went wrong, above everything else; empty: nothing is wrong any more. */
export function complain(text) {
  $("error").hidden = !text;
  $("error").textContent = text;
}

export const number = (value, digits = 2) => value.toLocaleString("en", { maximumFractionDigits: digits });

/** Whole percent, and a digit more near the ends: 0.3% is not 0%, and 99.7% is not 100%. */
export function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.05) return "<0.1%";
  if (value < 100 && value >= 99.95) return ">99.9%";
  return `${number(value, value < 9.95 || (value >= 99.5 && value < 100) ? 1 : 0)}%`;
}

export const count = (many, one, several = `${one}s`) => `${number(many)} ${many === 1 ? one : several}`;

/**
 * What a bar of each score is long, as a share of its track. The same for everything that is shown: 0 to 1
 * for probabilities; other scores have no such ends, so theirs are the lowest and the highest shown.
 */
export class Scale {
  constructor(areProbabilities, scores) {
    this.areProbabilities = areProbabilities;
    this.low = areProbabilities ? 0 : Math.min(...scores);
    this.high = areProbabilities ? 1 : Math.max(...scores);
  }

  share(score) {
    if (!(this.high > this.low)) return 1;
    return Math.min(Math.max((score - this.low) / (this.high - this.low), 0), 1);
  }

  text(score) {
    return this.areProbabilities ? percent(score) : score.toFixed(2);
  }
}

/** A row of a list: a name over its bar, the figure, and what else belongs to it. */
export function bar(name, score, scale, ...further) {
  const fill = element("span", { class: "fill" });
  const figure = element("span", { class: "number", title: String(score) }, scale.text(score));
  const row = element("li", {}, name, figure, element("span", { class: "bar", "aria-hidden": "true" }, fill),
    ...further);
  row.rescale = (to) => { // a Scale; only bars of scores move
    fill.style.width = `${100 * to.share(score)}%`;
  };
  row.rescale(scale);
  return row;
}

/** Lines of a name and a figure; those without a figure are left out. */
export function figures(list, lines) {
  $(list).replaceChildren(...lines.filter(([, figure]) => figure != null).map(([name, figure]) =>
    element("li", {}, element("span", {}, name), element("span", { class: "number" }, figure))));
}
