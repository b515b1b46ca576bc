// Panel "Break it": cases that the server tries on itself, since no browser can.

import { byId, el, plural, sectionLink } from "./dom.js";

const AT_ONCE = 4; // as the server does, so that other questions needn't wait behind all of them
const WORDS = { good: "good", lax: "lax", BAD: "BAD", unclear: "unclear" };

export class Breaker {
  #trace;
  #cases = new Map(); // by name: {case, button, verdict, result}
  #running = false;

  constructor(trace) {
    this.#trace = trace;
    trace.addEventListener("about", () => this.#list());
    byId("run-all").addEventListener("click", () => this.#runAll());
  }

  async #list() {
    const { about } = this.#trace;
    byId("path-field").hidden = !about.is_tap;
    byId("dialled").textContent = about.is_tap ? "the server behind the tap" : "itself";
    if (!byId("path").value) byId("path").value = about.case_path;
    const { cases } = await this.#trace.ask("cases");
    this.#cases.clear();
    byId("cases").replaceChildren(
      ...cases.map((each) => {
        const verdict = el("span", { class: "verdict" });
        const button = el("button", { type: "button", "aria-pressed": "false", onclick: () => this.#run(each.name) });
        button.append(el("span", {}, each.title), " ", verdict);
        this.#cases.set(each.name, { case: each, button, verdict, result: null });
        return el("li", {}, button);
      }),
    );
    byId("score").textContent = plural(cases.length, "case");
    byId("run-all").disabled = this.#running; // until now there was nothing to be run
  }

  async #try(entry) {
    entry.verdict.textContent = "…";
    entry.verdict.className = "verdict";
    entry.result = await this.#trace.ask("case", { name: entry.case.name, path: byId("path").value });
    entry.verdict.textContent = WORDS[entry.result.verdict];
    entry.verdict.className = `verdict ${entry.result.verdict.toLowerCase()}`;
  }

  async #run(name) {
    const entry = this.#cases.get(name);
    for (const { button } of this.#cases.values()) button.setAttribute("aria-pressed", String(button === entry.button));
    try {
      await this.#try(entry);
      this.#show(entry);
    } catch (error) {
      entry.verdict.textContent = "";
      byId("case").replaceChildren(el("p", { class: "error" }, `${error.message}.`));
    }
  }

  async #runAll() {
    if (this.#running) return;
    this.#running = true;
    const button = byId("run-all");
    button.disabled = true;
    try {
      const waiting = [...this.#cases.values()];
      const tryNext = async () => {
        while (waiting.length) await this.#try(waiting.shift());
      };
      await Promise.all(Array.from({ length: AT_ONCE }, tryNext));
      const counts = {};
      for (const { result } of this.#cases.values()) counts[result.verdict] = (counts[result.verdict] ?? 0) + 1;
      byId("score").textContent = Object.entries(counts)
        .map(([verdict, count]) => `${count} ${verdict}`)
        .join(", ");
    } catch (error) {
      byId("score").textContent = `${error.message}.`;
    } finally {
      this.#running = false;
      button.disabled = false;
    }
  }

  #show({ case: tried, result }) {
    byId("case").replaceChildren(
      el("h3", {}, `The server is sent ${tried.title}`),
      el(
        "dl",
        {},
        el("dt", {}, "The RFC says"),
        el("dd", {}, `${tried.rule} `, sectionLink(tried.section)),
        el("dt", {}, "It did"),
        el("dd", {}, el("span", { class: `verdict ${result.verdict.toLowerCase()}` }, WORDS[result.verdict]), ` ${result.got}`),
      ),
      el("h4", {}, "What crossed the wire"),
      el("pre", { class: "story", tabindex: "0", "aria-label": "What crossed the wire" }, result.story.join("\n")),
      el("h4", {}, "Sent, in hex"),
      el("pre", { class: "dump", tabindex: "0", "aria-label": "Bytes sent" }, rows(result.sent)),
      el("h4", {}, "Received, in hex"),
      el("pre", { class: "dump", tabindex: "0", "aria-label": "Bytes received" }, rows(result.received) || "nothing"),
    );
  }
}

const rows = (hex) => (hex.match(/.{1,32}/g) ?? []).map((row) => row.match(/../g).join(" ")).join("\n");
