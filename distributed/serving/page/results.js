// The results as a file: CSV with a line for each tag, or JSON.

const COLUMNS = ["picture", "image_id", "rank", "tag", "score", "verdict", "model", "error"];

/** Of items that were answered or failed, as plain objects. */
export function plainResults(items) {
  return items.filter(({ tags, state }) => tags || state === "failed").map((item) => ({
    picture: item.label, image_id: item.id, model: item.version, tags: item.tags ?? [],
    accepted: item.judged("add"), rejected: item.judged("remove"),
    ...(item.state === "failed" ? { error: item.note } : {}),
  }));
}

/**
 * RFC 4180. What a spreadsheet would take for a formula gets an apostrophe before it, also after blanks and in
 * the wide letters of East Asia. Where a spreadsheet splits at ";", a part of a name must not begin a cell.
 */
function cell(value) {
  let text = String(value ?? "");
  if (typeof value === "string" && /^\s*[=+\-@\t\r＝＋－＠]/.test(text)) text = `'${text}`;
  return /[",;\t\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export function csvOf(results) {
  const lines = [COLUMNS];
  for (const { picture, image_id: id, model, tags, accepted, rejected, error = "" } of results) {
    const verdict = (tag) => accepted.includes(tag) ? "accepted" : rejected.includes(tag) ? "rejected" : "";
    const begin = [picture, id];
    tags.forEach(({ tag, score }, place) =>
      lines.push([...begin, place + 1, tag, score, verdict(tag), model, error]));
    const said = new Set(tags.map(({ tag }) => tag));
    for (const tag of [...accepted, ...rejected].filter((one) => !said.has(one))) {
      lines.push([...begin, "", tag, "", verdict(tag), model, error]);
    }
    if (!tags.length && !accepted.length && !rejected.length) lines.push([...begin, "", "", "", "", model, error]);
  }
  return lines.map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
}

export function save(name, kind, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: kind }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
