/* Dark and light: the reader's system decides until the button is pressed. */

const dark = matchMedia("(prefers-color-scheme: dark)");
const KEPT = "duotone-theme";

function apply(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  document.dispatchEvent(new Event("theme"));
}

export function isDark() {
  return (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
}

export function toggleTheme() {
  const theme = isDark() ? "light" : "dark";
  localStorage.setItem(KEPT, theme);
  apply(theme);
}

/** A colour of style.css by its name, as a canvas takes it. */
export function ink(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

dark.addEventListener("change", () => apply(document.documentElement.dataset.theme));
apply(localStorage.getItem(KEPT));
