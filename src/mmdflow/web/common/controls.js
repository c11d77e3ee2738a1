// Wiring of the page's controls.

export const $ = (id) => document.getElementById(id);

/** A number with three significant digits, without trailing noise. */
export const short = (value) => (Math.abs(value) >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(3))));

/** A range input with its output; `data-scale="log"` makes it the exponent of ten of its value. */
export class Slider {
  constructor(id, onInput, format = short) {
    this.input = $(id);
    this.output = document.querySelector(`output[for="${id}"]`);
    this.format = format;
    this.input.addEventListener("input", () => {
      this.#show();
      onInput(this.value);
    });
    this.#show();
  }

  get #isLog() {
    return this.input.dataset.scale === "log";
  }

  get value() {
    const value = Number(this.input.value);
    return this.#isLog ? 10 ** value : value;
  }

  set value(value) {
    this.input.value = this.#isLog ? Math.log10(value) : value;
    this.#show();
  }

  #show() {
    this.output.textContent = this.format(this.value);
    this.input.setAttribute("aria-valuetext", this.format(this.value));
  }
}

/** Fill a select with {value: label}. */
export function fill(select, options) {
  select.replaceChildren(...Object.entries(options).map(([value, label]) => new Option(label, value)));
}

/** Wire a tablist as the ARIA practices say: arrows, Home and End move; `onShow` gets the panel's id. */
export function wireTabs(list, onShow) {
  const tabs = [...list.querySelectorAll('[role="tab"]')];
  const select = (tab) => {
    for (const other of tabs) {
      const chosen = other === tab;
      other.setAttribute("aria-selected", String(chosen));
      other.tabIndex = chosen ? 0 : -1;
      $(other.getAttribute("aria-controls")).hidden = !chosen;
    }
    onShow(tab.getAttribute("aria-controls"));
  };
  list.addEventListener("keydown", (event) => {
    const at = tabs.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    const tab = tabs[(to + tabs.length) % tabs.length];
    tab.focus();
    select(tab);
  });
  for (const tab of tabs) tab.addEventListener("click", () => select(tab));
}

/** Wait for the next frame of the screen. */
export const nextFrame = () => new Promise(requestAnimationFrame);

/** Offer a text as a file. */
export function save(name, text) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(new Blob([text])), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
