// Colours that scripts draw with, from the style sheet's variables; and the choice of light or dark.

/** Return {name: [r, g, b]} of the variables --NAME, which must be #rrggbb. */
export function colours(...names) {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(names.map((name) => [name, rgb(style.getPropertyValue(`--${name}`))]));
}

function rgb(hex) {
  const value = parseInt(hex.trim().slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

/** Return the colour a share t of the way from a to b. */
export function mix(a, b, t) {
  return a.map((value, i) => value + (b[i] - value) * t);
}

export const css = (colour, alpha = 1) => `rgb(${colour.map(Math.round).join(" ")} / ${alpha})`;

/** Wire the button that changes the theme; `redraw` is called when colours change. */
export function wireTheme(button, redraw) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => {
    button.setAttribute("aria-pressed", String(isDark()));
    redraw();
  };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    show();
  });
  system.addEventListener("change", show);
  button.setAttribute("aria-pressed", String(isDark()));
}
