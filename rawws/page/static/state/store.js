// All that was captured, with one owner. Views listen to its events and never write to it.
//
// A capture outlives its server. It consists of runs, one for each server process that was watched, and one for each
// recording that was opened. Where one run ends, or the page didn't watch for a while, there is a cut among the frames.

import { clock, plural } from "../text.js";
import { Connection, Cut, Frame, Run } from "./model.js";

export const KEPT_FRAMES = 20_000;
const KEPT_CONNECTIONS = 500; // as in rawws/page/feed.py

const LOST = "lost with the server";
const UNSEEN = "ended while the page did not watch";
const RESTARTED = "the server ended, and another one has begun: it numbers its connections anew";

/**
 * Events: "connection" (detail: a Connection that has changed), "answered" (detail: one with a new request and its
 * response), "frames" (some more, or none any more), "cleared".
 */
export class Store extends EventTarget {
  constructor() {
    super();
    this.run = new Run(1);
    this.files = 0; // recordings that were opened
    this.connections = new Map(); // by id
    this.unlisted = 0; // WebSockets that are open, and not among the connections
    this.frames = []; // and cuts
    this.frameCount = 0; // without the cuts
    this.lost = 0; // told by the server: what it did not show
    this.forgotten = 0; // to make room for newer ones
    this.wireBytes = 0;
    this.messageBytes = 0;
    this.began = null; // time of the first frame, in seconds
    this.watchedUntil = null; // in milliseconds since 1970
    this.why = ""; // it was not watched for a while
  }

  #frameNumber = 0;

  /** WebSockets that are open now; the server doesn't report the page's own. */
  get openCount() {
    const isOpen = (each) => each.run.isCurrent && each.state === "open";
    return [...this.connections.values()].filter(isOpen).length + this.unlisted;
  }

  /** The connection at an address of the page, such as 3 or r1.3; undefined if there is none. */
  connectionAt(address) {
    return [...this.connections.values()].find((each) => each.address === address);
  }

  /** Forget the frames, and the connections that have ended. */
  clear() {
    this.frames = [];
    this.frameCount = this.lost = this.forgotten = this.wireBytes = this.messageBytes = 0;
    this.began = null;
    for (const [id, connection] of this.connections) {
      connection.frames = 0;
      if (connection.ended !== null) this.connections.delete(id);
    }
    this.dispatchEvent(new Event("frames"));
    this.dispatchEvent(new Event("cleared"));
  }

  /** Tell a server that was watched before from another one, which numbers its connections anew. */
  beginRun(instance) {
    const before = this.run;
    if (before.instance === null) {
      before.instance = instance;
    } else if (before.instance === instance) {
      this.#cut(`${this.why}: nothing was watched meanwhile`);
    } else {
      before.isCurrent = false;
      this.run = new Run(before.number + 1, { instance });
      for (const connection of this.connections.values()) {
        if (connection.ended !== null) continue;
        connection.ended = LOST;
        this.changed(connection);
      }
      this.#cut(RESTARTED);
    }
  }

