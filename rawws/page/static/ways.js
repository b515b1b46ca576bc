// Panel "Other ways in": one room by WebSocket, events and polling at the same time, and what each costs.

import { byId, bytes, el } from "./dom.js";
import { SNIPPETS } from "./snippets.js";

const encoder = new TextEncoder();
const sizeOf = (text) => encoder.encode(text).length;
const WAIT_S = 20;

/** One way of reading; `start` begins it, and `stop` ends it. It counts what it got, and in how many bytes. */
class Way {
  constructor(name, how) {
    this.name = name;
    this.how = how;
    this.messages = 0;
    this.body = 0; // bytes that came for messages
    this.heads = 0; // bytes of HTTP around them, as the server saw them
    this.last = "";
  }

  take(text, size) {
    this.messages += 1;
    this.body += size;
    this.last = text;
    this.changed();
  }

  get cost() {
    return this.messages ? `${((this.body + this.heads) / this.messages).toFixed(0)} bytes` : "–";
  }
}

class BySocket extends Way {
  constructor() {
    super("WebSocket", "one handshake, then frames");
  }

  start(path) {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}${path}`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = ({ data }) => {
      const size = typeof data === "string" ? sizeOf(data) : data.byteLength;
      const header = size < 126 ? 2 : size < 65536 ? 4 : 10; // as it is without compression
      this.take(typeof data === "string" ? data : `${size} bytes`, size + header);
    };
  }

  stop() {
    this.socket?.close();
  }

  owns(connection) {
    return connection.field("Upgrade") !== null && connection.target === this.path && connection.peer === null && connection.field("Origin") === location.origin;
  }
}

class ByEvents extends Way {
  constructor() {
    super("Server-Sent Events", "one request, whose answer goes on");
  }

  start(path) {
    this.source = new EventSource(path);
    const take = (kind) => (event) => {
      const lines = event.data.split("\n").map((line) => `data: ${line}\n`);
      const raw = `id: ${event.lastEventId}\n${kind ? `event: ${kind}\n` : ""}${lines.join("")}\n`;
      this.take(event.data, sizeOf(raw));
    };
    this.source.onmessage = take("");
    this.source.addEventListener("binary", take("binary"));
  }

  stop() {
    this.source?.close();
  }

  owns(connection) {
    return connection.target === this.path && (connection.field("Accept") ?? "").includes("text/event-stream");
  }
}

class ByPolling extends Way {
  constructor() {
    super("Polling", "a request for each answer, which waits until there is something");
  }

  async start(path) {
    this.going = new AbortController();
    const { signal } = this.going;
    const ask = async (query) => {
      const answer = await fetch(`${path}?${query}`, { signal, cache: "no-store" });
      if (!answer.ok) throw new Error(await answer.text());
      return answer.text();
    };
    try {
      let { next } = JSON.parse(await ask("last=0"));
      while (!signal.aborted) {
        const text = await ask(`since=${next}&wait=${WAIT_S}`);
        const told = JSON.parse(text);
        next = told.next;
        const share = sizeOf(text) / Math.max(1, told.messages.length);
        if (!told.messages.length) this.body += sizeOf(text);
        for (const message of told.messages) this.take(message.text ?? `${message.base64.length} characters`, share);
      }
    } catch (error) {
      if (!signal.aborted) this.last = `ended: ${error.message}`;
    }
    this.changed();
  }

  stop() {
    this.going?.abort();
  }

  owns(connection) {
    return connection.target.startsWith(`${this.path}?since=`);
  }
}

export class Ways {
  #trace;
  #all = [];

  constructor(trace) {
    this.#trace = trace;
    trace.addEventListener("about", () => this.#offer());
    trace.addEventListener("answered", ({ detail }) => this.#countHeads(detail));
    byId("read-all").addEventListener("click", () => this.#toggle());
    byId("post").addEventListener("submit", (event) => this.#post(event));
    byId("room").addEventListener("input", () => this.#showSnippet());
    for (const name of Object.keys(SNIPPETS)) {
      const input = el("input", { type: "radio", name: "snippet", value: name, onchange: () => this.#showSnippet() });
      byId("snippet-choice").append(el("label", {}, input, ` ${name}`));
    }
    byId("snippet-choice").querySelector("input").checked = true;
    byId("copy").addEventListener("click", () => navigator.clipboard?.writeText(byId("snippet").textContent));
  }

  get #path() {
    return byId("room").value.trim() || "/";
  }

  #offer() {
    const { has_rooms: hasRooms, path } = this.#trace.about;
    byId("ways").hidden = !hasRooms;
    document.querySelector('a[href="#ways"]').hidden = !hasRooms;
    if (hasRooms && !byId("room").value) byId("room").value = path;
    this.#showSnippet();
  }

  #showSnippet() {
    const chosen = document.querySelector("input[name=snippet]:checked").value;
    byId("snippet").textContent = SNIPPETS[chosen](location.protocol === "https:", location.host, this.#path);
  }

  #toggle() {
    const button = byId("read-all");
    if (this.#all.length) {
      for (const way of this.#all) way.stop();
      this.#all = [];
      button.textContent = "Read it three ways";
      button.setAttribute("aria-pressed", "false");
      return;
    }
    button.textContent = "Stop reading";
    button.setAttribute("aria-pressed", "true");
    this.#all = [new BySocket(), new ByEvents(), new ByPolling()];
    byId("ways-rows").replaceChildren(...this.#all.map((way) => this.#row(way)));
    for (const way of this.#all) {
      way.path = this.#path;
      way.start(this.#path);
    }
  }

  #row(way) {
    const cells = ["messages", "heads", "body", "cost", "last"].map((name) => [name, el("td", { class: `way-${name}` })]);
    way.changed = () => {
      const shown = { ...way, cost: way.cost, heads: bytes(way.heads), body: bytes(Math.round(way.body)) };
      for (const [name, cell] of cells) cell.textContent = String(shown[name]).slice(0, 80);
    };
    way.changed();
    const title = el("th", { scope: "row" }, way.name, el("span", { class: "hint" }, ` ${way.how}`));
    return el("tr", {}, title, ...cells.map(([, cell]) => cell));
  }

  /** Count a connection's HTTP to the way that it belongs to. */
  #countHeads(connection) {
    const way = this.#all.find((each) => each.owns(connection));
    if (!way || !connection.request) return;
    const { request, response } = connection;
    for (const { lines } of [request, response]) way.heads += lines.reduce((sum, line) => sum + line.length + 2, 2);
    way.changed();
  }

  async #post(event) {
    event.preventDefault();
    const told = byId("post-told");
    try {
      const body = byId("post-body").value;
      const answer = await fetch(this.#path, { method: "POST", body, headers: { "Content-Type": "text/plain" } });
      told.textContent = `${answer.status}: ${(await answer.text()).trim()}`;
      told.classList.toggle("error", !answer.ok);
    } catch (error) {
      told.textContent = error.message;
      told.classList.add("error");
    }
  }
}
