// Pane "Frames": a table of which only what is in view is drawn, so that ten thousand rows cost as much as forty.

import { byId, download, el, soon } from "../dom.js";
import { DIRECTIONS } from "../marks.js";
import { NoRecording, readFile, write } from "../state/recording.js";
import { bytes, plural, preciseClock } from "../text.js";
import { FilterBar } from "./filter-bar.js";

const ROW_PX = 26;
const SPARE_ROWS = 8;
const NEAR_PX = 4; // to the end, where browsers round
const COLUMNS = [
  ["time", "Time"],
  ["of", "Connection"],
  ["way", "From"],
  ["opcode", "Opcode"],
  ["fin", "FIN"],
  ["rsv", "RSV"],
  ["mask", "Masking key"],
  ["wire", "On the wire"],
  ["size", "Size"],
  ["preview", "Payload"],
];

export class FramesPane {
  #store;
  #watch;
  #selection;
  #route;
  #filters;
  #rows = []; // those that pass the filter
  #seen = 0; // the number of the last frame that was held against the filter
  #paused = false;
  #follows = true; // whether the newest row is kept in view: until the reader scrolls away from it
  #opened = ""; // what became of a file
  #scroller = byId("table");
  #body = el("div", { class: "rows", role: "rowgroup" });
  #space = el("div", { class: "space", role: "presentation" }, this.#body);

