// One connection in the details: what it is, what can be done with it if it is this page's, and its upgrade.

import { el } from "../dom.js";
import { MARKS } from "../marks.js";
import { Connection } from "../state/model.js";
import { preciseClock, withoutToken } from "../text.js";
import { drawUpgrade } from "./upgrade.js";

const READ_AT_ONCE_PX = 40;

export class ConnectionView {
  #watch;
  #peers;
  #selection;
  #store;
  #box;
  #parts = null; // of the one that is drawn, whose form keeps what is typed
  #asked = new WeakSet();
  #inHex = false;

  constructor({ watch, peers, selection, store }, box) {
    this.#watch = watch;
    this.#peers = peers;
    this.#selection = selection;
    this.#store = store;
    this.#box = box;
  }

  draw(item) {
    const peer = item.dial ? item : item.peer;
    const connection = item.dial ? null : item;
    if (this.#parts?.item !== item || this.#parts.peer !== peer) {
      this.#parts = { item, peer, facts: el("dl", { class: "facts" }), upgrade: el("div", {}), tools: peer && this.#tools(peer), only: connection && this.#only(connection) };
    }
    const { facts, upgrade, tools, only } = this.#parts;
    const shown = [facts, tools?.box, only, connection && upgrade].filter(Boolean);
    if (shown.some((each) => each.parentNode !== this.#box) || this.#box.childElementCount !== shown.length) {
      this.#box.replaceChildren(...shown);
    }
    facts.replaceChildren(...this.#facts(connection, peer));
    tools?.draw();
    if (connection) {
      this.#askForHandshake(connection);
      drawUpgrade(upgrade, connection, { inHex: this.#inHex, setHex: (inHex) => this.#redrawHex(inHex) });
    }
  }

  #redrawHex(inHex) {
    this.#inHex = inHex;
    this.draw(this.#parts.item);
  }

  #facts(connection, peer) {
    const facts = [];
    const add = (name, value, kind) => value && facts.push(el("dt", {}, name), el("dd", { class: kind }, value));
    if (peer) add("Peer", `${peer.name} of this page`);
    if (peer) add("State", peer.told, "state");
    else add("State", this.#state(connection), "state");
    if (connection?.ended && connection.ended !== peer?.told) add("End", `${connection.ended}.`);
    add("URL", peer?.shownUrl);
    if (connection === null) return facts;
    if (!peer) add("Path", withoutToken(connection.target));
    add("From", connection.from);
    add("User agent", connection.userAgent);
    add("Opened", connection.opened && preciseClock(connection.opened));
    if (connection.run.file) add("Recording", connection.run.file);
    return facts;
  }

  #state(connection) {
    if (connection.refused) return `refused with ${connection.refused.status} (${connection.refused.code}): ${connection.refused.told}`;
    if (connection.state === "open" && connection.run.isCurrent && !this.#watch.isWatching) return "open when last seen";
    return connection.state;
  }

  /** The handshake of a connection that was open before the page: the server may have kept it. */
  async #askForHandshake(connection) {
    if (connection.request || !connection.run.isCurrent || !this.#watch.isWatching || this.#asked.has(connection)) return;
    this.#asked.add(connection);
    let records;
    try {
      ({ records } = await this.#watch.ask("handshake", { connection: connection.number }));
    } catch {
      this.#asked.delete(connection); // it is asked for again when the server is back
      return;
    }
    this.#store.complete(connection, records);
  }

  /** What can be done with a peer of the page, and what its script has received. */
  #tools(peer) {
    const code = el("input", { type: "number", min: "1000", max: "4999", value: "1000", "aria-label": "close code" });
    const reason = el("input", { type: "text", maxlength: "123", placeholder: "reason", "aria-label": "close reason" });
    const close = (event) => {
      event.preventDefault();
      peer.close(Number(code.value), reason.value);
    };
    const closing = el("form", { class: "close", onsubmit: close }, code, reason, el("button", {}, "Close"));
    const again = el("button", { type: "button", onclick: () => this.#peers.dial(peer) }, "Connect again");
    const reconnects = el("input", { type: "checkbox" });
    reconnects.addEventListener("change", () => (peer.reconnects = reconnects.checked));
    const remove = el("button", { type: "button", onclick: () => this.#remove(peer) }, "Remove");
    const messages = el("ol", { class: "messages", tabindex: "0", "aria-label": `Messages of peer ${peer.name}` });
    const box = el(
      "div",
      { class: "tools" },
      closing,
      el("p", { class: "row-of" }, again, remove, el("label", { class: "check-label" }, reconnects, " reconnect when lost")),
      messages,
    );
    const draw = () => {
      closing.hidden = !["open", "connecting", "waiting"].includes(peer.state);
      again.hidden = !peer.mayConnectAgain;
      remove.hidden = peer.state !== "closed";
      reconnects.checked = peer.reconnects;
      drawMessages(messages, peer.messages);
    };
    return { box, draw };
  }

  /** A button that lists the frames of this connection alone. */
  #only(connection) {
    const choose = () => this.#selection.choose([connection]);
    return el("p", {}, el("button", { type: "button", onclick: choose }, "List its frames only"));
  }

  #remove(peer) {
    this.#peers.remove(peer);
    if (this.#selection.shown instanceof Connection) this.draw(this.#selection.shown);
    else this.#selection.clear();
  }
}

function drawMessages(list, messages) {
  const near = list.scrollHeight - list.scrollTop - list.clientHeight < READ_AT_ONCE_PX;
  const rows = messages.map(({ direction, text }) =>
    el("li", { class: direction }, el("span", { class: "mark", "aria-label": direction, role: "img" }, MARKS[direction]), " ", text),
  );
  list.hidden = !messages.length;
  list.replaceChildren(...rows);
  if (near) list.scrollTop = list.scrollHeight;
}
