// Addresses of panes: #/frames, #/frames/18, #/connections/3, #/send, #/ways, #/break, #/break/version-12.

const PANES = ["connections", "frames", "details", "send", "ways", "break"];

/** Event "change" when another address is shown; `pane` and `id` say which. */
export class Route extends EventTarget {
  constructor() {
    super();
    this.#read();
    this.#narrow.addEventListener("change", () => this.dispatchEvent(new Event("change")));
    addEventListener("hashchange", () => {
      this.#read();
      this.dispatchEvent(new Event("change"));
    });
  }

  /** Whether there is room for one pane at a time only (as in styles/bench.css). */
  get isNarrow() {
    return this.#narrow.matches;
  }

  #narrow = matchMedia("(max-width: 899px)");

  #read() {
    const [, pane = "", id = ""] = location.hash.split("/");
    this.pane = PANES.includes(pane) ? pane : "frames";
    this.id = safeDecode(id);
  }

  /** Show another address. With `isStep`, the browser's way back leads past the one before. */
  show(pane, id = "", { isStep = true } = {}) {
    const hash = `#/${pane}${id === "" ? "" : `/${encodeURIComponent(id)}`}`;
    if (hash === location.hash) return;
    if (isStep) history.replaceState(null, "", hash);
    else history.pushState(null, "", hash);
    this.#read();
    this.dispatchEvent(new Event("change"));
  }
}

function safeDecode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
