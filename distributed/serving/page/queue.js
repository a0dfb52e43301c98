// Items go to the scorer in batches, one request at a time, within its limits. A picture that it cannot read
// fails alone. A busy scorer is asked again when it says; a run can be stopped and goes on later.
import { ask, ScorerError, sleep } from "./scorer.js";

const BATCH_PICTURES = 16; // so that the first tags show soon
const BATCH_BYTES = 4 << 20;
const ROOM = 64 << 10; // of a body, for all that is no picture
const TRIES = 8;
const LONGEST_WAIT = 30;
// Errors that say nothing of one picture: the next ones would get them as well.
const OF_ALL = new Set(["unauthorized", "cannot_decide", "no_images", "no_features", "no_latents"]);

export class Queue {
  /**
   * wanted: gives the options of a request. limits: {rows, body_bytes} of the scorer. changed: is called with
   * an item that has changed, or with null where the run has. failed: takes what ended a run.
   */
  constructor({ wanted, changed, failed }) {
    Object.assign(this, { wanted, changed, failed });
    this.items = [];
    this.limits = { rows: BATCH_PICTURES, body_bytes: BATCH_BYTES };
    this.running = null; // the AbortController of a run
    this.waitsFor = ""; // why the run waits
  }

  with(state) {
    return this.items.filter((item) => item.state === state);
  }

  /** Annotate what waits. A run that has begun takes it up too. */
  async run() {
    if (this.running) return;
    const control = this.running = new AbortController();
    this.changed(null);
    try {
      for (let batch; (batch = this.#next()).length;) await this.#annotate(batch, control.signal);
    } catch (error) {
      if (!control.signal.aborted) this.failed(error);
    } finally {
      if (this.running === control) {
        this.running = null;
        this.waitsFor = "";
        for (const item of this.with("working")) this.#move(item, "waiting");
      }
      this.changed(null);
    }
  }

  stop() {
    this.running?.abort();
    this.running = null;
    this.waitsFor = "";
    for (const item of this.with("working")) this.#move(item, "waiting");
    this.changed(null);
  }

  /** Ask for all of them again, with the options of now. */
  again(items = this.items) {
    this.stop();
    for (const item of items) this.#move(item, "waiting");
    return this.run();
  }

  #move(item, state, about = {}) {
    if (!this.items.includes(item)) return; // taken out meanwhile
    Object.assign(item, { state }, about);
    this.changed(item);
  }

  /** The next batch: pictures that fit into a request, or one row of features. */
  #next() {
    const waiting = this.with("waiting");
    if (!waiting.length || waiting[0].features) return waiting.slice(0, 1);
    const batch = [];
    let bytes = 0;
    for (const item of waiting) {
      const its = item.file ? Math.ceil(item.file.size / 3) * 4 + 3 : 0; // in base64
      const isFull = batch.length >= Math.min(BATCH_PICTURES, this.limits.rows) || bytes + its > BATCH_BYTES;
      if (item.features || (batch.length && isFull)) break;
      batch.push(item);
      bytes += its;
    }
    return batch;
  }

  async #annotate(batch, signal) {
    for (const item of batch) this.#move(item, "working", { note: "" });
    const contents = new Map();
    for (const item of batch) {
      if (item.file?.size > (this.limits.body_bytes - ROOM) * 3 / 4) {
        const mib = Math.floor((this.limits.body_bytes - ROOM) * 3 / 4 / 2 ** 20);
        this.#move(item, "failed", { note: `It is too large: this scorer takes pictures of ${mib} MiB at most.` });
        continue;
      }
      try {
        contents.set(item, await item.content());
      } catch (error) {
        this.#move(item, "failed", { note: error.message });
      }
      signal.throwIfAborted();
    }
    const readable = batch.filter((item) => contents.has(item));
    if (readable.length) await this.#send(readable, contents, signal);
  }

  async #send(batch, contents, signal) {
    const first = contents.get(batch[0]);
    const rows = first.features ? { features: rowOf(first.features) }
      : { images: batch.map((item) => contents.get(item).image) };
    let answer;
    try {
      answer = await this.#patiently({ ...rows, ...this.wanted() }, signal);
    } catch (error) {
      const isOfAll = !(error instanceof ScorerError) || !error.status || OF_ALL.has(error.code) || error.status > 500;
      if (isOfAll) throw error;
      const bad = batch.length > 1 ? batch[error.row] : batch[0];
      if (bad) {
        const note = error.message.replace(/images\[\d+\]: /, ""); // its place in a batch tells nobody anything
        this.#move(bad, "failed", { note, tags: null });
        const others = batch.filter((item) => item !== bad);
        if (others.length) await this.#send(others, contents, signal);
        return;
      }
      const half = batch.length >> 1; // one of them, or all together, are too much
      await this.#send(batch.slice(0, half), contents, signal);
      await this.#send(batch.slice(half), contents, signal);
      return;
    }
    batch.forEach((item, place) =>
      this.#move(item, "done", { tags: answer.results[place].tags, version: answer.model }));
  }

  /** The answer, asked for again while the scorer is busy. */
  async #patiently(body, signal) {
    for (let tries = 1; ; tries += 1) {
      try {
        return await ask("v1/annotate", body, signal);
      } catch (error) {
        if (error.status !== 503 || tries === TRIES) throw error;
        const seconds = Math.min(error.retryAfter * 2 ** (tries - 1), LONGEST_WAIT);
        this.waitsFor = `The scorer is busy or not ready. Asking again in ${Math.ceil(seconds)} s.`;
        this.changed(null);
        await sleep(seconds, signal);
        this.waitsFor = "";
        this.changed(null);
      }
    }
  }
}

function rowOf(features) {
  if (Array.isArray(features)) return [features];
  return Object.fromEntries(Object.entries(features).map(([column, row]) => [column, [row]]));
}
