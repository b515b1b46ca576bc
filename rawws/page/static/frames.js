// Panel "Frames": a table of which only what is in view is drawn, so that ten thousand rows cost as much as forty.

import { byId, bytes, el, plural, soon } from "./dom.js";
import { FrameView } from "./frame.js";
import { DIRECTIONS, SHORT_DIRECTIONS } from "./marks.js";

const ROW_PX = 26;
const SPARE_ROWS = 8;
const EXPORTED_RUN = 1_000_000_000;
const COLUMNS = [
  ["time", "Time"],
  ["of", "Conn."],
  ["way", "Direction"],
  ["opcode", "Opcode"],
  ["flags", "F RSV"],
  ["mask", "Mask"],
  ["wire", "Wire"],
  ["size", "Message"],
  ["preview", "Payload"],
];

const CHOICES = {
  all: () => true,
  data: (frame) => !frame.isControl,
  control: (frame) => frame.isControl,
  client: (frame) => frame.sender === "client",
  server: (frame) => frame.sender === "server",
};

export class Frames {
  #trace;
  #upgrade;
  #rows = []; // those that pass the filter
  #seen = 0; // the number of the last frame that was held against the filter
  #selected = null;
  #paused = false;
  #body = el("div", { class: "rows", role: "rowgroup" });
  #space = el("div", { class: "space", role: "presentation" }, this.#body);
  #scroller = byId("table");

