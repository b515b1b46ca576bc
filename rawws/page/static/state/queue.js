// A group of a room, with two workers of this very page, without how they look.

const WITH_IDS = "rawws.id.v1";
const GROUP_ENDED = 4410;
const KEPT_LINES = 50;
const DEAD_SHOWN = 10;

/** What this page asks for: `path` of the room, `group`, `most` jobs at a time, `ackS` seconds for each, `tries`. */
export class Queue extends EventTarget {
  // Events: "job", "gone" and "told" of a worker, which is the detail; "worker" when its state changes; "state".
  #asking = null;
  #askAgain = false;
  #deadRead = null;

  constructor(wishes) {
    super();
    this.wishes = Object.freeze(wishes);
    this.workers = ["1", "2"].map((name) => new Worker(this, name));
    this.state = null; // the group's, as the server tells it; null before the first answer
    this.dead = []; // the newest dead jobs, the newest first
    this.exists = false; // as far as is known
  }

  get target() {
    const { path, group } = this.wishes;
    return `${path}?group=${encodeURIComponent(group)}`;
  }

  get deadPath() {
    return `${this.wishes.path}.${this.wishes.group}.dead`;
  }

  get #isAtWork() {
    return this.workers.some((worker) => worker.state === "open");
  }

  /** A worker has come, whose request has made the group if it wasn't there. */
  noteOpen() {
    this.exists = true;
  }

  /** The server has ended a worker. The group may be no more, unless another one is still at work. */
  noteEnded(code) {
    this.exists &&= this.#isAtWork && code !== GROUP_ENDED;
  }

  /** The WebSocket of a worker. */
  dial() {
    const { most, ackS, tries } = this.wishes;
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}${this.target}&max=${most}&ack=${ackS}&tries=${tries}`, WITH_IDS);
    socket.binaryType = "arraybuffer";
    return socket;
  }

  tell(what, worker) {
    this.dispatchEvent(new CustomEvent(what, { detail: worker }));
  }

  stop() {
    for (const worker of this.workers) worker.stop();
  }

  /** Publish jobs one after the other; return the id of the last one. */
  async publish(texts) {
    let id = "";
    for (const body of texts) {
      const answer = await fetch(this.wishes.path, { method: "POST", body, headers: { "Content-Type": "text/plain" } });
      if (!answer.ok) throw new Error(`${answer.status}: ${(await answer.text()).trim()}`);
      ({ id } = await answer.json());
    }
    return id;
  }

  /** Ask the server for the group's state, and for the dead jobs if there are others. One question at a time. */
  async refresh() {
    if (this.#asking) {
      this.#askAgain = true;
      return;
    }
    this.#asking = this.#ask();
    try {
      await this.#asking;
    } finally {
      this.#asking = null;
    }
    if (this.#askAgain) {
      this.#askAgain = false;
      await this.refresh();
    }
  }

  async #ask() {
    this.state = await getJson(`${this.target}&state`);
    if (this.state.dead !== this.#deadRead) {
      const { messages } = await getJson(`${this.deadPath}?last=${DEAD_SHOWN}`);
      this.#deadRead = this.state.dead;
      this.dead = messages.map(readDead).reverse();
    }
    this.dispatchEvent(new Event("state"));
  }

  /** End the group itself, with all that it has left to do: what an operator does. */
  async end() {
    this.stop();
    const { path, group } = this.wishes;
    const query = new URLSearchParams({ room: path, group });
    const answer = await fetch(`/_rawws/groups?${query}`, { method: "DELETE" });
    if (!answer.ok) throw new Error(`${answer.status}: ${(await answer.text()).trim()}`);
    this.exists = false;
    this.state = null;
    this.dispatchEvent(new Event("state"));
  }
}

/** A worker: a WebSocket that has up to `most` jobs, each `{id, tried, text, dueAt}`, until it has answered for them. */
class Worker {
  #queue;
  #socket = null;

  constructor(queue, name) {
    this.#queue = queue;
    this.name = name;
    this.state = "away"; // or "connecting", "open"
    this.jobs = new Map(); // by id
    this.lines = []; // what has happened, the oldest first
    this.acksAfterMs = null; // without a button; null with buttons alone
  }

  start() {
    const socket = (this.#socket = this.#queue.dial());
    let wasOpen = false;
    this.#become("connecting");
    socket.onopen = () => {
      wasOpen = true;
      this.#queue.noteOpen();
      this.#become("open");
    };
    socket.onmessage = ({ data }) => this.#read(data);
    socket.onclose = ({ code, reason }) => {
      const told = reason ? `${code}, ${reason}` : code;
      this.state = "away";
      this.#queue.noteEnded(code);
      this.#end(wasOpen ? `ended by the server: ${told}` : "refused; Connections has the reason");
    };
  }

  /** End it in the middle of its work: it says nothing about the jobs that it has. */
  kill() {
    const held = [...this.jobs.keys()];
    this.#leave(held.length ? `killed, with ${held.join(", ")}` : "killed");
  }

  stop() {
    if (this.state !== "away") this.#leave("stopped");
  }

  ack(job) {
    this.#answer(job, { ack: job.id }, "done");
  }

  nak(job, inS) {
    this.#answer(job, { nak: job.id, in: inS }, inS ? `given back for ${inS} s` : "given back");
  }

  term(job) {
    this.#answer(job, { term: job.id, why: "given up on the page" }, "given up");
  }

  /** Have the time of a lease begin again. */
  more(job) {
    this.#send({ more: job.id });
    job.dueAt = this.#due();
    this.#note(`${describe(job)}: still at it`);
  }

  /** Acknowledge each job by itself after a time; null leaves that to buttons. */
  automate(afterMs) {
    this.acksAfterMs = afterMs;
    for (const job of this.jobs.values()) this.#automate(job);
  }

  #automate(job) {
    clearTimeout(job.timer);
    if (this.acksAfterMs === null) return;
    job.timer = setTimeout(() => this.jobs.get(job.id) === job && this.ack(job), this.acksAfterMs);
  }

  #due() {
    return Date.now() + this.#queue.wishes.ackS * 1000;
  }

  #read(data) {
    const [head, text] = divide(data);
    if (head.lost !== undefined) {
      this.#drop(head.lost);
      this.#note(`${head.lost}: ${head.why}`);
      return;
    }
    this.#drop(head.id); // another try of one that took too long
    const job = { id: head.id, tried: head.try, text, dueAt: this.#due() };
    this.jobs.set(job.id, job);
    this.#note(`${describe(job)}: has come`);
    this.#queue.tell("job", { worker: this, job });
    this.#automate(job);
  }

  #answer(job, members, told) {
    this.#send(members);
    this.#drop(job.id);
    this.#note(`${describe(job)}: ${told}`);
  }

  #send(members) {
    this.#socket.send(JSON.stringify(members));
  }

  #drop(id) {
    const job = this.jobs.get(id);
    if (!job) return;
    clearTimeout(job.timer);
    this.jobs.delete(id);
    this.#queue.tell("gone", { worker: this, job });
  }

  #leave(told) {
    const socket = this.#socket;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    this.#end(told);
  }

  #end(told) {
    for (const id of [...this.jobs.keys()]) this.#drop(id);
    this.#note(told);
    this.#become("away");
  }

  #become(state) {
    this.state = state;
    this.#queue.tell("worker", this);
  }

  #note(line) {
    this.lines.push(line);
    if (this.lines.length > KEPT_LINES) this.lines.shift();
    this.#queue.tell("told", { worker: this, line });
  }
}

const describe = ({ id, tried, text }) => `${text} (${id}, try ${tried})`;

/** A message with an id, as what its first line tells and the rest as text. */
function divide(data) {
  const isText = typeof data === "string";
  const end = isText ? data.indexOf("\n") : new Uint8Array(data).indexOf(10);
  const head = isText ? data.slice(0, end) : new TextDecoder().decode(data.slice(0, end));
  return [JSON.parse(head), isText ? data.slice(end + 1) : `${data.byteLength - end - 1} bytes`];
}

/** A message of a dead room: what its first line tells, and the job. Anybody who may write there may write anything. */
function readDead({ id, text, base64 }) {
  const data = text ?? Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)).buffer;
  try {
    const [{ id: job, tries, reason, worker }, rest] = divide(data);
    return { job, tries, reason, worker, text: rest };
  } catch {
    return { job: id, tries: 0, reason: "not a dead job: somebody has published this here", worker: "", text: text ?? "" };
  }
}

async function getJson(target) {
  const answer = await fetch(target, { cache: "no-store" });
  if (!answer.ok) throw new Error(`${answer.status}: ${(await answer.text()).trim()}`);
  return answer.json();
}
