// Pane "Details": one frame, or one connection with its upgrade.

import { byId, el, soon } from "../dom.js";
import { ConnectionView } from "./connection.js";
import { FrameView } from "./frame.js";

export class DetailsPane {
  #selection;
  #views;
  #box = byId("details-inside");

  constructor(context) {
    const { store, watch, peers, selection } = context;
    this.#selection = selection;
    this.#views = { frame: new FrameView(context, this.#box), connection: new ConnectionView(context, this.#box) };
    selection.addEventListener("shown", () => this.#show());
    const redraw = soon(() => this.#kind === "connection" && this.#views.connection.draw(selection.shown));
    store.addEventListener("connection", ({ detail }) => detail === selection.shown && redraw());
    for (const event of ["state", "about"]) watch.addEventListener(event, redraw);
    for (const event of ["change", "message"]) peers.addEventListener(event, redraw);
    peers.addEventListener("change", ({ detail }) => this.#follow(detail));
    this.#show();
  }

  get #kind() {
    const { shown } = this.#selection;
    if (shown === null) return "nothing";
    if (shown.isCut) return "cut";
    return shown.of ? "frame" : "connection";
  }

  /** A peer that is shown may get another connection, none any more, or be removed. */
  #follow(peer) {
    const { shown } = this.#selection;
    if (shown === peer && peer.connection) this.#selection.showPeer(peer, { opens: false });
  }

  #show() {
    const { shown, missing } = this.#selection;
    const titles = { nothing: "Details", cut: "Cut", frame: "Frame", connection: "Connection" };
    const name = { frame: shown?.number, connection: shown?.label ?? `of peer ${shown?.name}` }[this.#kind];
    byId("details-title").textContent = [titles[this.#kind], name].filter(Boolean).join(" ");
    this.#box.scrollTop = 0;
    this.#box.dataset.kind = this.#kind;
    switch (this.#kind) {
      case "nothing":
        this.#box.replaceChildren(
          el("p", { class: "empty" }, missing || "Choose a frame to see its bits, or a connection to see its upgrade, header by header."),
        );
        break;
      case "cut":
        this.#box.replaceChildren(el("p", {}, shown.told), el("p", { class: "note" }, "Frames after this line didn't follow those before it at once."));
        break;
      default:
        this.#views[this.#kind].draw(shown);
    }
  }
}
