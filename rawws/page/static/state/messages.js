// What can be sent: text, JSON, hex or a file; with templates, a history, and messages that the reader has saved.

import { bytes, fromHex } from "../text.js";

const KEPT = 50;
const NAME = "rawws-messages";
const MOST_SAVED_CHARACTERS = 200_000;

/** What can't be sent, and why. */
export class Unsendable extends Error {}

const TEMPLATES = {
  n: ({ n }) => String(n),
  time: ({ now }) => now.toISOString(),
  unix: ({ now }) => String(Math.floor(now / 1000)),
  uuid: () => crypto.randomUUID?.() ?? "uuid-needs-https-or-localhost",
};

/** Text with its templates filled in; `n` counts the messages. Unknown names stay as they are. */
export function fill(text, n) {
  return text.replace(/\{\{\s*(\w+)\s*\}\}/g, (whole, name) =>
    Object.hasOwn(TEMPLATES, name) ? TEMPLATES[name]({ n, now: new Date() }) : whole,
  );
}

/** What a form has, as `data` to send, and `told` for the history. Raises `Unsendable`. */
export async function compose(kind, text, file, n) {
  const filled = fill(text, n);
  switch (kind) {
    case "json":
      try {
        JSON.parse(filled);
      } catch (error) {
        throw new Unsendable(`This is not JSON: ${error.message}`);
      }
      return { data: filled, told: text };
    case "hex": {
      const data = fromHex(filled);
      if (data === null) throw new Unsendable("This is not hex: give two digits for each byte, such as 48 65 6c.");
      return { data, told: text };
    }
    case "file":
      if (!file) throw new Unsendable("Choose a file first.");
      return { data: await file.arrayBuffer(), told: `${file.name} (${bytes(file.size)})` };
    default:
      return { data: filled, told: text };
  }
}

/** The messages that were sent, the latest first, each once. */
export class History {
  entries = [];

  add(kind, text) {
    const others = this.entries.filter((each) => each.kind !== kind || each.text !== text);
    this.entries = [{ kind, text }, ...others].slice(0, KEPT);
  }
}

/** The messages that the reader has saved. They stay in this browser, for every server at this origin. */
export class Saved {
  constructor() {
    this.entries = [];
    try {
      const kept = JSON.parse(localStorage.getItem(NAME)) ?? [];
      const isEntry = (each) => ["text", "json", "hex"].includes(each?.kind) && typeof each.text === "string";
      this.entries = kept.filter(isEntry).slice(0, KEPT);
    } catch {
      // Nothing of use was kept.
    }
  }

  add(kind, text) {
    if (text.length > MOST_SAVED_CHARACTERS) throw new Unsendable("This is too long to be saved.");
    this.entries = [{ kind, text }, ...this.entries.filter((each) => each.text !== text)].slice(0, KEPT);
    this.#keep();
  }

  remove(entry) {
    this.entries = this.entries.filter((each) => each !== entry);
    this.#keep();
  }

  #keep() {
    try {
      if (this.entries.length) localStorage.setItem(NAME, JSON.stringify(this.entries));
      else localStorage.removeItem(NAME);
    } catch {
      throw new Unsendable("The browser keeps nothing for this page, so it is saved until the page goes.");
    }
  }
}
