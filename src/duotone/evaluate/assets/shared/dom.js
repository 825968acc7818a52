/* Elements of a page. */

export const $ = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Options of which one is chosen; `options` are [value, title]. */
export function segments(host, name, options, chosen, choose) {
  host.replaceChildren(...options.map(([value, title]) => {
    const input = make("input", { type: "radio", name, value, checked: value === chosen });
    input.addEventListener("change", () => choose(value));
    return make("label", {}, input, title);
  }));
}

export function clockText(seconds) {
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
}

/** Seconds between the marks of a time axis, so that there are at most `most` of them. */
export function tickStep(seconds, most = 10) {
  return [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60].find((step) => seconds / step <= most) ?? 120;
}
