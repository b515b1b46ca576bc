// Pane "Send": text, JSON, hex or a file; once, or again and again; what was sent before, and what was saved.

import { byId, el, soon } from "../dom.js";
import { History, Saved, Unsendable, compose } from "../state/messages.js";
import { bytes, plural, shorten, utf8 } from "../text.js";

const SHOWN_CHARACTERS = 60;
const MOST_WAITING = 4 * 1024 * 1024; // bytes in the browser: a timer sends no more while a peer has so many to send

export class SendPane {
  #peers;
  #timer = null;
  #history = new History();
  #saved = new Saved();
  #count = 0; // what {{n}} is: how often this text was sent
  #counted = "";
  #skipped = 0;
  #listed = "";

  constructor({ peers }) {
    this.#peers = peers;
    peers.addEventListener("change", soon(() => this.#listPeers()));
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
    byId("save-message").addEventListener("click", () => this.#save());
    this.#showField();
    this.#drawSaved();
    this.#drawHistory();
  }

  get #kind() {
    return byId("message").elements.kind.value;
  }

  #showField() {
    const isFile = this.#kind === "file";
    byId("file").hidden = !isFile;
    byId("text").hidden = isFile;
    byId("save-message").disabled = isFile;
  }

  #listPeers() {
    const names = this.#peers.open.map((peer) => peer.name);
    if (!names.length) this.#stop();
    if (names.join() === this.#listed) return;
    this.#listed = names.join();
    const select = byId("sender");
    const chosen = select.value;
    select.replaceChildren(new Option("every open peer", ""), ...names.map((name) => new Option(`peer ${name}`, name)));
    select.value = names.includes(chosen) ? chosen : "";
  }

  async send({ again = false } = {}) {
    const name = byId("sender").value;
    const peers = this.#peers.open.filter((peer) => !name || peer.name === name);
    try {
      if (!peers.length) throw new Unsendable("No peer is open: connect one first.");
      const text = byId("text").value;
      if (text !== this.#counted) this.#count = 0;
      const { data, told } = await compose(this.#kind, text, byId("file").files[0], this.#count + 1);
      this.#count += 1;
      this.#counted = text;
      let sent = 0;
      for (const peer of peers) {
        if (again && peer.waiting > MOST_WAITING) this.#skipped += 1;
        else {
          peer.send(data);
          sent += 1;
        }
      }
      const size = typeof data === "string" ? utf8(data).length : data.byteLength;
      const skipped = this.#skipped ? `; ${plural(this.#skipped, "time")} not, since too much waits to be sent` : "";
      this.#tell(`Sent ${bytes(size)} from ${plural(sent, "peer")}${skipped}.`);
      if (again) return;
      this.#history.add(this.#kind, told);
      this.#drawHistory();
    } catch (error) {
      this.#stop();
      this.#complain(error);
    }
  }

  #complain(error) {
    if (!(error instanceof Unsendable)) throw error;
    this.#tell(error.message, true);
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

  #save() {
    try {
      if (!byId("text").value) throw new Unsendable("There is nothing to save: write a message first.");
      this.#saved.add(this.#kind, byId("text").value);
      this.#tell("Saved in this browser.");
    } catch (error) {
      this.#complain(error);
    }
    this.#drawSaved();
  }

  #drawSaved() {
    const rows = this.#saved.entries.map((entry) => {
      const remove = () => {
        this.#saved.remove(entry);
        this.#drawSaved();
      };
      const label = `Remove ${shorten(entry.text, 30)}`;
      return this.#entry(entry, el("button", { type: "button", class: "remove", "aria-label": label, title: "Remove", onclick: remove }, "×"));
    });
    byId("saved").replaceChildren(...(rows.length ? rows : [el("li", { class: "note" }, "“Save” keeps a message here, templates and all.")]));
  }

  #drawHistory() {
    const rows = this.#history.entries.map((entry) => this.#entry(entry));
    byId("history").replaceChildren(...(rows.length ? rows : [el("li", { class: "note" }, "Nothing yet.")]));
  }

  #entry({ kind, text }, ...more) {
    const shown = shorten(text, SHOWN_CHARACTERS) || "(empty)";
    const name = el("span", { class: "kind" }, kind === "json" ? "JSON" : kind);
    if (kind === "file") return el("li", {}, name, " ", shown);
    const recall = () => {
      byId("message").elements.kind.value = kind;
      byId("text").value = text;
      this.#showField();
      byId("text").focus();
    };
    return el("li", {}, name, " ", el("button", { type: "button", class: "link", onclick: recall }, shown), ...more);
  }
}
