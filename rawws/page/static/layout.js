// Where panes are: side by side where there is room, otherwise one at a time. Their sizes are the reader's.

import { byId, el } from "./dom.js";

const NAME = "rawws-layout";
const STEP_PX = 16;

/** Panes that can be resized and folded: the CSS variable of the size, its bounds, and the edge that is dragged. */
const SIZED = {
  connections: { axis: "x", sign: 1, least: 200, most: 560, usual: 284, title: "Connections" },
  details: { axis: "x", sign: -1, least: 280, most: 960, usual: 404, title: "Details" },
  send: { axis: "y", sign: -1, least: 120, most: 560, usual: 196, title: "Send" },
};
const FOCUSED = { connections: "list", frames: "table", details: "details-inside", send: "text", ways: "room", break: "run-all" };
const VIEWS = new Set(["ways", "break"]);

export class Layout {
  #route;
  #kept;

  constructor(route) {
    this.#route = route;
    this.#kept = takeKept();
    for (const [name, options] of Object.entries(SIZED)) this.#build(name, options);
    route.addEventListener("change", () => this.#show());
    document.querySelector("#top nav").addEventListener("click", (event) => {
      const link = event.target.closest("a");
      if (link) setTimeout(() => this.focus(link.hash.slice(2)));
    });
    this.#show();
  }

  /** Bring the keyboard to a pane, which is unfolded first. */
  focus(pane) {
    if (this.#kept[pane]?.isFolded) this.#fold(pane, false);
    byId(FOCUSED[pane])?.focus({ preventScroll: true });
  }

  #show() {
    const { pane, id } = this.#route;
    const isDetail = id !== "" && (pane === "frames" || pane === "connections");
    document.body.dataset.pane = isDetail ? "details" : pane;
    document.body.dataset.view = VIEWS.has(pane) ? pane : "bench";
    for (const link of document.querySelectorAll("#top nav a")) {
      const isCurrent = link.hash === `#/${this.#route.isNarrow && isDetail ? "details" : pane}`;
      if (isCurrent) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }

  #build(name, { axis, title }) {
    const pane = byId(name);
    const separator = el("div", {
      id: `edge-${name}`,
      class: `edge ${axis}`,
      role: "separator",
      tabindex: "0",
      "aria-orientation": axis === "x" ? "vertical" : "horizontal",
      "aria-controls": name,
      "aria-label": `Size of ${title}`,
    });
    pane.after(separator);
    const fold = el("button", { type: "button", class: "fold", "aria-controls": `${name}-inside`, onclick: () => this.#toggle(name) });
    pane.querySelector(".bar").append(fold);
    separator.addEventListener("pointerdown", (event) => this.#drag(name, separator, event));
    separator.addEventListener("dblclick", () => this.#toggle(name));
    separator.addEventListener("keydown", (event) => this.#onKey(name, event));
    this.#apply(name);
  }

  #apply(name) {
    const { usual, least, most, title } = SIZED[name];
    const { size = usual, isFolded = false } = this.#kept[name] ?? {};
    byId("bench").style.setProperty(`--${name}`, isFolded ? "2.4rem" : `${size}px`);
    const pane = byId(name);
    pane.classList.toggle("folded", isFolded);
    const fold = pane.querySelector(".fold");
    fold.setAttribute("aria-expanded", String(!isFolded));
    fold.setAttribute("aria-label", `${isFolded ? "Unfold" : "Fold"} ${title}`);
    fold.title = `${isFolded ? "Unfold" : "Fold"} ${title}`;
    const separator = byId(`edge-${name}`);
    for (const [what, value] of Object.entries({ valuenow: isFolded ? least : size, valuemin: least, valuemax: most })) {
      separator.setAttribute(`aria-${what}`, String(Math.round(value)));
    }
  }

  #resize(name, size) {
    const { least, most } = SIZED[name];
    this.#kept[name] = { size: Math.min(Math.max(size, least), most), isFolded: false };
    this.#apply(name);
  }

  #toggle(name) {
    this.#fold(name, !this.#kept[name]?.isFolded);
    byId(name).querySelector(".fold").focus();
  }

  #fold(name, isFolded) {
    this.#kept[name] = { size: SIZED[name].usual, ...this.#kept[name], isFolded };
    this.#apply(name);
    keep(this.#kept);
  }

  #sizeOf(name) {
    const { width, height } = byId(name).getBoundingClientRect();
    return SIZED[name].axis === "x" ? width : height;
  }

  #drag(name, separator, event) {
    const { axis, sign } = SIZED[name];
    const at = (each) => (axis === "x" ? each.clientX : each.clientY);
    const [begin, size] = [at(event), this.#sizeOf(name)];
    const move = (each) => this.#resize(name, size + sign * (at(each) - begin));
    separator.setPointerCapture(event.pointerId);
    separator.addEventListener("pointermove", move);
    const end = () => {
      separator.removeEventListener("pointermove", move);
      keep(this.#kept);
    };
    separator.addEventListener("pointerup", end, { once: true });
    separator.addEventListener("pointercancel", end, { once: true });
  }

  #onKey(name, event) {
    const { axis, sign, least, most } = SIZED[name];
    const [back, on] = axis === "x" ? ["ArrowLeft", "ArrowRight"] : ["ArrowUp", "ArrowDown"];
    const size = this.#sizeOf(name);
    const sizes = { [back]: size - sign * STEP_PX, [on]: size + sign * STEP_PX, Home: least, End: most };
    if (event.key === "Enter") this.#toggle(name);
    else if (sizes[event.key] === undefined) return;
    else this.#resize(name, sizes[event.key]);
    event.preventDefault();
    keep(this.#kept);
  }
}

function takeKept() {
  try {
    const kept = JSON.parse(localStorage.getItem(NAME)) ?? {};
    const isRight = ([name, each]) => Object.hasOwn(SIZED, name) && Number.isFinite(each?.size);
    return Object.fromEntries(Object.entries(kept).filter(isRight));
  } catch {
    return {};
  }
}

function keep(kept) {
  try {
    localStorage.setItem(NAME, JSON.stringify(kept));
  } catch {
    // It is kept until the page goes.
  }
}
