// The page's own WebSocket, over which the server reports what it sees (rawws/page/feed.py has the messages).

const RETRY_MS = [500, 1000, 2000, 5000];
const HOME = "/_rawws/";

/**
 * `state` is "connecting", "watching", "lost" (the server can't be reached) or "refused" (it wants another token; then
 * `refusal` is what it says). Events: "state", and "about" after each greeting.
 */
export class Watch extends EventTarget {
  #store;
  #socket = null;
  #pages = new BroadcastChannel("rawws-pages");
  #tries = 0;
  #asked = new Map();
  #number = 0;

  constructor(store) {
    super();
    this.#store = store;
    this.state = "connecting";
    this.refusal = "";
    this.about = null;
    // A page of this browser that watches has the cookie which this one may be waiting for.
    this.#pages.onmessage = () => this.#lookAgainIfRefused();
    addEventListener("focus", () => this.#lookAgainIfRefused());
  }

  get isWatching() {
    return this.state === "watching";
  }

  /** The URL of the watched server for a path: through the tap, if it is one. */
  urlOf(path) {
    if (this.about?.is_tap) return this.about.uri + path;
    return `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`;
  }

  connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}${HOME}trace`);
    this.#socket = socket;
    socket.onmessage = (event) => {
      const told = parse(event.data);
      // Another server may be here by now, which has a room where the feed was.
      if (told === null || (!this.isWatching && !told.about)) socket.close();
      else this.#receive(told);
    };
    socket.onclose = () => {
      for (const { reject } of this.#asked.values()) reject(new Error("the server has gone"));
      this.#asked.clear();
      if (this.isWatching) {
        this.#store.watchedUntil = Date.now();
        this.#store.why = "the connection to the server was lost";
      }
      this.#setState("lost");
      this.#lookAgainSoon();
    };
  }

  #lookAgainSoon() {
    setTimeout(() => this.#lookAgain(), RETRY_MS[Math.min(this.#tries++, RETRY_MS.length - 1)]);
  }

  /** Connect again, if the server is there and would still show this page: a WebSocket isn't told why it is refused. */
  async #lookAgain() {
    try {
      const answer = await fetch(HOME, { cache: "no-store" });
      const told = await answer.text();
      if (answer.status !== 403) this.connect();
      else {
        this.refusal = told.trim();
        this.#setState("refused");
      }
    } catch {
      this.#lookAgainSoon();
    }
  }

  #lookAgainIfRefused() {
    if (this.state !== "refused") return;
    this.#setState("connecting");
    this.#lookAgain();
  }

  /** Ask the server; resolves to its answer, and rejects with an Error that says why there is none. */
  ask(what, fields = {}) {
    if (!this.isWatching) return Promise.reject(new Error("the server can't be reached"));
    const number = ++this.#number;
    this.#socket.send(JSON.stringify({ ask: number, for: what, ...fields }));
    return new Promise((resolve, reject) => this.#asked.set(number, { resolve, reject }));
  }

  #setState(state) {
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }

  #receive(told) {
    if (told.answer !== undefined) {
      const asked = this.#asked.get(told.answer);
      this.#asked.delete(told.answer);
      if (told.error) asked?.reject(new Error(told.error));
      else asked?.resolve(told);
    } else if (told.records) {
      this.#store.take(told.records);
    } else if (told.about) {
      this.#tries = 0;
      this.#store.beginRun(told.about.instance);
      this.#store.takeOpen(told.open, told.unlisted);
      this.about = told.about;
      this.#setState("watching");
      this.#pages.postMessage("watching");
      this.dispatchEvent(new Event("about"));
    } else if (told.open) {
      this.#store.takeOpen(told.open, told.unlisted);
    }
  }
}

/** JSON as what it tells; null for what is none. */
function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
