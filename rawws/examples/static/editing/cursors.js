// The cursors of everybody in a document. They go through a room without a history, in which only the newest of each
// person counts.

import { parse } from "./dom.js"
import { Room } from "./room.js"

const LEAST_BETWEEN_MS = 50
const REPEATED_MS = 3000
const FORGOTTEN_MS = 8000 // a tab that was closed says goodbye; a computer that was switched off does not

export class Cursors {
  #room
  #people = new Map() // site: { name, hue, after, pen, at }
  #ours
  #timer = 0

  // `ours()` returns the user's own { name, hue, after, pen }. `onChange(people)` gets those of the others.
  constructor(name, site, { ours, onChange }) {
    Object.assign(this, { site, onChange })
    this.#ours = ours
    this.#room = new Room(`rooms/cursors/${encodeURIComponent(name)}`, {
      onMessage: (text) => this.#take(parse(text)),
      onState: (state) => {
        if (state === "open") return this.#send()
        this.#people.clear()
        this.#show()
      },
    })
    setInterval(() => {
      this.#send()
      this.#forget()
    }, REPEATED_MS)
    addEventListener("pagehide", () => this.#room.send(JSON.stringify({ from: site, isGone: true })))
  }

  open() { this.#room.open() }

  close() {
    this.#room.send(JSON.stringify({ from: this.site, isGone: true }))
    this.#room.close()
  }

  // Tells the others soon that the user's own cursor has moved.
  moved() {
    if (this.#timer) return
    this.#timer = setTimeout(() => {
      this.#timer = 0
      this.#send()
    }, LEAST_BETWEEN_MS)
  }

  #send() { this.#room.send(JSON.stringify({ from: this.site, ...this.#ours() })) }

  #take(cursor) {
    if (typeof cursor?.from !== "string" || cursor.from === this.site) return
    const isNew = !this.#people.has(cursor.from)
    if (cursor.isGone) {
      this.#people.delete(cursor.from)
    } else {
      const { after, pen } = cursor
      this.#people.set(cursor.from, {
        name: String(cursor.name ?? "").slice(0, 20),
        hue: Number(cursor.hue) || 0,
        after: typeof after === "string" ? after : null,
        pen: Array.isArray(pen) && pen.every(Number.isFinite) ? pen : null,
        at: performance.now(),
      })
      if (isNew) this.moved() // so that a newcomer sees us at once
    }
    this.#show()
  }

  #forget() {
    const now = performance.now()
    for (const [site, { at }] of this.#people) if (now - at > FORGOTTEN_MS) this.#people.delete(site)
    this.#show()
  }

  #show() { this.onChange([...this.#people.values()]) }
}
