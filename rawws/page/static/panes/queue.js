// Part "A queue, with two workers" of the pane "Other ways in": the workers, the group's state, and what is dead.

import { byId, copyButton, el } from "../dom.js";
import { shellWorker } from "../snippets.js";
import { Queue } from "../state/queue.js";
import { plural, shorten } from "../text.js";

const REFRESH_MS = 1000;
const SHOWN_CHARACTERS = 80;

/** A path as it stands in a request: what a URL can't have is escaped. */
const pathOf = (text) => new URL(`http://host/${text.replace(/^\//, "")}`).pathname;

const STATES = { away: "not there", connecting: "connecting", open: "at work" };

export class QueuePane {
  #watch;
  #queue = null; // of the last start
  #isStarted = false;
  #views = [];
  #published = 0;

  constructor({ watch }) {
    this.#watch = watch;
    watch.addEventListener("about", () => this.#offer());
    byId("queue-start").addEventListener("submit", (event) => this.#toggle(event));
    byId("queue-publish").addEventListener("submit", (event) => this.#publish(event));
    byId("queue-end").addEventListener("click", () => this.#end());
    for (const id of ["room", "group"]) byId(id).addEventListener("input", () => this.#showSnippet());
    byId("copy-queue-snippet").append(copyButton("Copy", () => byId("queue-snippet").textContent));
    setInterval(() => this.#tick(), REFRESH_MS);
  }

  #offer() {
    const { has_rooms: hasRooms, no_groups: noGroups } = this.#watch.about;
    byId("queue").hidden = noGroups !== null || !hasRooms;
    byId("no-queue").hidden = noGroups === null;
    byId("no-queue").textContent = noGroups ?? "";
    this.#showSnippet();
  }

  /** What the fields say; what is under way is left as it was begun. */
  get #wishes() {
    return {
      path: pathOf(byId("room").value.trim()),
      group: byId("group").value.trim(),
      most: byId("most").valueAsNumber,
      ackS: byId("lease").valueAsNumber,
      tries: byId("tries").valueAsNumber,
    };
  }

  #showSnippet() {
    const { target } = this.#isStarted ? this.#queue : new Queue(this.#wishes);
    byId("queue-snippet").textContent = shellWorker(location.protocol === "https:", location.host, target);
  }

  #toggle(event) {
    event.preventDefault();
    const isStarted = !this.#isStarted;
    if (isStarted) this.#start();
    else this.#queue.stop();
    this.#show(isStarted);
  }

  #show(isStarted) {
    this.#isStarted = isStarted;
    const toggle = byId("queue-toggle");
    toggle.textContent = isStarted ? "Stop both workers" : "Start two workers";
    toggle.setAttribute("aria-pressed", String(isStarted));
    for (const id of ["group", "most", "lease", "tries"]) byId(id).disabled = isStarted;
    this.#showSnippet();
  }

  #start() {
    const queue = (this.#queue = new Queue(this.#wishes));
    this.#views = queue.workers.map((worker) => new WorkerView(worker));
    byId("workers").replaceChildren(...this.#views.map(({ box }) => box));
    byId("queue-end").disabled = false;
    const viewOf = (worker) => this.#views[queue.workers.indexOf(worker)];
    queue.addEventListener("job", ({ detail: { worker, job } }) => viewOf(worker).add(job));
    queue.addEventListener("gone", ({ detail: { worker, job } }) => viewOf(worker).remove(job));
    queue.addEventListener("told", ({ detail: { worker, line } }) => viewOf(worker).tell(line));
    queue.addEventListener("worker", ({ detail: worker }) => viewOf(worker).draw());
    queue.addEventListener("state", () => queue === this.#queue && this.#drawState());
    for (const what of ["worker", "gone"]) queue.addEventListener(what, () => this.#refresh());
    this.#drawState();
    for (const worker of queue.workers) worker.start();
  }

  /** Ask for the state of the group, which has none before its first worker. */
  async #refresh() {
    const queue = this.#queue;
    if (!queue?.exists || !this.#watch.isWatching) return;
    try {
      await queue.refresh();
    } catch (error) {
      if (queue === this.#queue) this.#tell(error.message, true);
    }
  }

  #tick() {
    for (const view of this.#views) view.tick();
    const isSeen = document.body.dataset.view === "ways" && !document.hidden;
    if (isSeen && this.#isStarted) this.#refresh();
  }

  async #publish(event) {
    event.preventDefault();
    const queue = this.#isStarted ? this.#queue : new Queue(this.#wishes);
    const texts = Array.from({ length: byId("job-count").valueAsNumber }, () => `${byId("job-text").value} ${(this.#published += 1)}`);
    try {
      const id = await queue.publish(texts);
      this.#tell(`${plural(texts.length, "job")} published in ${queue.wishes.path}, up to ${id}.`);
    } catch (error) {
      this.#tell(error.message, true);
    }
    if (queue === this.#queue) this.#refresh();
  }

  async #end() {
    const { group, path } = this.#queue.wishes;
    this.#show(false);
    try {
      await this.#queue.end();
      byId("queue-end").disabled = true;
      this.#tell(`The group ${group} of ${path} has been ended.`);
    } catch (error) {
      this.#tell(error.message, true);
    }
  }

  #tell(text, isError = false) {
    byId("queue-told").textContent = text;
    byId("queue-told").classList.toggle("error", isError);
  }

  #drawState() {
    const { state, dead, deadPath } = this.#queue;
    const figures = state && {
      waiting: state.waiting,
      leased: state.leased,
      oldest: state.oldest ? `${state.oldest}, ${Math.round(state.oldest_s ?? 0)} s old` : "none",
      done: state.done,
      redelivered: state.redelivered,
      dead: state.dead,
      workers: state.workers,
    };
    const shown = Object.entries(figures ?? {});
    byId("queue-state").replaceChildren(
      ...shown.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", { class: `figure-${name}` }, String(value)))),
    );
    const rows = dead.map(({ job, tries, reason, worker, text }) =>
      el(
        "li",
        {},
        el("code", {}, shorten(text, SHOWN_CHARACTERS)),
        ` (${job}): ${plural(tries, "try").replace("trys", "tries")}; ${shorten(reason, 2 * SHOWN_CHARACTERS)}`,
        worker && el("span", { class: "note" }, ` last worker: ${shorten(worker, SHOWN_CHARACTERS)}`),
      ),
    );
    const title = el("h4", {}, "Dead jobs, in the room ", el("code", {}, deadPath));
    byId("queue-dead").replaceChildren(...(rows.length ? [title, el("ul", { class: "dead" }, ...rows)] : []));
  }
}

/** A worker as a card: what it has, what it can say about that, and what has happened. */
class WorkerView {
  #worker;
  #rows = new Map(); // by job
  #state = el("span", { class: "state" });
  #start = el("button", { type: "button", onclick: () => this.#worker.start() }, "Start again");
  #kill = el("button", { type: "button", onclick: () => this.#worker.kill() }, "Kill");
  #automatic = el("input", { type: "checkbox", onchange: () => this.#automate() });
  #after = el("input", { type: "number", min: "0", max: "3600", step: "any", value: "1", onchange: () => this.#automate() });
  #jobs = el("ul", { class: "jobs", tabindex: "-1" });
  #lines;

  constructor(worker) {
    this.#worker = worker;
    const title = el("h4", { id: `worker-${worker.name}` }, `Worker ${worker.name}`);
    this.#jobs.setAttribute("aria-label", `Jobs of worker ${worker.name}`);
    this.#lines = el("div", { class: "messages", role: "log", tabindex: "0", "aria-label": `What worker ${worker.name} did` });
    this.box = el(
      "section",
      { class: "worker", "aria-labelledby": title.id },
      el("div", { class: "row-of" }, title, this.#state, el("span", { class: "spring" }), this.#start, this.#kill),
      el(
        "div",
        { class: "row-of" },
        el("label", { class: "check-label" }, this.#automatic, " automatic:"),
        el("label", { class: "inline" }, "ack after ", this.#after, " s"),
      ),
      this.#jobs,
      this.#lines,
    );
    this.draw();
  }

  draw() {
    const { state } = this.#worker;
    this.#state.textContent = STATES[state];
    this.box.dataset.state = state;
    this.#start.hidden = state !== "away";
    this.#kill.hidden = state !== "open";
  }

  #automate() {
    const after = this.#after.valueAsNumber;
    this.#worker.automate(this.#automatic.checked && Number.isFinite(after) ? after * 1000 : null);
  }

  add(job) {
    const worker = this.#worker;
    const wait = el("input", { type: "number", min: "0", max: "604800", value: "0", "aria-label": `Seconds until the next try of ${job.id}` });
    const say = (verb, act) => el("button", { type: "button", onclick: () => this.#say(act), "aria-label": `${verb} ${job.id}` }, verb);
    const due = el("span", { class: "note due" });
    const row = el(
      "li",
      {},
      el("span", { class: "line" }, el("b", {}, shorten(job.text, SHOWN_CHARACTERS)), el("code", {}, job.id), el("span", { class: "try" }, `try ${job.tried}`), due),
      el(
        "span",
        { class: "row-of" },
        say("ack", () => worker.ack(job)),
        say("nak", () => worker.nak(job, wait.valueAsNumber || 0)),
        el("span", { class: "inline note" }, "in ", wait, " s"),
        say("more", () => worker.more(job)),
        say("term", () => worker.term(job)),
      ),
    );
    this.#rows.set(job, { row, due });
    this.#jobs.append(row);
    this.tick();
  }

  /** Do what a button says. Its row may go, so the keyboard stays at the jobs. */
  #say(act) {
    act();
    if (!this.box.contains(document.activeElement)) this.#jobs.focus({ preventScroll: true });
    this.tick();
  }

  remove(job) {
    this.#rows.get(job)?.row.remove();
    this.#rows.delete(job);
  }

  /** Show the time that is left for each job. */
  tick() {
    for (const [job, { due }] of this.#rows) {
      const left = Math.ceil((job.dueAt - Date.now()) / 1000);
      due.textContent = left > 0 ? `${left} s left` : "its time is over";
    }
  }

  tell(line) {
    this.#lines.append(el("p", {}, shorten(line, 2 * SHOWN_CHARACTERS)));
    while (this.#lines.childElementCount > this.#worker.lines.length) this.#lines.firstChild.remove();
    this.#lines.scrollTop = this.#lines.scrollHeight;
  }
}
