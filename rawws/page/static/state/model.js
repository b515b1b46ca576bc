// What was seen: runs of a server, connections in them, and frames of these. A recording's records are the same as the
// feed's, so that one reading of them serves both.

import { fromHex, oneLine, shorten, toHex } from "../text.js";

const OPCODES = { 0: "CONTINUATION", 1: "TEXT", 2: "BINARY", 8: "CLOSE", 9: "PING", 10: "PONG" };
const ROW_CHARACTERS = 300;
const ROW_BYTES = 64;

const decoder = new TextDecoder();

/** One server process, or one recording. Its `instance` is null until it is known. */
export class Run {
  constructor(number, { instance = null, file = null } = {}) {
    this.number = number;
    this.instance = instance;
    this.file = file; // the name of a recording
    this.isCurrent = file === null;
  }

  get key() {
    return `${this.file === null ? "r" : "f"}${this.number}`;
  }
}

/** One connection, as far as it was seen. `request` and `response` have `lines`. */
export class Connection {
  constructor(run, number) {
    this.run = run;
    this.number = number;
    this.from = "";
    this.path = ""; // as the server tells it of a connection whose request wasn't seen
    this.agent = "";
    this.opened = null; // in seconds since 1970; null if that wasn't seen
    this.request = null;
    this.response = null;
    this.accept = null;
    this.refused = null; // {status, code, told}
    this.switched = false;
    this.ended = null;
    this.cause = null;
    this.frames = 0;
    this.peer = null; // of this page, while this is its connection
    this.peerName = "";
    this.checks = { client: [], server: [] };
  }

  /** Unlike the number, it is another one for each connection of a capture. */
  get id() {
    return `${this.run.key}:${this.number}`;
  }

  /** The number as the server's log has it; that of an earlier run, or of a recording, is marked. */
  get label() {
    return this.run.isCurrent ? `#${this.number}` : `${this.run.key}#${this.number}`;
  }

  /** Its part of the page's address. */
  get address() {
    return this.run.isCurrent ? `${this.number}` : `${this.run.key}.${this.number}`;
  }

  get target() {
    return this.request ? (this.request.lines[0].split(" ")[1] ?? "") : this.path;
  }

  /** The path alone, which is a room's name. */
  get room() {
    return this.target.split("?")[0];
  }

  get userAgent() {
    return this.field("User-Agent") ?? this.agent;
  }

  field(name) {
    const line = this.request?.lines.find((each) => each.toLowerCase().startsWith(`${name.toLowerCase()}:`));
    return line === undefined ? null : line.slice(name.length + 1).trim();
  }

  /** The status of the last response, or null. */
  get status() {
    const found = /^HTTP\/\S+ (\d{3})/.exec(this.response?.lines[0] ?? "");
    return found ? Number(found[1]) : (this.refused?.status ?? null);
  }

  get state() {
    if (this.refused !== null && !this.switched) return "refused";
    if (this.ended !== null) return "ended";
    return this.switched ? "open" : this.request ? "HTTP" : "open";
  }

  take(record) {
    switch (record.kind) {
      case "open":
        this.from = record.from;
        this.opened = record.at;
        break;
      case "head": {
        const lines = record.head.replace(/(\r?\n)+$/, "").split(/\r?\n/);
        if (record.sender === "client") {
          this.request = { lines };
          this.response = this.accept = this.refused = null;
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
      case "refused":
        this.refused = { status: record.status, code: record.code, told: record.told };
        break;
      case "switch":
        this.switched = true;
        break;
      case "end":
        this.ended = record.told;
        this.cause = record.cause ?? null;
        break;
    }
  }

  /** What is kept of it when the page goes. */
  toJSON() {
    const { number, from, path, agent, opened, request, response, accept, refused, switched, ended, checks } = this;
    const { cause, frames } = this;
    const seen = { request, response, accept, refused, switched, ended, cause, checks, frames };
    return { run: this.run.key, number, from, path, agent, opened, ...seen };
  }
}

/** A frame's header, from hex; null if it is none. */
export function parseHeader(hex) {
  const raw = fromHex(hex);
  if (raw === null || raw.length < 2) return null;
  const short = raw[1] & 127;
  const more = short === 127 ? 8 : short === 126 ? 2 : 0;
  const isMasked = raw[1] > 127;
  if (raw.length !== 2 + more + 4 * isMasked) return null;
  const size = more ? raw.slice(2, 2 + more).reduce((value, byte) => value * 256 + byte, 0) : short;
  return {
    fin: raw[0] > 127,
    rsv: [4, 2, 1].map((bit) => ((raw[0] >> 4) & bit ? 1 : 0)).join(""),
    opcode: OPCODES[raw[0] & 15] ?? `RESERVED-0x${(raw[0] & 15).toString(16)}`,
    isControl: (raw[0] & 8) > 0,
    mask: isMasked ? hex.slice(-8) : null,
    size,
  };
}

/** One frame. Its record's `text` or `data` is the beginning of the message that ends with it, where that differs. */
export class Frame {
  constructor(record, of, number) {
    const { at, sender, header, payload, left_out, tail, text, data, message_size, cut } = record;
    Object.assign(this, { at, sender, header, payload, left_out, tail, data, message_size, cut });
    Object.assign(this, parseHeader(header));
    this.of = of;
    this.number = number;
    this.wire = header.length / 2 + this.size;
    this.told = text;
  }

  get isCompressed() {
    return this.rsv[0] === "1";
  }

  /** The size of its message, or as much of that as is in this frame. */
  get messageSize() {
    return this.message_size ?? this.size;
  }

  /** Whether a part of the message isn't known. */
  get isPartial() {
    return Boolean(this.left_out || this.cut);
  }

  get code() {
    return this.opcode === "CLOSE" && this.size >= 2 ? parseInt(this.payload.slice(0, 4), 16) : null;
  }

  /** The text that it has, or whose message ends with it; null if there is none. */
  get text() {
    if (this.told !== undefined) return this.told;
    if (this.data !== undefined || this.isCompressed) return null;
    if (this.opcode === "TEXT") return decoder.decode(fromHex(this.payload));
    if (this.code !== null) return decoder.decode(fromHex(this.payload.slice(4)));
    return null;
  }

  /** The bytes of the message, or of the payload, as far as they are known. */
  get bytes() {
    if (this.told !== undefined) return new TextEncoder().encode(this.told);
    return fromHex(this.data ?? this.payload);
  }

  /** The payload on one line. */
  get shown() {
    if (this.code !== null) return `${this.code} ${oneLine(this.text)}`.trim();
    const { text } = this;
    if (text !== null) {
      const end = this.isPartial ? `…${this.left_out && this.tail ? decoder.decode(fromHex(this.tail)).slice(-30) : ""}` : "";
      return oneLine(shorten(text, ROW_CHARACTERS) + end);
    }
    const { bytes } = this;
    return `${toHex(bytes.slice(0, ROW_BYTES))}${bytes.length > ROW_BYTES || this.isPartial ? " …" : ""}`;
  }

  /** The record of it, which `rawws decode` reads too. */
  toRecord(connection) {
    const { at, sender, header, payload, left_out, tail, told, data, message_size, cut } = this;
    const message = { text: told, data, message_size, cut };
    return { at, connection, kind: "frame", sender, header, payload, left_out, tail, ...message };
  }
}

/** A place in the list of frames after which something is missing, or other frames begin. */
export class Cut {
  constructor(told, at, number, { isRestart = false } = {}) {
    Object.assign(this, { told, at, number, isRestart, isCut: true });
  }
}
