// Three ways of reading one room, which begin after the same message: so they count the same messages.

import { utf8 } from "../text.js";

const WITH_IDS = "rawws.id.v1"; // a line of JSON with the id goes before each message
const WAIT_S = 20;

const sizeOf = (text) => utf8(text).length;

/** One way of reading; `start` begins it after a message, and `stop` ends it. It counts what it got, in how many bytes. */
class Way {
  constructor(name, how) {
    this.name = name;
    this.how = how;
    this.messages = 0;
    this.body = 0; // bytes that came for messages
    this.heads = 0; // bytes of HTTP around them, as the server saw them
    this.last = "";
    this.lastId = "";
    this.besides = ""; // what came that is no message of the room
    this.more = 0; // and its bytes
    this.changed = () => {};
  }

  take(id, text, size) {
    this.messages += 1;
    this.body += size;
    this.last = text;
    this.lastId = id;
    this.changed();
  }

  takeBesides(what, size) {
    this.besides = what;
    this.more += size;
    this.changed();
  }

  get cost() {
    return this.messages ? (this.body + this.heads + this.more) / this.messages : null;
  }
}

class BySocket extends Way {
  constructor() {
    super("WebSocket", "one handshake, then frames");
  }

  start(path, since) {
    this.target = `${path}?since=${since}`;
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}${this.target}`, WITH_IDS);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = ({ data }) => this.#read(data);
    return new Promise((resolve, reject) => {
      this.socket.onopen = resolve;
      this.socket.onclose = () => reject(new Error("the WebSocket was closed"));
    });
  }

  #read(data) {
    const isText = typeof data === "string";
    const raw = isText ? utf8(data) : new Uint8Array(data);
    const size = raw.length + (raw.length < 126 ? 2 : raw.length < 65536 ? 4 : 10); // as it is without compression
    const end = raw.indexOf(10);
    const { id, at } = JSON.parse(new TextDecoder().decode(raw.slice(0, end)));
    const rest = raw.slice(end + 1);
    if (id === undefined) this.takeBesides(at === undefined ? "a greeting" : this.besides || "its place in the room", size);
    else this.take(id, isText ? new TextDecoder().decode(rest) : `${rest.length} bytes`, size);
  }

  stop() {
    if (this.socket) this.socket.onclose = null;
    this.socket?.close();
  }

  owns(connection) {
    return connection.field("Upgrade") !== null && connection.target === this.target;
  }
}

class ByEvents extends Way {
  constructor() {
    super("Server-Sent Events", "one request, whose answer goes on");
  }

  start(path, since) {
    this.target = `${path}?since=${since}`;
    this.source = new EventSource(this.target);
    const take = (kind) => (event) => {
      const lines = event.data.split("\n").map((line) => `data: ${line}\n`);
      const raw = `id: ${event.lastEventId}\n${kind ? `event: ${kind}\n` : ""}${lines.join("")}\n`;
      this.take(event.lastEventId, event.data, sizeOf(raw));
    };
    this.source.onmessage = take("");
    this.source.addEventListener("binary", take("binary"));
    return new Promise((resolve, reject) => {
      this.source.onopen = resolve;
      this.source.onerror = () => reject(new Error("the events ended"));
    });
  }

  stop() {
    this.source?.close();
  }

  owns(connection) {
    return connection.target === this.target && (connection.field("Accept") ?? "").includes("text/event-stream");
  }
}

class ByPolling extends Way {
  constructor() {
    super("Polling", "a request for each answer, which waits until there is something");
  }

  async start(path, since) {
    this.path = path;
    this.going = new AbortController();
    this.#poll(path, since);
  }

  async #poll(path, since) {
    const { signal } = this.going;
    let next = since;
    try {
      while (!signal.aborted) {
        const answer = await fetch(`${path}?since=${next}&wait=${WAIT_S}`, { signal, cache: "no-store" });
        const text = await answer.text();
        if (!answer.ok) throw new Error(text);
        const told = JSON.parse(text);
        next = told.next;
        if (!told.messages.length) this.takeBesides("empty answers", sizeOf(text));
        const share = sizeOf(text) / Math.max(1, told.messages.length);
        for (const message of told.messages) {
          this.take(message.id, message.text ?? `${message.base64.length} characters of base64`, share);
        }
      }
    } catch (error) {
      if (!signal.aborted) this.takeBesides(`ended: ${error.message}`, 0);
    }
  }

  stop() {
    this.going?.abort();
  }

  owns(connection) {
    return connection.target.startsWith(`${this.path}?since=`) && connection.target.includes("&wait=");
  }
}

/** Begin to read a room in all three ways; resolves once each of them will get the next message. */
export async function readThreeWays(path, prepare) {
  const answer = await fetch(`${path}?last=0`, { cache: "no-store" });
  const text = await answer.text();
  if (!answer.ok) throw new Error(text.trim());
  const { next } = JSON.parse(text);
  const ways = [new BySocket(), new ByEvents(), new ByPolling()];
  prepare(ways);
  await Promise.all(ways.map((way) => way.start(path, next)));
  return ways;
}
