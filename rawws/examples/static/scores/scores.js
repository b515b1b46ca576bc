import { find, make, parse, showState } from "./dom.js"
import { Room } from "./room.js"

const NEWS_SHOWN = 4

// One side of the page: what it has read, whatever way it reads.
class Board {
  #count = 0
  #missed = 0
  #number = 0
  #goals = []

  constructor(panel) {
    this.panel = panel
    panel.append(find("#board").content.cloneNode(true))
    panel.querySelector("button").onclick = ({ target }) => {
      const isOn = target.textContent === "Disconnect"
      target.textContent = isOn ? "Connect" : "Disconnect"
      isOn ? this.reader.close() : this.reader.open()
    }
  }

  onState(state) { showState(this.panel.querySelector(".state"), state) }

  onMessage(text, id) {
    const { number, minute, news, matches } = parse(text)
    if (this.#count) this.#missed += number - this.#number - 1
    this.#number = number
    this.#count += 1
    this.#show(".minute", minute === 90 ? "Full time" : `Minute ${minute}`)
    this.#show(".count", this.#count)
    this.#show(".missed", this.#missed)
    this.#show(".id", id)
    this.panel.querySelector("tbody").replaceChildren(...matches.map((match, index) => this.#row(match, index)))
    if (!news) return
    const log = this.panel.querySelector(".log")
    log.prepend(make("li", {}, make("b", {}, `${minute}′`), news))
    while (log.children.length > NEWS_SHOWN) log.lastChild.remove()
  }

  #row({ home, away, home_goals, away_goals }, index) {
    const goals = `${home_goals} : ${away_goals}`
    const isNew = this.#goals[index] !== undefined && this.#goals[index] !== goals
    this.#goals[index] = goals
    const cells = [make("td", {}, home), make("td", { class: "goals" }, goals), make("td", { class: "away" }, away)]
    return make("tr", isNew ? { class: "new" } : {}, ...cells)
  }

  #show(selector, value) { this.panel.querySelector(selector).textContent = value }
}

// The browser reconnects an EventSource by itself, with Last-Event-ID. One that was closed is a new one, which asks with
// `since`.
class Events {
  #source
  #id = ""

  constructor(path, { last, onState, onMessage }) { Object.assign(this, { path, last, onState, onMessage }) }

  open() {
    this.onState("connecting")
    const query = new URLSearchParams(this.#id ? { since: this.#id } : { last: this.last })
    this.#source = new EventSource(`${this.path}?${query}`)
    this.#source.onopen = () => this.onState("open")
    this.#source.onerror = () => this.onState("connecting")
    this.#source.onmessage = ({ data, lastEventId }) => {
      this.#id = lastEventId
      this.onMessage(data, lastEventId)
    }
  }

  close() {
    this.#source.close()
    this.onState("closed")
  }
}

for (const [id, Reader] of [["#websocket", Room], ["#events", Events]]) {
  const board = new Board(find(id))
  const hooks = { onState: (state) => board.onState(state), onMessage: (text, at) => board.onMessage(text, at) }
  board.reader = new Reader("scores", { last: 1, ...hooks })
  board.reader.open()
}
