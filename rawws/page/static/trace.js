// What the server tells: its connections and frames, over the page's own WebSocket (rawws/page/feed.py has the messages).
//
// A capture outlives its server. It consists of runs, one for each server process that was watched: each numbers its
// connections from 1. Where one run ends, or the page didn't watch for a while, there is a cut among the frames.

import { forget, save, takeBack } from "./capture.js";

const KEPT_FRAMES = 20_000;
const KEPT_CONNECTIONS = 500; // as in rawws/page/feed.py
const RETRY_MS = [500, 1000, 2000, 5000];

const HOME = "/_rawws/";

const LOST = "lost with the server";
const UNSEEN = "ended while the page did not watch";
const RESTARTED = "the server ended, and another one has begun: it numbers its connections anew";

/** A time of the day, for milliseconds since 1970. */
const clock = (at) => new Date(at).toTimeString().slice(0, 8);

/** One server process. Its `instance` is null until it is known. */
class Run {
  constructor(number, instance = null) {
    this.number = number;
    this.instance = instance;
    this.isCurrent = true;
  }
}

/** One connection, as far as it was seen. `request` and `response` have `lines` and `checks`. */
class Connection {
  constructor(run, number) {
    this.run = run;
    this.number = number;
    this.from = "";
    this.path = ""; // as the server tells it of a connection whose request wasn't seen
    this.request = null;
    this.response = null;
    this.accept = null;
    this.switched = false;
    this.ended = null;
    this.peer = null; // of this page
    this.checks = { client: [], server: [] };
  }

  /** Unlike the number, it is another one for each connection of a capture. */
  get id() {
    return `${this.run.number}:${this.number}`;
  }

  /** The number as the server's log has it; that of an earlier run is marked. */
  get label() {
    return this.run.isCurrent ? `#${this.number}` : `r${this.run.number}#${this.number}`;
  }

  get target() {
    return this.request ? (this.request.lines[0].split(" ")[1] ?? "") : this.path;
  }

  field(name) {
    const line = this.request?.lines.find((each) => each.toLowerCase().startsWith(`${name.toLowerCase()}:`));
    return line === undefined ? null : line.slice(name.length + 1).trim();
  }

  get state() {
    if (this.ended !== null) return "ended";
    return this.switched ? "open" : this.request ? "HTTP" : "open";
  }

