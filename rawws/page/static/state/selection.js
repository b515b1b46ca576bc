// What the reader looks at: one frame or connection in the details, and the connections whose frames are listed.

/** Events: "shown" (another frame or connection is in the details), "chosen" (others' frames are listed). */
export class Selection extends EventTarget {
  #store;
  #route;

  constructor(store, route) {
    super();
    this.#store = store;
    this.#route = route;
    this.shown = null; // a Frame, a Cut, a Connection, or a Peer that the server doesn't know
    this.missing = ""; // why what the address names can't be shown
    this.chosen = new Set(); // of connections; all, if empty
    this.isByReader = false; // whether the reader has chosen what is shown
    route.addEventListener("change", () => this.follow());
    // The connection that an address names may be listed later.
    store.addEventListener("connection", () => this.missing && this.follow());
    store.addEventListener("cleared", () => {
      for (const connection of this.chosen) if (!store.connections.has(connection.id)) this.chosen.delete(connection);
      const isKept = this.shown !== null && !this.#isFrame && (!this.shown.run || store.connections.has(this.shown.id));
      if (!isKept) this.#set(null);
      this.dispatchEvent(new Event("chosen"));
    });
  }

  get #isFrame() {
    return this.shown?.of !== undefined || this.shown?.isCut === true;
  }

  /** Show what the page's address names. */
  follow() {
    const { pane, id } = this.#route;
    if (id === "") return;
    if (pane === "frames") {
      const frame = this.#store.frames.find((each) => each.number === Number(id));
      this.missing = frame ? "" : `Frame ${id} isn't in this capture (any more).`;
      this.#set(frame ?? null);
    } else if (pane === "connections") {
      const connection = this.#store.connectionAt(id);
      if (connection) this.missing = "";
      else if (!this.shown?.dial) this.missing = `Connection ${id} isn't in this capture (any more).`;
      if (connection || !this.shown?.dial) this.#set(connection ?? null);
    }
    this.isByReader = true;
  }

  #set(item) {
    if (this.shown === item && item !== null) return;
    this.shown = item;
    this.dispatchEvent(new Event("shown"));
  }

  /** Show a frame. `opens` says that the reader wants to see it, and not only to pass it on the way to another. */
  showFrame(frame, { opens = true } = {}) {
    this.missing = "";
    this.isByReader = true;
    this.#set(frame);
    if (opens) this.#route.show("frames", frame.number, { isStep: !opensAnother(this.#route) });
  }

  showConnection(connection, { opens = true, isByReader = true } = {}) {
    this.missing = "";
    this.isByReader ||= isByReader;
    this.#set(connection);
    if (opens) this.#route.show("connections", connection.address, { isStep: !opensAnother(this.#route) });
  }

  /** Show a peer of the page; its connection, if the server knows one. */
  showPeer(peer, options) {
    if (peer.connection) this.showConnection(peer.connection, options);
    else {
      this.missing = "";
      this.isByReader = true;
      this.#set(peer);
    }
  }

  clear() {
    this.missing = "";
    this.#set(null);
  }

  /** List the frames of these connections alone; of all, if there are none. */
  choose(connections) {
    this.chosen = new Set(connections);
    this.dispatchEvent(new Event("chosen"));
  }
}

/** Whether what is opened covers what is seen now: then the browser's way back leads there. */
const opensAnother = (route) => route.id === "" && route.isNarrow;
