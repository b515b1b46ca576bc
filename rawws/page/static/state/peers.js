// The WebSockets of this very page, without how they look.

import { bytes, plural, toHex, withoutToken } from "../text.js";
import { whyNotOpen } from "./reasons.js";

const KEPT_MESSAGES = 200;
const SHOWN_CHARACTERS = 200;
const CLAIM_MS = 1500;
const REDIAL_MS = [500, 1000, 2000, 5000, 10_000];
const STATES = ["connecting", "open", "closing", "closed"];

/** What isn't a WebSocket's URL, and why. */
export class BadUrl extends Error {}

/** One WebSocket of the page. `reconnects` says that it is to be dialled again when its connection is lost. */
export class Peer {
  #peers;
  #timer = null;
  #tries = 0;

  constructor(peers, name, { url, subprotocols, reconnects }) {
    this.#peers = peers;
    Object.assign(this, { name, url, subprotocols, reconnects });
    this.connection = null; // as the server knows it
    this.socket = null;
    this.messages = []; // the newest: {direction, text}
    this.everOpened = false;
    this.end = null; // {told, mayHelp}, or {isUnopened}
    this.problem = "";
    this.closing = false; // by the reader
  }

  get state() {
    if (this.#timer !== null) return "waiting";
    if (this.end !== null) return "closed";
    return this.socket ? STATES[this.socket.readyState] : "connecting";
  }

  get isOpen() {
    return this.state === "open";
  }

  get shownUrl() {
    return withoutToken(this.url);
  }

  /** Its state in words: why it isn't open, if it isn't. */
  get told() {
    const { state } = this;
    if (state === "open" && this.socket.protocol) return `open: speaks ${this.socket.protocol}`;
    if (this.end === null) return this.problem ? `${state}: ${this.problem}` : state;
    const { told } = this.reason;
    return this.#timer === null ? told : `${told}; it is dialled again in a moment`;
  }

  /** How it ended: what the server said of it may come after the end itself. */
  get reason() {
    return this.end?.isUnopened ? this.#peers.explain(this) : this.end;
  }

  get mayConnectAgain() {
    return this.state === "closed" && this.reason.mayHelp;
  }

  /** The bytes that wait in the browser to be sent. */
  get waiting() {
    return this.socket?.bufferedAmount ?? 0;
  }

  dial() {
    const socket = this.subprotocols.length ? new WebSocket(this.url, this.subprotocols) : new WebSocket(this.url);
    socket.binaryType = "arraybuffer";
    this.#stopWaiting();
    this.#leaveConnection();
    Object.assign(this, { socket, connection: null, end: null, problem: "", everOpened: false });
    socket.onopen = () => {
      this.everOpened = true;
      this.#tries = 0;
      this.#peers.changed(this);
    };
    socket.onmessage = (event) => this.#note("received", event.data);
    socket.onclose = (event) => this.#ended(event);
    this.#peers.changed(this);
  }

  #leaveConnection() {
    if (this.connection) this.connection.peer = null;
  }

  /** There is no connection to be had: its URL or subprotocols are impossible. */
  fail(told) {
    this.end = { told, mayHelp: false };
    this.#peers.changed(this);
  }

  #ended({ code, reason }) {
    if (!this.everOpened) this.end = { isUnopened: true };
    else {
      const how = code === 1006 ? "lost: it ended without a close (1006)" : `closed with ${code}${reason && ` “${reason}”`}`;
      this.end = { told: how, mayHelp: true };
    }
    const wasOurs = this.closing;
    this.closing = false;
    if (this.reconnects && !wasOurs) this.#waitToRedial();
    this.#peers.changed(this);
  }

  #waitToRedial() {
    const wait = REDIAL_MS[Math.min(this.#tries++, REDIAL_MS.length - 1)];
    this.#timer = setTimeout(() => {
      this.#timer = null;
      if (this.reason.mayHelp) this.#peers.dial(this);
      else this.#peers.changed(this);
    }, wait);
  }

  #stopWaiting() {
    clearTimeout(this.#timer);
    this.#timer = null;
  }

  send(data) {
    this.socket.send(data);
    this.#note("sent", data);
  }

  close(code, reason) {
    if (this.#timer !== null) {
      this.#stopWaiting();
      this.#peers.changed(this);
      return;
    }
    try {
      this.socket.close(code, reason);
      this.problem = "";
      this.closing = true;
    } catch (error) {
      this.problem = error.message; // a page may use 1000 and 3000 to 4999 only
    }
    this.#peers.changed(this);
  }

  forget() {
    this.reconnects = false;
    this.#stopWaiting();
    this.#leaveConnection();
    if (this.socket) this.socket.onclose = this.socket.onmessage = this.socket.onopen = null;
    this.socket?.close();
  }

  #note(direction, data) {
    this.messages.push({ direction, text: describe(data) });
    if (this.messages.length > KEPT_MESSAGES) this.messages.shift();
    this.#peers.dispatchEvent(new CustomEvent("message", { detail: this }));
  }
}

