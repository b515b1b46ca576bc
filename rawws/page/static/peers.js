// Panel "Connect": the WebSockets of this very page.

import { byId, bytes, el, toHex } from "./dom.js";
import { MARKS } from "./marks.js";

const KEPT_MESSAGES = 200;
const SHOWN_CHARACTERS = 200;
const CLAIM_MS = 1500;
const STATES = ["connecting", "open", "closing", "closed"];

/** One WebSocket of the page, and its card. Events of `Peers` tell of its changes. */
class Peer {
  constructor(peers, name, url, subprotocols) {
    this.peers = peers;
    this.name = name;
    this.url = url;
    this.subprotocols = subprotocols;
    this.connection = null; // as the server knows it
    this.told = "";
    this.failed = false;
    this.socket = null;
    this.#build();
  }

  /** There is no connection to be had. */
  fail(told) {
    this.failed = true;
    this.told = told;
    this.peers.changed(this);
  }

  get state() {
    if (this.failed) return "closed";
    return this.socket ? STATES[this.socket.readyState] : "connecting";
  }

  get isOpen() {
    return this.state === "open";
  }

  #build() {
    const id = `peer-${this.name}`;
    this.stateText = el("span", { class: "state", role: "status" });
    this.number = el("button", {
      type: "button",
      class: "link number",
      hidden: true,
      onclick: () => this.peers.select(this.connection),
    });
    this.messages = el("ol", { class: "messages", tabindex: "0", "aria-label": `Messages of peer ${this.name}` });
    this.code = el("input", { type: "number", min: "1000", max: "4999", value: "1000", "aria-label": "close code" });
    this.reason = el("input", { type: "text", maxlength: "123", placeholder: "reason", "aria-label": "close reason" });
    this.closeForm = el(
      "form",
      { class: "close", onsubmit: (event) => this.#close(event) },
      this.code,
      this.reason,
      el("button", {}, "Close"),
    );
    this.again = el("button", { type: "button", onclick: () => this.peers.redial(this) }, "Connect again");
    this.away = el("button", { type: "button", onclick: () => this.peers.remove(this) }, "Remove");
    this.over = el("p", { class: "actions" }, this.again, this.away);
    this.card = el(
      "li",
      { class: "peer", "aria-labelledby": id },
      el("h3", { id }, el("span", { class: "badge" }, this.name), " ", this.stateText, " ", this.number),
      el("p", { class: "url" }, this.url),
      this.messages,
      this.closeForm,
      this.over,
    );
  }

  dial() {
    const socket = this.subprotocols.length ? new WebSocket(this.url, this.subprotocols) : new WebSocket(this.url);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.failed = false;
    this.connection = null;
    this.told = "";
    socket.onopen = () => {
      if (socket.protocol) this.told = `speaks ${socket.protocol}`;
      this.peers.changed(this);
    };
    socket.onmessage = (event) => this.#show("received", event.data);
    socket.onclose = (event) => {
      const reason = event.reason ? ` “${event.reason}”` : "";
      const code = event.code === 1006 ? "without a close (1006)" : `with ${event.code}${reason}`;
      this.told = `closed ${code}`;
      this.peers.changed(this);
    };
    this.peers.changed(this);
  }

  send(data) {
    this.socket.send(data);
    this.#show("sent", data);
  }

  /** The bytes that wait in the browser to be sent. */
  get waiting() {
    return this.socket?.bufferedAmount ?? 0;
  }

