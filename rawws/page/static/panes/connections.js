// Pane "Connections": all that are known, those of this page among them, and the form that opens one more.

import { byId, el, soon } from "../dom.js";
import { BadUrl } from "../state/peers.js";
import { plural, shortAgent, withoutToken } from "../text.js";

const EMPTY = {
  all: "Nobody is connected. Connect a peer above, or open a WebSocket to this server from anywhere.",
  open: "No WebSocket is open. Ended ones are listed with “all”.",
  page: "This page has opened no WebSocket. Connect one above.",
};

export class ConnectionsPane {
  #store;
  #watch;
  #peers;
  #selection;
  #route;
  #rows = new Map(); // by connection or peer: {row, signature}
  #listed = [];
  #active = null;
  #offered = "";

  constructor({ store, watch, peers, selection, route }) {
    Object.assign(this, { drawSoon: soon(() => this.#draw()) });
    this.#store = store;
    this.#watch = watch;
    this.#peers = peers;
    this.#selection = selection;
    this.#route = route;
    for (const event of ["connection", "cleared"]) store.addEventListener(event, this.drawSoon);
    for (const event of ["state", "about"]) watch.addEventListener(event, this.drawSoon);
    for (const event of ["shown", "chosen"]) selection.addEventListener(event, this.drawSoon);
    peers.addEventListener("change", this.drawSoon);
    peers.addEventListener("claimed", ({ detail }) => this.#showNew(detail));
    store.addEventListener("connection", ({ detail }) => {
      // Until the reader has chosen something, it is the first that becomes a WebSocket.
      const isFirst = selection.shown === null && !selection.missing && detail.switched && detail.request;
      if (isFirst) selection.showConnection(detail, { opens: false, isByReader: false });
    });
    watch.addEventListener("about", () => this.#offerUrl());
    byId("which").addEventListener("change", this.drawSoon);
    byId("dial").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#dial();
    });
    byId("list").addEventListener("keydown", (event) => this.#onKey(event));
    byId("list").addEventListener("focus", () => {
      this.#active ??= this.#listed[0] ?? null;
      this.drawSoon();
    });
    this.#offerUrl();
    this.drawSoon();
  }

  #offerUrl() {
    const field = byId("url");
    const offered = this.#watch.about?.is_tap ? "/" : (this.#watch.about?.path ?? "/room");
    // What somebody has typed meanwhile stays.
    if (!field.value || field.value === this.#offered) field.value = this.#offered = offered;
  }

  #dial() {
    byId("dial-error").textContent = "";
    try {
      const subprotocols = byId("subprotocols").value.split(/[\s,]+/).filter(Boolean);
      const peer = this.#peers.add(byId("url").value.trim(), subprotocols, byId("reconnects").checked);
      if (!this.#selection.isByReader) this.#selection.showPeer(peer, { opens: false });
    } catch (error) {
      if (!(error instanceof BadUrl)) throw error;
      byId("dial-error").textContent = error.message;
    }
  }

  /** What the page has connected is what the reader wants to see, unless a frame is looked at. */
  #showNew(connection) {
    const { shown } = this.#selection;
    if (shown === connection.peer || shown === null || shown.run) {
      this.#selection.showConnection(connection, { opens: this.#route.pane === "connections" && !this.#route.isNarrow });
    }
  }

  /** Connections, the newest first, and before them the peers that the server doesn't know. */
  #items() {
    const which = byId("which").value;
    const connections = [...this.#store.connections.values()].reverse();
    const isListed = { all: () => true, open: (each) => each.state === "open", page: (each) => each.peer !== null };
    const alone = this.#peers.all.filter((peer) => peer.connection === null || !this.#store.connections.has(peer.connection.id));
    const isOpen = (peer) => which !== "open" || peer.isOpen;
    return [...alone.filter(isOpen).reverse(), ...connections.filter(isListed[which])];
  }

  #draw() {
    this.#listed = this.#items();
    if (!this.#listed.includes(this.#active)) this.#active = null;
    const rows = this.#listed.map((item) => this.#row(item));
    const list = byId("list");
    for (const item of [...this.#rows.keys()]) if (!this.#listed.includes(item)) this.#rows.delete(item);
    if (rows.length !== list.childElementCount || rows.some((row, at) => row !== list.children[at])) {
      list.replaceChildren(...rows);
    }
    const active = this.#rows.get(this.#active)?.row;
    if (active) list.setAttribute("aria-activedescendant", active.id);
    else list.removeAttribute("aria-activedescendant");
    list.hidden = !rows.length;
    byId("no-connections").hidden = rows.length > 0;
    byId("no-connections").textContent = this.#watch.about?.is_tap && byId("which").value === "all"
      ? "Nobody is connected through this tap. Connect a peer above, or point a client at the tap."
      : EMPTY[byId("which").value];
    this.#drawChosen();
  }

  #drawChosen() {
    const { chosen } = this.#selection;
    const unlisted = this.#store.unlisted ? `${plural(this.#store.unlisted, "older WebSocket")} not listed. ` : "";
    const note = byId("chosen");
    if (!chosen.size) {
      note.textContent = `${unlisted}${this.#listed.length ? "Ctrl+click or Space chooses connections: then their frames alone are listed." : ""}`;
      return;
    }
    const names = [...chosen].map((each) => each.label).join(", ");
    note.replaceChildren(
      `${unlisted}Frames of ${names} `,
      el("button", { type: "button", class: "link", onclick: () => this.#selection.choose([]) }, "show all"),
    );
  }

  #row(item) {
    const signature = JSON.stringify(this.#describe(item));
    const known = this.#rows.get(item);
    const isShown = item === this.#selection.shown || item === this.#selection.shown?.of;
    if (known?.signature === signature) return mark(known.row, item === this.#active, isShown);
    const row = known?.row ?? el("div", { role: "option", class: "connection", onclick: (event) => this.#onClick(item, event) });
    row.replaceChildren(...lines(this.#describe(item)));
    const { id, state, isChosen } = this.#describe(item);
    row.id = id;
    row.dataset.state = state;
    row.setAttribute("aria-selected", String(isChosen));
    this.#rows.set(item, { row, signature });
    return mark(row, item === this.#active, isShown);
  }

  #describe(item) {
    if (item.dial) {
      return { id: `peer-${item.name}`, state: item.state, badge: item.name, label: "", target: item.shownUrl, told: item.told, isChosen: false };
    }
    const isUnsure = item.state === "open" && !this.#watch.isWatching && item.run.isCurrent;
    const isUnopened = item.peer?.end?.isUnopened && item.state !== "refused";
    const state = isUnopened ? "not opened" : { refused: `refused ${item.status ?? ""}`.trim(), HTTP: `HTTP ${item.status ?? ""}`.trim() }[item.state] ?? item.state;
    return {
      id: `connection-${item.address.replace(".", "-")}`,
      state: isUnopened ? "refused" : item.state,
      badge: item.peer?.name ?? "",
      label: item.label,
      target: withoutToken(item.target) || "open before we watched",
      told: `${state}${isUnsure ? " when last seen" : ""}`,
      from: item.from,
      agent: item.userAgent,
      frames: item.frames,
      isChosen: this.#selection.chosen.has(item),
    };
  }

  #onClick(item, event) {
    this.#active = item;
    if ((event.ctrlKey || event.metaKey) && !item.dial) this.#toggle(item);
    else this.#open(item);
    this.drawSoon();
  }

  #open(item) {
    if (item.dial) this.#selection.showPeer(item);
    else this.#selection.showConnection(item);
  }

  #toggle(connection) {
    const chosen = new Set(this.#selection.chosen);
    if (!chosen.delete(connection)) chosen.add(connection);
    this.#selection.choose(chosen);
  }

  #onKey(event) {
    const at = this.#listed.indexOf(this.#active);
    const steps = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    if (step !== undefined && this.#listed.length) {
      this.#active = this.#listed[Math.min(Math.max(at + step, 0), this.#listed.length - 1)];
      if (!this.#route.isNarrow) this.#open(this.#active);
      requestAnimationFrame(() => this.#rows.get(this.#active)?.row.scrollIntoView({ block: "nearest" }));
    } else if (event.key === "Enter" && at >= 0) this.#open(this.#active);
    else if (event.key === " " && at >= 0 && !this.#active.dial) this.#toggle(this.#active);
    else return;
    event.preventDefault();
    this.drawSoon();
  }
}

function mark(row, isActive, isShown) {
  row.classList.toggle("active", isActive);
  row.classList.toggle("shown", isShown);
  return row;
}

function lines({ badge, label, target, told, from, agent, frames }) {
  const details = [agent && shortAgent(agent), frames ? plural(frames, "frame") : "", from].filter(Boolean);
  return [
    el(
      "span",
      { class: "line" },
      badge ? el("span", { class: "badge", title: `peer ${badge} of this page` }, badge) : null,
      label ? el("b", { class: "number" }, label) : null,
      el("span", { class: "target", title: target }, target),
      el("span", { class: "state" }, told),
    ),
    details.length ? el("span", { class: "more", title: agent || null }, details.join(" · ")) : null,
  ].filter(Boolean);
}