  constructor(trace, upgrade) {
    this.#trace = trace;
    this.#upgrade = upgrade;
    this.view = new FrameView(trace, byId("frame"));
    const head = COLUMNS.map(([name, title]) => el("span", { class: name, role: "columnheader" }, title));
    this.#scroller.append(
      el("div", { class: "row titles", role: "row", "aria-rowindex": "1" }, ...head),
      this.#space,
    );
    this.drawSoon = soon(() => this.#draw());
    trace.addEventListener("frames", () => {
      if (!this.#trace.frames.length) this.#forget();
      if (!this.#paused) this.#takeNew();
      this.drawSoon();
    });
    this.#scroller.addEventListener("scroll", this.drawSoon, { passive: true });
    this.#scroller.addEventListener("keydown", (event) => this.#onKey(event));
    new ResizeObserver(this.drawSoon).observe(this.#scroller);
    for (const id of ["find", "which", "only"]) byId(id).addEventListener("input", () => this.filter());
    byId("pause").addEventListener("click", () => this.#pause());
    byId("clear").addEventListener("click", () => trace.clear());
    byId("export").addEventListener("click", () => this.#export());
  }

  /** Hold all frames against the filter again. */
  filter() {
    this.#rows = [];
    this.#seen = 0;
    this.#takeNew();
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.drawSoon();
  }

  #forget() {
    this.#rows = [];
    this.#select(null);
  }

  #passes() {
    const find = byId("find").value.trim().toLowerCase();
    const choice = CHOICES[byId("which").value];
    const only = byId("only").checked ? this.#upgrade.selected : null;
    return (frame) =>
      frame.isCut ||
      (choice(frame) &&
        (only === null || frame.of === only) &&
        (!find ||
          frame.preview.toLowerCase().includes(find) ||
          frame.opcode.toLowerCase().includes(find) ||
          frame.of.label === find));
  }

  #takeNew() {
    const frames = this.#trace.frames;
    if (!frames.length) return;
    const passes = this.#passes();
    let at = frames.length;
    while (at > 0 && frames[at - 1].number > this.#seen) at -= 1;
    for (; at < frames.length; at += 1) if (passes(frames[at])) this.#rows.push(frames[at]);
    this.#seen = frames[frames.length - 1].number;
    const oldest = frames[0].number;
    if (this.#rows.length && this.#rows[0].number < oldest) {
      const gone = this.#rows.findIndex((frame) => frame.number >= oldest);
      const removed = gone < 0 ? this.#rows.length : gone;
      this.#rows.splice(0, removed);
      if (!this.#follows) this.#scroller.scrollTop -= removed * ROW_PX;
    }
  }

  get #follows() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    return scrollHeight - scrollTop - clientHeight < 2 * ROW_PX;
  }

  #draw() {
    const scroller = this.#scroller;
    const follows = this.#follows && !this.#paused;
    const rows = this.#rows;
    this.#space.style.height = `${rows.length * ROW_PX}px`;
    scroller.setAttribute("aria-rowcount", rows.length + 1);
    if (follows) scroller.scrollTop = scroller.scrollHeight;
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
    return frame.isCut ? this.#cutRow(frame, index) : this.#frameRow(frame, index);
  }

  #cutRow(cut, index) {
    const properties = {
      class: "row cut",
      role: "row",
      id: `frame-${cut.number}`,
      "aria-rowindex": index + 2,
      "aria-selected": String(cut === this.#selected),
    };
    return el("div", properties, el("span", { role: "gridcell", "aria-colspan": COLUMNS.length, title: cut.told }, cut.told));
  }

  #frameRow(frame, index) {
    const message = frame.message_size ?? frame.size;
    const cells = {
      time: `${(frame.at - this.#trace.began).toFixed(3)}`,
      of: `${frame.of.label}${frame.of.peer ? ` ${frame.of.peer.name}` : ""}`,
      way: el(
        "span",
        {},
        el("span", { class: "long" }, DIRECTIONS[frame.sender]),
        el("span", { class: "short" }, SHORT_DIRECTIONS[frame.sender]),
      ),
      opcode: frame.opcode,
      flags: `${frame.fin ? 1 : 0} ${frame.rsv}`,
      mask: frame.mask ?? "–",
      wire: frame.wire.toLocaleString("en"),
      size: message.toLocaleString("en"),
      preview: frame.preview,
    };
    const isSelected = frame === this.#selected;
    return el(
      "div",
      {
        class: `row ${frame.sender}${frame.isControl ? " control" : ""}`,
        role: "row",
        id: `frame-${frame.number}`,
        "aria-rowindex": index + 2,
        "aria-selected": String(isSelected),
        onclick: () => this.#select(frame),
      },
      ...COLUMNS.map(([name]) => el("span", { class: name, role: "gridcell" }, cells[name])),
    );
  }

  #drawTotals() {
    const { frames, frameCount, wireBytes, messageBytes, lost, forgotten } = this.#trace;
    const parts = [`${plural(frameCount + forgotten, "frame")}: ${bytes(wireBytes)} on the wire`];
    parts.push(`${bytes(messageBytes)} of messages and control payloads`);
    if (this.#rows.length !== frames.length) {
      parts.push(`${this.#rows.filter((frame) => !frame.isCut).length.toLocaleString("en")} shown`);
    }
    if (lost) parts.push(`about ${lost.toLocaleString("en")} more were not shown, so as not to slow the server`);
    if (forgotten) parts.push(`the first ${forgotten.toLocaleString("en")} are forgotten`);
    if (this.#paused) parts.push("paused");
    byId("totals").textContent = frames.length || lost ? `${parts.join("; ")}.` : "No frames yet.";
  }

  #select(frame) {
    this.#selected = frame;
    this.view.show(frame?.isCut ? null : frame);
    if (frame && !frame.isCut && frame.of !== this.#upgrade.selected && !byId("only").checked) this.#upgrade.select(frame.of);
    this.drawSoon();
  }

  #onKey(event) {
    const page = Math.max(1, Math.floor(this.#scroller.clientHeight / ROW_PX) - 2);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    if (step === undefined || !this.#rows.length) return;
    event.preventDefault();
    const at = this.#rows.indexOf(this.#selected);
    const from = at < 0 ? (step > 0 ? -1 : this.#rows.length) : at;
    const index = Math.min(Math.max(from + step, 0), this.#rows.length - 1);
    const top = index * ROW_PX;
    const { scrollTop, clientHeight } = this.#scroller;
    const room = clientHeight - 2 * ROW_PX; // but for the titles
    if (top < scrollTop) this.#scroller.scrollTop = top;
    else if (top > scrollTop + room) this.#scroller.scrollTop = top - room;
    this.#select(this.#rows[index]);
  }

  #pause() {
    this.#paused = !this.#paused;
    byId("pause").setAttribute("aria-pressed", String(this.#paused));
    if (!this.#paused) this.#takeNew();
    this.drawSoon();
  }

  /**
   * Save what is shown, as an array of records with one on each line: `rawws decode` reads it too. Where there are more
   * runs than one, a connection's number begins with that of an earlier one, since each may occur in all of them.
   */
  #export() {
    const kept = ["at", "connection", "kind", "sender", "header", "payload", "left_out", "tail"];
    const number = ({ run, number }) => (run.isCurrent ? number : run.number * EXPORTED_RUN + number);
    const lines = this.#rows
      .filter((frame) => !frame.isCut)
      .map((frame) => JSON.stringify({ ...frame, kind: "frame", connection: number(frame.of) }, kept));
    const file = new Blob([`[\n${lines.join(",\n")}\n]\n`], { type: "application/json" });
    const link = el("a", { href: URL.createObjectURL(file), download: "rawws-frames.json" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }
}