  /** What is kept of it when the page goes. */
  toJSON() {
    const { number, from, path, request, response, accept, switched, ended, checks } = this;
    return { run: this.run.number, number, from, path, request, response, accept, switched, ended, checks };
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
 * `state` is "connecting", "watching", "lost" (the server can't be reached) or "refused" (it wants another token; then
 * `refusal` is what it says).
 *
 * Events: "state", "about", "connection" (detail: a Connection that has changed), "answered" (detail: one with a new
 * request and its response), "frames" (some more, or none any more), "cleared".
 */
export class Trace extends EventTarget {
  constructor() {
    super();
    this.state = "connecting";
    this.refusal = "";
    this.about = null;
    this.run = new Run(1);
    this.connections = new Map(); // by id
    this.unlisted = 0; // WebSockets that are open, and not among the connections
    this.frames = []; // and cuts, which have a time and a text
    this.lost = 0; // told by the server: what it did not show
    this.forgotten = 0; // to make room for newer ones
    this.wireBytes = 0;
    this.messageBytes = 0;
    this.began = null; // time of the first frame, in seconds
    // A page of this browser that watches has the cookie which this one may be waiting for.
    this.#pages.onmessage = () => this.#lookAgainIfRefused();
    addEventListener("focus", () => this.#lookAgainIfRefused());
  }

  #socket = null;
  #pages = new BroadcastChannel("rawws-pages");
  #tries = 0;
  #asked = new Map();
  #number = 0;
  #frameNumber = 0;
  #watchedUntil = null; // in milliseconds since 1970
  #why = ""; // it was not watched for a while

  /** Frames, but for the cuts between them. */
  get frameCount() {
    return this.frames.reduce((count, frame) => count + !frame.isCut, 0);
  }

  /** WebSockets that are open now; the server doesn't report the page's own. */
  get openCount() {
    const isOpen = (each) => each.run.isCurrent && each.state === "open";
    return [...this.connections.values()].filter(isOpen).length + this.unlisted;
  }

  /** Forget the frames, and the connections that have ended. */
  clear() {
    this.frames = [];
    this.lost = this.forgotten = this.wireBytes = this.messageBytes = 0;
    this.began = null;
    for (const [id, connection] of this.connections) if (connection.ended !== null) this.connections.delete(id);
    forget();
    this.dispatchEvent(new Event("frames"));
    this.dispatchEvent(new Event("cleared"));
  }

  /** Keep the capture for the page that this tab shows next. */
  keep() {
    const { frames, lost, forgotten, wireBytes, messageBytes, began, run } = this;
    const until = this.state === "watching" ? Date.now() : this.#watchedUntil;
    const totals = { lost, forgotten, wireBytes, messageBytes, began, until };
    const kept = frames.map((frame) => {
      if (frame.isCut) return { kind: "cut", at: frame.at, told: frame.told, isRestart: frame.isRestart };
      const { at, sender, header, payload, left_out, tail, opcode, fin, rsv, mask, size, preview } = frame;
      const { message_size, cut, text } = frame;
      const shown = { opcode, fin, rsv, mask, size, preview, message_size, cut, text };
      return { of: frame.of.id, at, sender, header, payload, left_out, tail, ...shown };
    });
    const connections = [...this.connections.values()];
    save({ ...totals, run: run.number, instance: run.instance, connections, frames: kept });
  }

  /** Go on with the capture of the page that this tab has shown before. */
  restore() {
    const kept = takeBack();
    if (kept === null) return;
    const number = Number.isInteger(kept.run) ? kept.run : 1;
    this.run = new Run(number, String(kept.instance));
    const runs = new Map([[number, this.run]]);
    const runOf = (number) => {
      if (!runs.has(number)) runs.set(number, Object.assign(new Run(number), { isCurrent: false }));
      return runs.get(number);
    };
    for (const { run, number, ...rest } of kept.connections) {
      const connection = Object.assign(new Connection(runOf(run), number), rest);
      this.connections.set(connection.id, connection);
    }
    for (const frame of kept.frames) {
      if (frame.kind === "cut") this.frames.push({ ...frame, number: ++this.#frameNumber, isCut: true });
      else {
        const [run, number] = frame.of.split(":").map(Number);
        this.#addFrame(frame, this.connections.get(frame.of) ?? new Connection(runOf(run), number));
      }
    }
    for (const name of ["lost", "forgotten", "wireBytes", "messageBytes", "began"]) {
      if (Number.isFinite(kept[name])) this[name] = kept[name];
    }
    if (this.frames.length) this.began ??= this.frames[0].at;
    this.#watchedUntil = kept.until;
    this.#why = "the page was loaded again";
    for (const connection of this.connections.values()) this.#tellChanged(connection);
    this.dispatchEvent(new Event("frames"));
  }

  connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}${HOME}trace`);
    this.#socket = socket;
    socket.onmessage = (event) => {
      const told = parse(event.data);
      // Another server may be here by now, which has a room where the feed was.
      if (told === null || (this.state !== "watching" && !told.about)) socket.close();
      else this.#receive(told);
    };
    socket.onclose = () => {
      for (const { reject } of this.#asked.values()) reject(new Error("the server has gone"));
      this.#asked.clear();
      if (this.state === "watching") {
        this.#watchedUntil = Date.now();
        this.#why = "the connection to the server was lost";
      }
      this.#setState("lost");
      this.#lookAgainSoon();
    };
  }

  #lookAgainSoon() {
    setTimeout(() => this.#lookAgain(), RETRY_MS[Math.min(this.#tries++, RETRY_MS.length - 1)]);
  }

  /** Connect again, if the server is there and would still show this page: a WebSocket isn't told why it is refused. */
  async #lookAgain() {
    try {
      const answer = await fetch(HOME, { cache: "no-store" });
      const told = await answer.text();
      if (answer.status !== 403) this.connect();
      else {
        this.refusal = told.trim();
        this.#setState("refused");
      }
    } catch {
      this.#lookAgainSoon();
    }
  }

  #lookAgainIfRefused() {
    if (this.state !== "refused") return;
    this.#setState("connecting");
    this.#lookAgain();
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
      this.#beginRun(told.about.instance);
      this.#takeOpen(told.open, told.unlisted);
      this.about = told.about;
      this.#setState("watching");
      this.#pages.postMessage("watching");
      this.dispatchEvent(new Event("about"));
    } else if (told.open) {
      this.#takeOpen(told.open, told.unlisted);
    }
  }

  /** Tell a server that was watched before from another one, which numbers its connections anew. */
  #beginRun(instance) {
    const before = this.run;
    if (before.instance === null) {
      before.instance = instance;
    } else if (before.instance === instance) {
      this.#cut(`${this.#why}: nothing was watched meanwhile`);
    } else {
      before.isCurrent = false;
      this.run = new Run(before.number + 1, instance);
      for (const connection of this.connections.values()) {
        if (connection.ended !== null) continue;
        connection.ended = LOST;
        this.#tellChanged(connection);
      }
      this.#cut(RESTARTED);
    }
  }

  /** Mark that what follows didn't follow at once. */
  #cut(why) {
    if (!this.frames.length) return;
    const last = this.frames[this.frames.length - 1];
    if (last.isCut) {
      // Nothing was seen in between: it is one cut.
      const since = last.told.slice(0, 8);
      last.isRestart ||= why === RESTARTED;
      last.told = `${since} to ${clock(Date.now())}: ${last.isRestart ? RESTARTED : why}`;
    } else {
      const told = `${clock(this.#watchedUntil)} to ${clock(Date.now())}: ${why}`;
      const isRestart = why === RESTARTED;
      this.frames.push({ number: ++this.#frameNumber, isCut: true, isRestart, at: Date.now() / 1000, told });
    }
    this.dispatchEvent(new Event("frames"));
  }

  /** Take in which connections are open, of which the newest are listed. */
  #takeOpen(listed, unlisted) {
    this.unlisted = unlisted;
    const open = new Set();
    for (const { connection: number, from, path, websocket } of listed) {
      const connection = this.#connection(number);
      Object.assign(connection, { from, path, ended: null, switched: websocket });
      open.add(number);
      this.#tellChanged(connection);
    }
    const oldest = unlisted ? Math.min(...open) : 0; // of those before it nothing is known
    for (const connection of this.connections.values()) {
      const isGone = connection.run.isCurrent && connection.state === "open";
      if (!isGone || open.has(connection.number) || connection.number < oldest) continue;
      connection.ended = UNSEEN;
      this.#tellChanged(connection);
    }
  }

  #tellChanged(connection) {
    this.dispatchEvent(new CustomEvent("connection", { detail: connection }));
  }

  #takeAll(records) {
    const changed = new Set();
    for (const record of records) {
      if (record.kind === "lost") {
        this.lost += record.records;
        continue;
      }
      if (record.kind === "end" && !this.connections.has(`${this.run.number}:${record.connection}`)) {
        this.unlisted = Math.max(0, this.unlisted - 1); // it isn't kept any more
        continue;
      }
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
    for (const connection of changed) this.#tellChanged(connection);
    this.dispatchEvent(new Event("frames"));
  }

  /** Return a connection of the current run. */
  #connection(number) {
    let connection = this.connections.get(`${this.run.number}:${number}`);
    if (connection === undefined) {
      connection = new Connection(this.run, number);
      this.connections.set(connection.id, connection);
      if (this.connections.size > KEPT_CONNECTIONS) {
        const all = [...this.connections.values()]; // the oldest first
        const old = all.find((each) => each.ended !== null) ?? all[0];
        if (old.switched && old.ended === null) this.unlisted += 1;
        this.connections.delete(old.id);
      }
      this.#tellChanged(connection);
    }
    return connection;
  }

  #takeFrame(record, connection) {
    this.began ??= record.at;
    this.#addFrame(record, connection);
    this.wireBytes += record.wire;
    this.messageBytes += record.message_size ?? record.size;
    if (this.frames.length > KEPT_FRAMES * 1.1) {
      const old = this.frames.splice(0, this.frames.length - KEPT_FRAMES);
      this.forgotten += old.filter((frame) => !frame.isCut).length;
    }
  }

  #addFrame(record, connection) {
    record.number = ++this.#frameNumber;
    record.wire = record.header.length / 2 + record.size;
    record.of = connection;
    record.isControl = ["CLOSE", "PING", "PONG"].includes(record.opcode);
    this.frames.push(record);
  }
}

/** JSON as what it tells; null for what is none. */
function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