  /** Mark that what follows didn't follow at once. */
  #cut(why) {
    if (!this.frames.length) return;
    const last = this.frames.at(-1);
    const isRestart = why === RESTARTED;
    if (last.isCut) {
      // Nothing was seen in between: it is one cut.
      last.isRestart ||= isRestart;
      last.told = `${last.told.slice(0, 8)} to ${clock(Date.now())}: ${last.isRestart ? RESTARTED : why}`;
    } else {
      const told = `${clock(this.watchedUntil)} to ${clock(Date.now())}: ${why}`;
      this.addCut(new Cut(told, Date.now() / 1000, this.nextNumber(), { isRestart }));
    }
    this.dispatchEvent(new Event("frames"));
  }

  addCut(cut) {
    this.#frameNumber = Math.max(this.#frameNumber, cut.number);
    this.frames.push(cut);
  }

  nextNumber() {
    return this.#frameNumber + 1;
  }

  /** Take in which connections are open, of which the newest are listed. */
  takeOpen(listed, unlisted) {
    this.unlisted = unlisted;
    const open = new Set();
    for (const { connection: number, from, path, websocket, agent } of listed) {
      const connection = this.#connection(number);
      Object.assign(connection, { from, path, ended: null, switched: websocket });
      connection.agent = agent || connection.agent;
      open.add(number);
      this.changed(connection);
    }
    const oldest = unlisted ? Math.min(...open) : 0; // of those before it nothing is known
    for (const connection of this.connections.values()) {
      const isGone = connection.run.isCurrent && connection.state === "open";
      if (!isGone || open.has(connection.number) || connection.number < oldest) continue;
      connection.ended = UNSEEN;
      this.changed(connection);
    }
  }

  /** Add the handshake of a connection that was open before it was seen. */
  complete(connection, records) {
    for (const record of records) connection.take(record);
    if (records.length) this.changed(connection);
  }

  changed(connection) {
    this.dispatchEvent(new CustomEvent("connection", { detail: connection }));
  }

  /** Take in records as the feed sends them. */
  take(records) {
    const changed = new Set();
    for (const record of records) {
      if (record.kind === "lost") {
        this.lost += record.records;
        continue;
      }
      if (record.kind === "end" && !this.connections.has(`${this.run.key}:${record.connection}`)) {
        this.unlisted = Math.max(0, this.unlisted - 1); // it isn't kept any more
        continue;
      }
      const connection = this.#connection(record.connection);
      changed.add(connection);
      if (record.kind === "frame") this.addFrame(new Frame(record, connection, this.nextNumber()), { isNew: true });
      else {
        connection.take(record);
        if (record.kind === "head" && record.sender === "server") {
          this.dispatchEvent(new CustomEvent("answered", { detail: connection }));
        }
      }
    }
    this.#forgetOld();
    for (const connection of changed) this.changed(connection);
    this.dispatchEvent(new Event("frames"));
  }

  /** Take in what a recording has: a run of its own after all that was seen. */
  takeFile({ run, connections, frames, told }) {
    this.files += 1;
    for (const connection of connections) this.#keep(connection);
    if (frames.length) this.addCut(new Cut(told, frames[0][0].at, this.nextNumber()));
    for (const [record, connection] of frames) {
      this.addFrame(new Frame(record, connection, this.nextNumber()), { isNew: true });
    }
    run.began = frames[0]?.[0].at ?? null;
    this.#forgetOld();
    for (const connection of connections) this.changed(connection);
    this.dispatchEvent(new Event("frames"));
  }

  /** Return a connection of the current run. */
  #connection(number) {
    let connection = this.connections.get(`${this.run.key}:${number}`);
    if (connection === undefined) {
      connection = new Connection(this.run, number);
      this.#keep(connection);
      this.changed(connection);
    }
    return connection;
  }

  #keep(connection) {
    this.connections.set(connection.id, connection);
    if (this.connections.size > KEPT_CONNECTIONS) {
      const all = [...this.connections.values()]; // the oldest first
      const old = all.find((each) => each.ended !== null) ?? all[0];
      if (old.switched && old.ended === null) this.unlisted += 1;
      this.connections.delete(old.id);
    }
  }

  addFrame(frame, { isNew = false } = {}) {
    this.#frameNumber = Math.max(this.#frameNumber, frame.number);
    this.frames.push(frame);
    this.frameCount += 1;
    if (!isNew) return;
    if (frame.of.run.file === null) this.began ??= frame.at;
    frame.of.frames += 1;
    this.wireBytes += frame.wire;
    this.messageBytes += frame.messageSize;
  }

  #forgetOld() {
    if (this.frames.length <= KEPT_FRAMES * 1.1) return;
    const old = this.frames.splice(0, this.frames.length - KEPT_FRAMES);
    const gone = old.filter((frame) => !frame.isCut).length;
    this.forgotten += gone;
    this.frameCount -= gone;
  }

  /** What there is, in a sentence. */
  get totals() {
    const { lost, forgotten } = this;
    if (!this.frames.length && !lost) return "No frames yet.";
    const parts = [`${plural(this.frameCount + forgotten, "frame")}`];
    if (lost) parts.push(`about ${lost.toLocaleString("en")} more were not shown, so as not to slow the server`);
    if (forgotten) parts.push(`the first ${forgotten.toLocaleString("en")} are forgotten`);
    return parts.join("; ");
  }
}
