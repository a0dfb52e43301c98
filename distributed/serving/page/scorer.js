// Questions to the scorer, and its answers or why there are none.
import { $, complain } from "./dom.js";

/** Why the scorer did not do as asked. status: of HTTP, 0 where nothing came back; code, row: as it says. */
export class ScorerError extends Error {
  constructor(message, { status = 0, code = "", row = null, retryAfter = 1 } = {}) {
    super(message);
    Object.assign(this, { status, code, row, retryAfter });
  }
}

const WORDS = {
  401: "The scorer does not know you", 413: "That is too much for the scorer", 422: "The scorer cannot use that",
  503: "The scorer is busy or not ready, try again in a moment",
};

async function answerTo(path, body, signal) {
  const headers = body ? { "content-type": "application/json" } : {};
  const token = sessionStorage.getItem("token");
  if (token) headers.authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ScorerError("The scorer does not answer. Is it still running?");
  }
  if (answer.ok) return answer;
  // A late answer to an earlier token says nothing of this one.
  if (answer.status === 401 && token === sessionStorage.getItem("token")) $("token-form").hidden = false;
  const told = (await answer.json().catch(() => null))?.error;
  const words = WORDS[answer.status] ?? `The scorer answered with error ${answer.status}`;
  const retryAfter = Number(answer.headers.get("retry-after")) || 1;
  throw new ScorerError(`${words}: ${told?.message ?? answer.statusText}`,
    { status: answer.status, code: told?.code, row: told?.row, retryAfter });
}

/** The JSON of an answer. Throws ScorerError; AbortError where the signal says so. */
export async function ask(path, body, signal) {
  const answer = await answerTo(path, body, signal);
  const content = await answer.json().catch(() => null);
  if (content === null) throw new ScorerError("The scorer's answer was cut off");
  return content;
}

/** The bytes of an answer that is no JSON. */
export async function askBlob(path) {
  return (await answerTo(path)).blob();
}

/** Show an answer, unless a later question of the same name has overtaken it. */
const turns = {};
export async function latest(name, question, show, fail = (error) => complain(error.message)) {
  const turn = turns[name] = (turns[name] ?? 0) + 1;
  try {
    const content = await question;
    if (turns[name] === turn) show(content);
  } catch (error) {
    if (turns[name] === turn) fail(error);
  }
}

/** Until the time is over, or the signal aborts. */
export function sleep(seconds, signal) {
  return new Promise((done, fail) => {
    signal?.throwIfAborted();
    const timer = setTimeout(done, 1000 * seconds);
    signal?.addEventListener("abort", () => { clearTimeout(timer); fail(signal.reason); }, { once: true });
  });
}
