// The line with the filter, the menu that writes into it, and the connections that the reader has chosen.

import { byId, el } from "../dom.js";
import { BadFilter, CHOICES, readFilter } from "../state/filters.js";

const WAIT_MS = 120; // while somebody types
const FREE = { path: "/chat", conn: "#1", size: ">100" };

export class FilterBar {
  #selection;
  #changed;
  #terms = [];

  constructor(selection, changed) {
    this.#selection = selection;
    this.#changed = changed;
    let timer = null;
    byId("filter").addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.#read(), WAIT_MS);
    });
    selection.addEventListener("chosen", () => this.#changed());
    this.#fillMenu();
  }

  get isActive() {
    return this.#terms.length > 0 || this.#selection.chosen.size > 0;
  }

  passes(frame) {
    if (frame.isCut) return true;
    const { chosen } = this.#selection;
    return (!chosen.size || chosen.has(frame.of)) && this.#terms.every(({ test }) => test(frame));
  }

  /** Which filters hide how many of these frames, each by itself. */
  causes(frames) {
    const { chosen } = this.#selection;
    const names = [...chosen].map((each) => each.label).join(", ");
    const all = [
      ...(chosen.size ? [{ said: `connection is ${names}, as chosen in the list`, test: (frame) => chosen.has(frame.of) }] : []),
      ...this.#terms,
    ];
    const counted = all.map(({ said, test }) => ({ said, hidden: frames.filter((frame) => !test(frame)).length }));
    return counted.filter(({ hidden }) => hidden > 0);
  }

  clear() {
    byId("filter").value = "";
    this.#terms = [];
    byId("filter-error").textContent = "";
    this.#selection.choose([]);
    this.#changed();
    byId("filter").focus();
  }

  #read() {
    const error = byId("filter-error");
    try {
      this.#terms = readFilter(byId("filter").value);
      error.textContent = "";
    } catch (problem) {
      if (!(problem instanceof BadFilter)) throw problem;
      this.#terms = [];
      error.textContent = `Nothing is filtered: ${problem.message}.`;
    }
    this.#changed();
  }

  #fillMenu() {
    const menu = byId("add-filter");
    const option = (term) => new Option(term, term);
    const groups = Object.entries(CHOICES).map(([name, values]) => {
      const terms = values.length ? values.map((value) => `${name}:${value}`) : [`${name}:${FREE[name]}`];
      return el("optgroup", { label: name }, ...terms.flatMap((term) => [option(term), option(`-${term}`)]));
    });
    menu.append(new Option("Add…", ""), ...groups);
    menu.addEventListener("change", () => {
      const field = byId("filter");
      field.value = `${field.value} ${menu.value}`.trim();
      menu.value = "";
      this.#read();
      field.focus();
    });
  }
}
