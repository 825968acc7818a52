/* Messages above the page: say(message, kind), kind is "info", "done", "warning" or "error". */

import { $ } from "/studio/shared/dom.js";

const STAYS_MS = 8000; // of what needs no answer; errors stay until they are closed
const MOST = 3;

export function say(message, kind = "info") {
  const host = $("messages");
  const same = [...host.children].find((each) => each.dataset.message === message);
  same?.remove();
  const notice = document.createElement("p");
  notice.className = `notice ${kind}`;
  notice.dataset.message = message;
  if (kind === "error") notice.setAttribute("role", "alert");
  const text = document.createElement("span"), close = document.createElement("button");
  text.textContent = message;
  close.type = "button";
  close.textContent = "✕";
  close.setAttribute("aria-label", "Close this message");
  close.addEventListener("click", () => notice.remove());
  notice.append(text, close);
  host.append(notice);
  while (host.children.length > MOST) host.firstChild.remove();
  if (kind === "info" || kind === "done") setTimeout(() => notice.remove(), STAYS_MS);
}

/** Takes a message away, where what it told is over. */
export function unsay(message) {
  [...$("messages").children].find((each) => each.dataset.message === message)?.remove();
}
