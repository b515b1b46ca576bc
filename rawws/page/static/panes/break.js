// Pane "Break it": cases that the server tries on itself, since no browser can.

import { byId, el, rove, sectionLink } from "../dom.js";
import { plural } from "../text.js";

const AT_ONCE = 4; // as the server does, so that other questions needn't wait for all of them
const VERDICTS = ["good", "lax", "BAD", "unclear"];

export class BreakPane {
  #watch;
  #route;
  #cases = new Map(); // by name: {case, button, verdict, result}
  #groups = new Map(); // by title: {title, score}
  #running = false;
  #stopAt;
  #shown = null;

  constructor({ watch, route }) {
    this.#watch = watch;
    this.#route = route;
    watch.addEventListener("about", () => this.#list());
    route.addEventListener("change", () => this.#follow());
    byId("run-all").addEventListener("click", () => this.#runAll());
    this.#stopAt = rove(byId("cases"), "button");
    this.#showNothing();
  }

  async #list() {
    const { about } = this.#watch;
    byId("path-field").hidden = !about.is_tap;
    byId("dialled").textContent = about.is_tap ? "the server beyond the tap" : "itself";
    if (!byId("path").value) byId("path").value = about.case_path;
    let cases;
    try {
      ({ cases } = await this.#watch.ask("cases"));
    } catch {
      return; // the server has gone, and its next greeting asks again
    }
    this.#cases.clear();
    this.#groups.clear();
    const groups = groupBy(cases);
    byId("cases").replaceChildren(...[...groups].map(([group, its]) => this.#group(group, its)));
    this.#stopAt(byId("cases").querySelector("button"));
    this.#count();
    byId("run-all").disabled = this.#running; // until now there was nothing to be run
    this.#follow();
  }

  #group(group, cases) {
    const score = el("span", { class: "score" });
    const title = el("h3", { id: `group-${this.#groups.size}` }, group, " ", score);
    this.#groups.set(group, { score });
    return el("section", { "aria-labelledby": title.id }, title, el("ul", {}, ...cases.map((each) => this.#item(each))));
  }

  #item(each) {
    const verdict = el("span", { class: "verdict" });
    const button = el("button", { type: "button", "aria-pressed": "false", onclick: () => this.#run(each.name) });
    button.append(el("span", {}, each.title), " ", verdict);
    this.#cases.set(each.name, { case: each, button, verdict, result: null });
    return el("li", {}, button);
  }

  /** Show the case that the page's address names; it is run if it hasn't been. */
  #follow() {
    if (this.#route.pane !== "break" || this.#route.id === "") return;
    const entry = this.#cases.get(this.#route.id);
    if (!entry || entry === this.#shown) return;
    if (entry.result) this.#show(entry);
    else this.#run(entry.case.name);
  }

  async #try(entry) {
    entry.verdict.textContent = "…";
    entry.verdict.className = "verdict";
    entry.result = await this.#watch.ask("case", { name: entry.case.name, path: byId("path").value });
    entry.verdict.textContent = entry.result.verdict;
    entry.verdict.className = `verdict ${entry.result.verdict.toLowerCase()}`;
    this.#count();
  }

  async #run(name) {
    const entry = this.#cases.get(name);
    for (const { button } of this.#cases.values()) button.setAttribute("aria-pressed", String(button === entry.button));
    this.#stopAt(entry.button);
    this.#shown = entry;
    this.#route.show("break", name);
    try {
      await this.#try(entry);
      if (this.#shown === entry) this.#show(entry);
    } catch (error) {
      entry.verdict.textContent = "";
      byId("case").replaceChildren(el("p", { class: "error" }, `${error.message}.`));
    }
  }

  async #runAll() {
    if (this.#running) return;
    this.#running = true;
    byId("run-all").disabled = true;
    try {
      const waiting = [...this.#cases.values()];
      const tryNext = async () => {
        while (waiting.length) await this.#try(waiting.shift());
      };
      await Promise.all(Array.from({ length: AT_ONCE }, tryNext));
    } catch (error) {
      byId("score").textContent = `${error.message}.`;
    } finally {
      this.#running = false;
      byId("run-all").disabled = false;
    }
  }

  /** Count the verdicts, of all cases and of each group. */
  #count() {
    const all = [...this.#cases.values()];
    byId("score").textContent = tally(all) || plural(all.length, "case");
    for (const [group, { score }] of this.#groups) {
      const its = all.filter((each) => each.case.group === group);
      score.textContent = tally(its) || plural(its.length, "case");
    }
  }

  #showNothing() {
    const told = "Choose a case to run it, or run all: what was sent, what came back and the verdict appear here.";
    byId("case").replaceChildren(el("p", { class: "empty" }, told));
  }

  #show(entry) {
    this.#shown = entry;
    const { case: tried, result } = entry;
    const block = (kind, label, text) => el("pre", { class: kind, tabindex: "0", role: "region", "aria-label": label }, text);
    byId("case").replaceChildren(
      el("h3", {}, `The server is sent ${tried.title}`),
      el(
        "dl",
        { class: "facts" },
        el("dt", {}, "The RFC says"),
        el("dd", {}, `${tried.rule} `, sectionLink(tried.section)),
        el("dt", {}, "It did"),
        el("dd", {}, el("span", { class: `verdict ${result.verdict.toLowerCase()}` }, result.verdict), ` ${result.got}`),
      ),
      el("h4", {}, "What crossed the wire"),
      block("story", "What crossed the wire", result.story.join("\n")),
      el("h4", {}, "Sent, in hex"),
      block("dump", "Bytes sent", rows(result.sent)),
      el("h4", {}, "Received, in hex"),
      block("dump", "Bytes received", rows(result.received) || "nothing"),
    );
    byId("case").scrollTop = 0;
  }
}

/** "12 good, 1 lax", and how many haven't been run; empty if none has. */
function tally(entries) {
  const tried = entries.filter(({ result }) => result);
  if (!tried.length) return "";
  const counts = VERDICTS.map((verdict) => [tried.filter(({ result }) => result.verdict === verdict).length, verdict]);
  const parts = counts.filter(([count]) => count).map(([count, verdict]) => `${count} ${verdict}`);
  const left = entries.length - tried.length;
  return [...parts, ...(left ? [`${left} not run`] : [])].join(", ");
}

function groupBy(cases) {
  const groups = new Map();
  for (const each of cases) groups.set(each.group, [...(groups.get(each.group) ?? []), each]);
  return groups;
}

const rows = (hex) => (hex.match(/.{1,32}/g) ?? []).map((row) => row.match(/../g).join(" ")).join("\n");