function describe(data) {
  if (typeof data === "string") {
    const more = data.length > SHOWN_CHARACTERS ? `… (${plural(data.length, "character")})` : "";
    return data.slice(0, SHOWN_CHARACTERS) + more;
  }
  const view = data instanceof ArrayBuffer ? new Uint8Array(data) : data;
  return `${toHex(view.slice(0, 24))}${view.length > 24 ? " …" : ""} (${bytes(view.length)})`;
}

/** All of them. Events: "change" (detail: one that has come, gone, opened or closed), "message" (detail: a peer). */
export class Peers extends EventTarget {
  #watch;
  #store;
  #dialling = Promise.resolve();
  #named = 0;

  constructor(watch, store) {
    super();
    this.#watch = watch;
    this.#store = store;
    this.all = [];
    // What the server tells of a connection may explain its end.
    store.addEventListener("connection", ({ detail }) => detail.peer && this.changed(detail.peer));
  }

  get open() {
    return this.all.filter((peer) => peer.isOpen);
  }

  /** Connect one more; `given` may be a path of this server. Raises `BadUrl`. */
  add(given, subprotocols, reconnects) {
    const url = this.#readUrl(given);
    const name = String.fromCharCode(65 + (this.#named % 26)) + (this.#named >= 26 ? Math.floor(this.#named / 26) : "");
    const peer = new Peer(this, name, { url, subprotocols, reconnects });
    this.#named += 1;
    this.all.push(peer);
    this.changed(peer);
    this.dial(peer);
    return peer;
  }

  #readUrl(given) {
    const absolute = given.startsWith("/") ? this.#watch.urlOf(given) : given.includes("://") ? given : `ws://${given}`;
    const url = absolute.replace(/^http/i, "ws");
    if (!URL.canParse(url) || !/^wss?:/i.test(url) || !given) {
      throw new BadUrl(`“${given}” is not a WebSocket's URL; give a path of this server such as /room, or a whole one such as ws://localhost:8080/room.`);
    }
    return url;
  }

  remove(peer) {
    peer.forget();
    this.all = this.all.filter((each) => each !== peer);
    this.changed(peer);
  }

  changed(peer) {
    this.dispatchEvent(new CustomEvent("change", { detail: peer }));
  }

  explain(peer) {
    const isOurs = new URL(peer.url).host === new URL(this.#watch.urlOf("/")).host;
    return whyNotOpen({ url: peer.url, connection: peer.connection, isOurs, isWatching: this.#watch.isWatching });
  }

  /**
   * Dial, and find out which of the server's connections it is. A page can't know: no browser tells its own port. So
   * peers dial one at a time, and each claims the one new connection that asks for its target from our origin.
   */
  dial(peer) {
    this.#dialling = this.#dialling.then(() => {
      if (!this.all.includes(peer)) return null;
      const claimed = this.#claim(peer);
      try {
        peer.dial();
      } catch (problem) {
        peer.fail(problem.message); // a subprotocol that is no token, or ws:// from a page of https://
      }
      return claimed;
    });
  }

  #claim(peer) {
    const { pathname, search } = new URL(peer.url);
    const target = withoutToken(pathname + search);
    const known = [...this.#store.connections.values()].filter((connection) => connection.run.isCurrent);
    const before = Math.max(0, ...known.map((connection) => connection.number));
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#store.removeEventListener("connection", look);
        resolve();
      };
      const look = ({ detail: connection }) => {
        const fits =
          connection.run.isCurrent &&
          connection.number > before &&
          connection.peer === null &&
          connection.target === target &&
          connection.field("Origin") === location.origin &&
          connection.field("User-Agent") === navigator.userAgent;
        if (!fits) return;
        connection.peer = peer;
        connection.peerName = peer.name;
        peer.connection = connection;
        done();
        this.changed(peer);
        this.dispatchEvent(new CustomEvent("claimed", { detail: connection }));
      };
      const timer = setTimeout(done, CLAIM_MS);
      this.#store.addEventListener("connection", look);
    });
  }
}