  #close(event) {
    event.preventDefault();
    try {
      this.socket.close(Number(this.code.value), this.reason.value);
      this.told = "";
    } catch (error) {
      // A page may use 1000 and 3000 to 4999 only.
      this.told = error.message;
    }
    this.peers.changed(this);
  }

  #show(direction, data) {
    const size = typeof data === "string" ? null : data.byteLength ?? data.size;
    let text = data;
    if (data instanceof ArrayBuffer || ArrayBuffer.isView(data)) {
      const view = data instanceof ArrayBuffer ? new Uint8Array(data) : data;
      text = `${toHex(view.slice(0, 24))}${view.length > 24 ? " …" : ""} (${bytes(size)})`;
    } else if (data.length > SHOWN_CHARACTERS) {
      text = `${data.slice(0, SHOWN_CHARACTERS)}… (${data.length.toLocaleString("en")} characters)`;
    }
    const label = el("span", { class: "mark", "aria-label": direction, role: "img" }, MARKS[direction]);
    const near = this.messages.scrollHeight - this.messages.scrollTop - this.messages.clientHeight < 40;
    this.messages.append(el("li", { class: direction }, label, " ", text));
    if (this.messages.childElementCount > KEPT_MESSAGES) this.messages.firstElementChild.remove();
    if (near) this.messages.scrollTop = this.messages.scrollHeight;
  }

  draw() {
    this.card.dataset.state = this.state;
    this.stateText.textContent = this.told ? `${this.state}: ${this.told}` : this.state;
    if (this.state === "closed" && this.told) this.stateText.textContent = this.told;
    this.number.hidden = this.connection === null;
    if (this.connection) this.number.textContent = this.connection.label;
    this.closeForm.hidden = this.state !== "open" && this.state !== "connecting";
    this.over.hidden = this.state !== "closed";
  }
}

/** All of them. Event "change" when one has come, gone, opened or closed. */
export class Peers extends EventTarget {
  #trace;
  #dialling = Promise.resolve();
  #named = 0;
  #offered = "";

  constructor(trace, select) {
    super();
    this.#trace = trace;
    this.select = select;
    this.all = [];
    byId("dial").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#add();
    });
    trace.addEventListener("about", () => {
      this.#offerUrl();
      for (const peer of this.all) peer.draw(); // a connection of an earlier run is called otherwise
    });
    this.#offerUrl();
  }

  get open() {
    return this.all.filter((peer) => peer.isOpen);
  }

  #offerUrl() {
    const field = byId("url");
    const about = this.#trace.about;
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const offered = about?.is_tap ? `${about.uri}/` : `${scheme}://${location.host}${about?.path ?? "/room"}`;
    // What somebody has typed meanwhile stays.
    if (!field.value || field.value === this.#offered) field.value = this.#offered = offered;
  }

  #add() {
    const error = byId("dial-error");
    error.textContent = "";
    const name = String.fromCharCode(65 + (this.#named % 26)) + (this.#named >= 26 ? Math.floor(this.#named / 26) : "");
    const subprotocols = byId("subprotocols").value.split(/[\s,]+/).filter(Boolean);
    const given = byId("url").value.trim();
    const url = given.includes("://") ? given : `ws://${given}`;
    if (!URL.canParse(url) || !/^wss?:/i.test(url)) {
      error.textContent = `“${given}” is not a WebSocket's URL; give one such as ws://localhost:8080/room.`;
      return;
    }
    const peer = new Peer(this, name, url, subprotocols);
    this.#named += 1;
    this.all.push(peer);
    byId("peers").append(peer.card);
    this.changed(peer);
    this.#dial(peer);
  }

  redial(peer) {
    this.#dial(peer);
  }

  remove(peer) {
    this.all = this.all.filter((each) => each !== peer);
    peer.card.remove();
    this.changed(peer);
  }

  changed(peer) {
    peer.draw();
    byId("no-peers").hidden = this.all.length > 0;
    this.dispatchEvent(new Event("change"));
  }

  /**
   * Dial, and find out which of the server's connections it is. A page can't know: no browser tells its own port. So
   * peers dial one at a time, and each claims the one new connection that asks for its target from our origin.
   */
  #dial(peer) {
    this.#dialling = this.#dialling.then(() => {
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
    const known = [...this.#trace.connections.values()].filter((connection) => connection.run.isCurrent);
    const before = Math.max(0, ...known.map((connection) => connection.number));
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#trace.removeEventListener("connection", look);
        resolve();
      };
      const look = ({ detail: connection }) => {
        const fits =
          connection.run.isCurrent &&
          connection.number > before &&
          connection.peer === null &&
          connection.target === pathname + search &&
          connection.field("Origin") === location.origin &&
          connection.field("User-Agent") === navigator.userAgent;
        if (!fits) return;
        connection.peer = peer;
        peer.connection = connection;
        this.changed(peer);
        this.select(connection);
        done();
      };
      const timer = setTimeout(done, CLAIM_MS);
      this.#trace.addEventListener("connection", look);
    });
  }
}