  constructor({ store, watch, selection, route }) {
    this.#store = store;
    this.#watch = watch;
    this.#selection = selection;
    this.#route = route;
    this.#filters = new FilterBar(selection, () => this.#filter());
    const head = COLUMNS.map(([name, title]) => el("span", { class: name, role: "columnheader" }, title));
    const titles = el("div", { class: "row titles", role: "row", "aria-rowindex": "1" }, ...head);
    this.#scroller.append(titles, this.#space);
    this.drawSoon = soon(() => this.#draw());
    store.addEventListener("frames", () => {
      if (!store.frames.length) {
        this.#rows = [];
        this.#follows = true;
      }
      if (!this.#paused) this.#takeNew();
      this.drawSoon();
    });
    selection.addEventListener("shown", () => this.#reveal());
    for (const event of ["state", "about"]) watch.addEventListener(event, this.drawSoon);
    this.#scroller.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    this.#scroller.addEventListener("keydown", (event) => this.#onKey(event));
    new ResizeObserver(this.drawSoon).observe(this.#scroller);
    byId("times").addEventListener("change", this.drawSoon);
    byId("pause").addEventListener("click", () => this.#pause());
    byId("clear").addEventListener("click", () => {
      this.#opened = "";
      store.clear();
    });
    byId("export").addEventListener("click", () => this.#export());
    byId("open").addEventListener("change", (event) => this.#open(event.target));
    this.#acceptDrops();
    this.drawSoon();
  }

  /** Hold all frames against the filter again. */
  #filter() {
    this.#rows = [];
    this.#seen = 0;
    this.#takeNew();
    this.#follows = true;
    this.drawSoon();
  }

  #takeNew() {
    const { frames } = this.#store;
    if (!frames.length) return;
    let at = frames.length;
    while (at > 0 && frames[at - 1].number > this.#seen) at -= 1;
    for (; at < frames.length; at += 1) if (this.#filters.passes(frames[at])) this.#rows.push(frames[at]);
    this.#seen = frames.at(-1).number;
    const oldest = frames[0].number;
    if (this.#rows.length && this.#rows[0].number < oldest) {
      const gone = this.#rows.findIndex((frame) => frame.number >= oldest);
      const removed = gone < 0 ? this.#rows.length : gone;
      this.#rows.splice(0, removed);
      if (!this.#follows) this.#scroller.scrollTop -= removed * ROW_PX;
    }
  }

  #onScroll() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    this.#follows = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    this.drawSoon();
  }

  #draw() {
    this.#drawEmpty(); // first, since a hidden table can't be scrolled
    const scroller = this.#scroller;
    const rows = this.#rows;
    this.#space.style.height = `${rows.length * ROW_PX}px`;
    scroller.setAttribute("aria-rowcount", rows.length + 1);
    if (this.#follows && !this.#paused) scroller.scrollTop = scroller.scrollHeight;
    const first = Math.max(0, Math.floor(scroller.scrollTop / ROW_PX) - SPARE_ROWS);
    const last = Math.min(rows.length, first + Math.ceil(scroller.clientHeight / ROW_PX) + 2 * SPARE_ROWS);
    this.#body.style.transform = `translateY(${first * ROW_PX}px)`;
    const drawn = [];
    for (let index = first; index < last; index += 1) drawn.push(this.#row(rows[index], index));
    this.#body.replaceChildren(...drawn);
    const selected = this.#body.querySelector("[aria-selected=true]");
    if (selected) scroller.setAttribute("aria-activedescendant", selected.id);
    else scroller.removeAttribute("aria-activedescendant");
    this.#drawTotals();
  }

  #row(frame, index) {
    const properties = {
      role: "row",
      id: `frame-${frame.number}`,
      "aria-rowindex": index + 2,
      "aria-selected": String(frame === this.#selection.shown),
      onclick: () => this.#selection.showFrame(frame),
    };
    if (frame.isCut) {
      const cell = el("span", { role: "gridcell", "aria-colspan": COLUMNS.length, title: frame.told }, frame.told);
      return el("div", { class: "row cut", ...properties }, cell);
    }
    const cells = {
      time: this.#time(frame, index),
      of: `${frame.of.label}${frame.of.peerName && ` ${frame.of.peerName}`}`,
      way: frame.sender,
      opcode: frame.opcode,
      fin: frame.fin ? "1" : "0",
      rsv: frame.rsv,
      mask: frame.mask ?? "none",
      wire: frame.wire.toLocaleString("en"),
      size: frame.messageSize.toLocaleString("en"),
      preview: frame.shown,
    };
    const titles = { way: DIRECTIONS[frame.sender], opcode: frame.opcode, size: "of the message" };
    const kind = `row ${frame.sender}${frame.isControl ? " control" : ""}${frame.text === null ? " raw" : ""}`;
    const drawn = COLUMNS.map(([name]) => el("span", { class: name, role: "gridcell", title: titles[name] }, cells[name]));
    return el("div", { class: kind, ...properties }, ...drawn);
  }

  #time(frame, index) {
    switch (byId("times").value) {
      case "absolute":
        return preciseClock(frame.at);
      case "step":
        return `+${(frame.at - (this.#rows[index - 1] ?? frame).at).toFixed(3)}`;
      default:
        return (frame.at - (frame.of.run.began ?? this.#store.began)).toFixed(3);
    }
  }

  get #shownCount() {
    return this.#rows.reduce((count, frame) => count + !frame.isCut, 0);
  }

  #drawTotals() {
    const { frames, wireBytes, messageBytes, totals } = this.#store;
    const parts = [totals];
    if (frames.length) {
      parts.push(`${bytes(wireBytes)} on the wire, ${bytes(messageBytes)} of messages`);
      if (this.#filters.isActive) parts.push(`${this.#shownCount.toLocaleString("en")} shown`);
    }
    if (this.#paused) parts.push("paused");
    if (this.#opened) parts.push(this.#opened);
    byId("totals").textContent = parts.join("; ").replace(/\.;/, ";");
  }

  /** Say what to do, or what hides everything. */
  #drawEmpty() {
    const box = byId("no-frames");
    const isEmpty = this.#shownCount === 0;
    box.hidden = !isEmpty || this.#rows.length > 0;
    this.#scroller.hidden = isEmpty && this.#rows.length === 0;
    if (box.hidden) return;
    if (!this.#store.frameCount) {
      const start = this.#watch.about?.has_rooms === false
        ? "Connect a peer, or any client, and send something: each frame of both directions appears here."
        : "Connect two peers to the same path, which is their room, and send something below: it arrives at both, frame by frame.";
      box.replaceChildren(el("p", {}, start), el("p", {}, "A recording of --record, or an export of this page, can be opened or dropped here."));
      return;
    }
    const { frames } = this.#store;
    const causes = this.#filters.causes(frames.filter((frame) => !frame.isCut));
    box.replaceChildren(
      el("p", {}, `None of the ${plural(this.#store.frameCount, "frame")} is shown:`),
      el("ul", {}, ...causes.map(({ said, hidden }) => el("li", {}, `${said}: hides ${plural(hidden, "frame")}`))),
      el("button", { type: "button", onclick: () => this.#filters.clear() }, "Show all frames"),
    );
  }

  /** Scroll to what is shown in the details. */
  #reveal() {
    const index = this.#rows.indexOf(this.#selection.shown);
    if (index >= 0) {
      const top = index * ROW_PX;
      const { scrollTop, clientHeight } = this.#scroller;
      const room = clientHeight - 2 * ROW_PX; // but for the titles
      if (top < scrollTop) this.#scroller.scrollTop = top;
      else if (top > scrollTop + room) this.#scroller.scrollTop = top - room;
    }
    this.drawSoon();
  }

  #onKey(event) {
    const page = Math.max(1, Math.floor(this.#scroller.clientHeight / ROW_PX) - 2);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const at = this.#rows.indexOf(this.#selection.shown);
    if (event.key === "Enter" && at >= 0) this.#selection.showFrame(this.#rows[at]);
    const step = steps[event.key];
    if (step === undefined || !this.#rows.length) return;
    event.preventDefault();
    const from = at < 0 ? (step > 0 ? -1 : this.#rows.length) : at;
    const index = Math.min(Math.max(from + step, 0), this.#rows.length - 1);
    this.#selection.showFrame(this.#rows[index], { opens: !this.#route.isNarrow });
  }

  #pause() {
    this.#paused = !this.#paused;
    byId("pause").setAttribute("aria-pressed", String(this.#paused));
    if (!this.#paused) this.#takeNew();
    this.drawSoon();
  }

  /** Save what is shown; with the handshakes, if that is all there was. */
  #export() {
    const { forgotten, lost } = this.#store;
    const events = !this.#filters.isActive && !forgotten && !lost && !this.#rows.some((each) => each.isCut);
    download("rawws-frames.json", "application/json", write(this.#rows, { events }));
  }

  async #open(input) {
    for (const file of input.files) await this.#openFile(file);
    input.value = ""; // so that the same file can be opened again
  }

  async #openFile(file) {
    try {
      this.#store.takeFile(await readFile(file, this.#store.files + 1));
      this.#opened = "";
    } catch (error) {
      if (!(error instanceof NoRecording)) throw error;
      this.#opened = error.message;
    }
    this.drawSoon();
  }

  #acceptDrops() {
    const pane = byId("frames");
    pane.addEventListener("dragover", (event) => event.preventDefault());
    pane.addEventListener("drop", async (event) => {
      event.preventDefault();
      for (const file of event.dataTransfer.files) await this.#openFile(file);
    });
  }
}
