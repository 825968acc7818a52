/* Requests to the service. Errors are `ServiceError`s with the service's own words. */

import { say, unsay } from "./messages.js";

const KEPT = "duotone-token"; // in sessionStorage: until the tab is closed
const LOOK_MS = 5000, SOON_MS = 1500; // between looks whether the service answers, and while it does not
const GONE = "The service does not answer. What is open here stays; the page goes on when the service is back.";

export class ServiceError extends Error {
  constructor(message, status = 0, limit = null, retry = null) {
    super(message);
    Object.assign(this, { status, limit, retry });
  }
}

export function token() { return sessionStorage.getItem(KEPT); }

let asking = null, ask = async (message) => { throw new ServiceError(message, 401); };

/** Who asks the reader for a token: a function of the service's words that resolves to it. */
export function onToken(callback) { ask = callback; }

/** A token that was not right is asked for again, once for all requests that wait. */
async function askToken(message) {
  asking ??= ask(message).finally(() => { asking = null; });
  sessionStorage.setItem(KEPT, await asking);
}

/* ---- Whether the service answers ---- */

let state = "starting", lost = false, tell = () => {}, timer = 0;
const TEXTS = { starting: "starting", ready: "ready", busy: "not taking work", gone: "does not answer" };

export function onState(callback) { tell = callback; }

function enter(next) {
  if (next === state) return;
  state = next;
  if (next === "gone") say(GONE, "error"); else unsay(GONE);
  if (lost && next === "ready") say("The service is back.", "done");
  lost = next === "gone" || (lost && next !== "ready"); // a service that begins anew is starting before it is ready
  tell(next, TEXTS[next]);
}

async function look() {
  clearTimeout(timer);
  try {
    const answer = await fetch("/ready", { cache: "no-store" });
    enter(answer.ok ? "ready" : state === "ready" || state === "busy" ? "busy" : "starting");
  } catch {
    enter("gone");
  }
  timer = setTimeout(look, state === "ready" ? LOOK_MS : SOON_MS);
}

/** Looks from now on whether the service answers. */
export function watch() { return look(); }

/* ---- Requests ---- */

async function request(path, options = {}) {
  const headers = token() ? { Authorization: `Bearer ${token()}` } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    enter("gone");
    throw new ServiceError("The service does not answer.");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  if (answer.status === 401) {
    await askToken(told.message);
    return request(path, options);
  }
  throw new ServiceError(told.message ?? `The service answered with status ${answer.status}.`, answer.status, told.limit, told.retry_after);
}

export async function models() { return (await request("/v1/models")).json(); }

function query(values) {
  const given = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

/** Posts bytes and gives the answer, whose body is broken off where the service fails while it makes it. */
export async function post(path, body, values = {}, signal = undefined) {
  return request(path + query(values), { method: "POST", body, signal });
}

export async function postForBlob(path, body, values = {}, signal = undefined) {
  const answer = await post(path, body, values, signal);
  try {
    return { blob: await answer.blob(), headers: answer.headers };
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("The service broke its answer off. Its log tells why.");
  }
}
