// What is annotated: pictures and rows of features, and what the scorer said of them.

/**
 * One picture (file) or row of features.
 *
 * state: waiting, working, done or failed. tags: of the last answer, null before there was one. verdicts: tag to
 * "add" or "remove". sent: whether the scorer has them.
 */
export class Item {
  constructor({ label, file = null, features = null, id = "", own = [] }) {
    Object.assign(this, { label, file, features, id, own });
    this.state = "waiting";
    this.note = ""; // why it failed, or what became of its feedback
    this.tags = null;
    this.version = "";
    this.verdicts = new Map();
    this.sent = true;
  }

  /** What asks for its tags or tells of them: {image} in base64, or {features}. */
  async content() {
    if (this.features) return { features: this.features };
    let bytes;
    try {
      bytes = new Uint8Array(await this.file.arrayBuffer());
    } catch {
      throw new Error("This cannot be read. Is it a folder, or a file that has changed?");
    }
    this.id ||= `upload-${await digest(bytes)}`;
    return { image: base64(bytes) };
  }

  judge(tag, kind) {
    this.verdicts.delete(tag);
    if (kind) this.verdicts.set(tag, kind);
    this.sent = this.verdicts.size === 0;
    this.note = "";
  }

  /** Tags that were accepted (add) or rejected (remove). */
  judged(kind) {
    return [...this.verdicts.keys()].filter((tag) => this.verdicts.get(tag) === kind);
  }
}

/** 16 hexadecimal digits that stand for these bytes. */
export async function digest(bytes) {
  if (globalThis.crypto?.subtle) {
    const found = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    return Array.from(found.slice(0, 8), (byte) => byte.toString(16).padStart(2, "0")).join("");
  }
  let one = 0x811c9dc5, two = 0xdeadbeef; // crypto.subtle is missing on plain http from another machine
  for (const byte of bytes) {
    one = Math.imul(one ^ byte, 0x01000193);
    two = Math.imul(two ^ byte, 0x9e3779b1) ^ (two >>> 15);
  }
  return [one, two].map((half) => (half >>> 0).toString(16).padStart(8, "0")).join("");
}

function base64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) {
    text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  }
  return btoa(text);
}

/** An item of pasted JSON. Throws where it holds no features. */
export async function pastedItem(text) {
  let features;
  try {
    features = JSON.parse(text);
  } catch { /* told below */ }
  const named = features && typeof features === "object" && !Array.isArray(features);
  if (!named && !Array.isArray(features)) {
    throw new Error("The features must be a JSON array of numbers, or an object of such arrays by column.");
  }
  if (features.length === 1 && Array.isArray(features[0])) features = features[0];
  const id = await digest(new TextEncoder().encode(JSON.stringify(features)));
  return new Item({ id: `pasted-${id}`, label: `pasted features ${id.slice(0, 4)}`, features });
}
