// Panel "Send": text, JSON, hex or a file; once, or again and again.

import { byId, bytes, el, fromHex, plural } from "./dom.js";

const KEPT = 50;
const MOST_WAITING = 4 * 1024 * 1024; // bytes in the browser: a timer sends no more while a peer has so many to send

/** What can't be sent, and why. */
class Unsendable extends Error {}

export class Sender {
  #peers;
  #timer = null;
  #history = [];
  #skipped = 0;

  constructor(peers) {
    this.#peers = peers;
    peers.addEventListener("change", () => this.#listPeers());
    byId("message").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    byId("message").addEventListener("change", () => this.#showField());
    byId("text").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        this.send();
      }
    });
    byId("repeat").addEventListener("click", () => this.#toggleRepeat());
    this.#showField();
  }

  get #kind() {
    return byId("message").elements.kind.value;
  }

  #showField() {
    byId("file-field").hidden = this.#kind !== "file";
    byId("text-field").hidden = this.#kind === "file";
  }

  #listPeers() {
    const select = byId("sender");
    const chosen = select.value;
    const options = this.#peers.open.map((peer) => new Option(`peer ${peer.name}`, peer.name));
    select.replaceChildren(new Option("every open peer", ""), ...options);
    select.value = options.some((option) => option.value === chosen) ? chosen : "";
    if (!options.length) this.#stop();
  }

  /** What the form has, as a message; throws Unsendable. */
  async #read() {
    const text = byId("text").value;
    switch (this.#kind) {
      case "json":
        try {
          JSON.parse(text);
        } catch (error) {
          throw new Unsendable(`This is not JSON: ${error.message}`);
        }
        return { data: text, told: text };
      case "hex": {
        const data = fromHex(text);
        if (data === null) throw new Unsendable("This is not hex: give two digits for each byte, such as 48 65 6c.");
        return { data, told: text };
      }
      case "file": {
        const [file] = byId("file").files;
        if (!file) throw new Unsendable("Choose a file first.");
        return { data: await file.arrayBuffer(), told: `${file.name} (${bytes(file.size)})` };
      }
      default:
        return { data: text, told: text };
    }
  }

  async send({ again = false } = {}) {
    const name = byId("sender").value;
    const peers = this.#peers.open.filter((peer) => !name || peer.name === name);
    try {
      if (!peers.length) throw new Unsendable("No peer is open: connect one first.");
      const { data, told } = await this.#read();
      let sent = 0;
      for (const peer of peers) {
        if (again && peer.waiting > MOST_WAITING) this.#skipped += 1;
        else {
          peer.send(data);
          sent += 1;
        }
      }
      const size = typeof data === "string" ? new TextEncoder().encode(data).length : data.byteLength;
      const skipped = this.#skipped ? `; ${plural(this.#skipped, "time")} not, since too much waits to be sent` : "";
      this.#tell(`Sent ${bytes(size)} from ${plural(sent, "peer")}${skipped}.`);
      if (!again) this.#remember(this.#kind, told);
    } catch (error) {
      if (!(error instanceof Unsendable)) throw error;
      this.#stop();
      this.#tell(error.message, true);
    }
  }

  #tell(text, isError = false) {
    const box = byId("send-told");
    box.textContent = text;
    box.classList.toggle("error", isError);
  }

  #toggleRepeat() {
    if (this.#timer !== null) {
      this.#stop();
      return;
    }
    const every = Math.max(10, Number(byId("every").value) || 1000);
    this.#skipped = 0;
    this.#timer = setInterval(() => this.send({ again: true }), every);
    byId("repeat").setAttribute("aria-pressed", "true");
    byId("repeat").textContent = "Stop";
    this.send();
  }

  #stop() {
    clearInterval(this.#timer);
    this.#timer = null;
    byId("repeat").setAttribute("aria-pressed", "false");
    byId("repeat").textContent = "Repeat";
  }

  #remember(kind, told) {
    this.#history = this.#history.filter((each) => each.kind !== kind || each.told !== told);
    this.#history.unshift({ kind, told });
    this.#history.length = Math.min(this.#history.length, KEPT);
    byId("history-count").textContent = this.#history.length;
    byId("history").replaceChildren(...this.#history.map((each) => this.#entry(each)));
  }

  #entry({ kind, told }) {
    const shown = told.length > 80 ? `${told.slice(0, 80)}…` : told || "(empty)";
    if (kind === "file") return el("li", {}, el("span", { class: "kind" }, kind), ` ${shown}`);
    const recall = () => {
      byId("message").elements.kind.value = kind;
      byId("text").value = told;
      this.#showField();
      byId("text").focus();
    };
    return el("li", {}, el("span", { class: "kind" }, kind), " ", el("button", { type: "button", class: "link", onclick: recall }, shown));
  }
}
