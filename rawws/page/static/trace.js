// What the server tells: its connections and frames, over the page's own WebSocket (rawws/page/feed.py has the messages).

const KEPT_FRAMES = 20_000;
const KEPT_CONNECTIONS = 500; // as in rawws/page/feed.py
const RETRY_MS = [500, 1000, 2000, 5000];

const HOME = "/_rawws/";

/** One connection, as far as it was seen. `request` and `response` have `lines` and `checks`. */
class Connection {
  constructor(number) {
    this.number = number;
    this.from = "";
    this.request = null;
    this.response = null;
    this.accept = null;
    this.switched = false;
    this.ended = null;
    this.peer = null; // of this page
    this.checks = { client: [], server: [] };
  }

  get target() {
    return this.request ? (this.request.lines[0].split(" ")[1] ?? "") : "";
  }

  /** Whether the page itself needs it. */
  get isOurs() {
    return this.target.startsWith(HOME) && !this.target.endsWith("/break-it");
  }

  field(name) {
    const line = this.request?.lines.find((each) => each.toLowerCase().startsWith(`${name.toLowerCase()}:`));
    return line === undefined ? null : line.slice(name.length + 1).trim();
  }

  get state() {
    if (this.ended !== null) return "ended";
    return this.switched ? "open" : this.request ? "HTTP" : "open";
  }

  take(record) {
    switch (record.kind) {
      case "open":
        this.from = record.from;
        break;
      case "head": {
        const lines = record.head.replace(/(\r?\n)+$/, "").split(/\r?\n/);
        if (record.sender === "client") {
          this.request = { lines };
          this.response = null;
          this.accept = null;
          this.checks = { client: [], server: [] };
        } else {
          this.response = { lines };
        }
        break;
      }
      case "checks":
        this.checks[record.sender] = record.checks;
        this.accept = record.accept ?? this.accept;
        break;
      case "switch":
        this.switched = true;
        break;
      case "end":
        this.ended = record.told;
        break;
    }
  }
}

/**
 * Events: "state" (see `state`), "about", "connection" (detail: a Connection that has changed), "answered" (detail: one
 * with a new request and its response), "frames" (some more, or none any more).
 */
export class Trace extends EventTarget {
  constructor() {
    super();
    this.state = "connecting";
    this.about = null;
    this.connections = new Map();
    this.frames = [];
    this.lost = 0; // told by the server: what it did not show
    this.forgotten = 0; // to make room for newer ones
    this.wireBytes = 0;
    this.messageBytes = 0;
    this.began = null; // time of the first frame, in seconds
    this.#reset();
  }

  #socket = null;
  #tries = 0;
  #asked = new Map();
  #number = 0;
  #frameNumber = 0;

  #reset() {
    this.connections.clear();
    this.clear();
  }

  /** Forget the frames. */
  clear() {
    this.frames = [];
    this.lost = this.forgotten = this.wireBytes = this.messageBytes = 0;
    this.began = null;
    this.dispatchEvent(new Event("frames"));
  }

  connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}${HOME}trace`);
    this.#socket = socket;
    socket.onmessage = (event) => this.#receive(JSON.parse(event.data));
    socket.onclose = () => {
      for (const { reject } of this.#asked.values()) reject(new Error("the server has gone"));
      this.#asked.clear();
      this.#setState("lost");
      setTimeout(() => this.connect(), RETRY_MS[Math.min(this.#tries++, RETRY_MS.length - 1)]);
    };
  }

  /** Ask the server; resolves to its answer, and rejects with an Error that says why there is none. */
  ask(what, fields = {}) {
    if (this.state !== "watching") return Promise.reject(new Error("the server can't be reached"));
    const number = ++this.#number;
    this.#socket.send(JSON.stringify({ ask: number, for: what, ...fields }));
    return new Promise((resolve, reject) => this.#asked.set(number, { resolve, reject }));
  }

  #setState(state) {
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }

  #receive(told) {
    if (told.records) {
      this.#takeAll(told.records);
    } else if (told.answer !== undefined) {
      const asked = this.#asked.get(told.answer);
      this.#asked.delete(told.answer);
      if (told.error) asked?.reject(new Error(told.error));
      else asked?.resolve(told);
    } else if (told.about) {
      this.#tries = 0;
      // Another server numbers its connections anew.
      if (this.about && this.about.instance !== told.about.instance) this.#reset();
      this.about = told.about;
      this.#setState("watching");
      this.dispatchEvent(new Event("about"));
    }
  }

  #takeAll(records) {
    const changed = new Set();
    for (const record of records) {
      if (record.kind === "lost") {
        this.lost += record.records;
        continue;
      }
      if (record.kind === "end" && !this.connections.has(record.connection)) continue; // it isn't kept any more
      const connection = this.#connection(record.connection);
      if (record.kind === "frame") this.#takeFrame(record, connection);
      else {
        connection.take(record);
        changed.add(connection);
        if (record.kind === "head" && record.sender === "server") {
          this.dispatchEvent(new CustomEvent("answered", { detail: connection }));
        }
      }
    }
    for (const connection of changed) this.dispatchEvent(new CustomEvent("connection", { detail: connection }));
    this.dispatchEvent(new Event("frames"));
  }

  #connection(number) {
    let connection = this.connections.get(number);
    if (connection === undefined) {
      connection = new Connection(number);
      this.connections.set(number, connection);
      if (this.connections.size > KEPT_CONNECTIONS) {
        const all = [...this.connections.values()]; // the oldest first
        const old = all.find((each) => each.ended !== null) ?? all[0];
        this.connections.delete(old.number);
      }
      this.dispatchEvent(new CustomEvent("connection", { detail: connection }));
    }
    return connection;
  }

  #takeFrame(record, connection) {
    record.number = ++this.#frameNumber;
    record.wire = record.header.length / 2 + record.size;
    record.of = connection;
    record.isControl = ["CLOSE", "PING", "PONG"].includes(record.opcode);
    this.began ??= record.at;
    this.wireBytes += record.wire;
    this.messageBytes += record.message_size ?? record.size;
    this.frames.push(record);
    if (this.frames.length > KEPT_FRAMES * 1.1) {
      const tooMany = this.frames.length - KEPT_FRAMES;
      this.frames.splice(0, tooMany);
      this.forgotten += tooMany;
    }
  }
}
