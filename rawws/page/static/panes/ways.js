// Pane "Other ways in": one room by WebSocket, events and polling at the same time, and what each costs.

import { byId, copyButton, el } from "../dom.js";
import { SNIPPETS } from "../snippets.js";
import { readThreeWays } from "../state/ways.js";
import { bytes, shorten } from "../text.js";

const SHOWN_CHARACTERS = 80;

export class WaysPane {
  #watch;
  #ways = [];

  constructor({ store, watch }) {
    this.#watch = watch;
    watch.addEventListener("about", () => this.#offer());
    store.addEventListener("answered", ({ detail }) => this.#countHeads(detail));
    byId("read-all").addEventListener("click", () => this.#toggle());
    byId("post").addEventListener("submit", (event) => this.#post(event));
    byId("room").addEventListener("input", () => this.#showSnippet());
    for (const name of Object.keys(SNIPPETS)) {
      const input = el("input", { type: "radio", name: "snippet", value: name, onchange: () => this.#showSnippet() });
      byId("snippet-choice").append(el("label", {}, input, ` ${name}`));
    }
    byId("snippet-choice").querySelector("input").checked = true;
    byId("copy-snippet").append(copyButton("Copy", () => byId("snippet").textContent));
    this.#drawRows([]);
  }

  get #path() {
    return byId("room").value.trim() || "/";
  }

  #offer() {
    const { has_rooms: hasRooms, is_tap: isTap, path } = this.#watch.about;
    byId("ways-body").hidden = !hasRooms;
    byId("no-ways").hidden = hasRooms;
    byId("no-ways").textContent = isTap
      ? "A tap shows another server's WebSockets. Whether that server has other ways in, only its own documentation says."
      : "This server has no rooms, which could be read in other ways: it is in echo mode, or an application's own.";
    if (hasRooms && !byId("room").value) byId("room").value = path;
    this.#showSnippet();
  }

  #showSnippet() {
    const chosen = document.querySelector("input[name=snippet]:checked").value;
    byId("snippet").textContent = SNIPPETS[chosen](location.protocol === "https:", location.host, this.#path);
  }

  async #toggle() {
    if (this.#ways.length) {
      this.#stop();
      return;
    }
    const button = byId("read-all");
    button.textContent = "Stop reading";
    button.setAttribute("aria-pressed", "true");
    this.#tell("");
    try {
      await readThreeWays(this.#path, (ways) => {
        this.#ways = ways;
        this.#drawRows(ways);
      });
      this.#tell("All three read: publish something.");
    } catch (error) {
      this.#stop();
      this.#tell(error.message, true);
    }
  }

  #stop() {
    for (const way of this.#ways) way.stop();
    this.#ways = [];
    byId("read-all").textContent = "Read it three ways";
    byId("read-all").setAttribute("aria-pressed", "false");
    this.#tell("");
  }

  #tell(text, isError = false) {
    byId("ways-told").textContent = text;
    byId("ways-told").classList.toggle("error", isError);
  }

  #drawRows(ways) {
    if (ways.length) byId("ways-rows").replaceChildren(...ways.map((way) => this.#row(way)));
    else {
      const told = "“Read it three ways” opens a WebSocket, an event stream and a poll of this room at once.";
      byId("ways-rows").replaceChildren(el("tr", {}, el("td", { colspan: "8", class: "note" }, told)));
    }
  }

  #row(way) {
    const names = ["messages", "id", "last", "body", "heads", "besides", "cost"];
    const cells = Object.fromEntries(names.map((name) => [name, el("td", { class: `way-${name}` })]));
    way.changed = () => {
      const shown = {
        messages: way.messages,
        id: way.lastId || "none",
        last: way.messages ? way.last : "none",
        body: bytes(Math.round(way.body)),
        heads: bytes(way.heads),
        cost: way.cost === null ? "not known yet" : bytes(Math.round(way.cost)),
        besides: way.besides ? `${way.besides}, ${bytes(way.more)}` : "nothing",
      };
      for (const [name, cell] of Object.entries(cells)) cell.textContent = shorten(String(shown[name]), SHOWN_CHARACTERS);
    };
    way.changed();
    const title = el("th", { scope: "row" }, way.name, el("span", { class: "note" }, way.how));
    return el("tr", {}, title, ...Object.values(cells));
  }

  /** Count a connection's HTTP to the way that it belongs to. */
  #countHeads(connection) {
    const way = this.#ways.find((each) => each.owns(connection));
    if (!way || !connection.request) return;
    const { request, response } = connection;
    for (const { lines } of [request, response]) way.heads += lines.reduce((sum, line) => sum + line.length + 2, 2);
    way.changed();
  }

  async #post(event) {
    event.preventDefault();
    try {
      const body = byId("post-body").value;
      const answer = await fetch(this.#path, { method: "POST", body, headers: { "Content-Type": "text/plain" } });
      this.#tell(`${answer.status}: ${(await answer.text()).trim()}`, !answer.ok);
    } catch (error) {
      this.#tell(error.message, true);
    }
  }
}
