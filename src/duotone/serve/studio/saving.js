/* Files that the page gives to the reader. */

import { make } from "/studio/shared/dom.js";

const KEPT_MS = 60_000; // for the browser to take what is behind the address

/** Downloads a Blob under a name. */
export function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), KEPT_MS);
}
