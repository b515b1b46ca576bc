// A document that is shared through a room: a replica, the changes that are on their way, and the whole set for those
// who come later.

import { parse } from "./dom.js"
import { Replica } from "./replica.js"
import { Room } from "./room.js"

const KEPT = 2000 // messages in the room's history, see editing.py
const CHANGES_PER_SNAPSHOT = 200

export class SharedDocument {
  #room
  #onChange
  #unconfirmed = [] // messages that the room has not sent back to us yet, so they may be lost with the connection
  #sinceSnapshot = 0
  #publishesSnapshot = false

  constructor(name, site, { onChange, onState }) {
    this.replica = new Replica(site)
    this.#onChange = onChange
    this.#room = new Room(`rooms/documents/${encodeURIComponent(name)}`, {
      last: KEPT,
      onMessage: (text) => this.#take(text),
      onGap: () => this.#publishSnapshot(), // the room has lost what we still have
      onState: (state) => {
        if (state === "open") this.#sendAgain()
        onState(state)
      },
    })
  }

  open() { this.#room.open() }
  close() { this.#room.close() }

  // Sends changes that the replica has made. Without a connection, they are sent later.
  send(...changes) {
    const text = JSON.stringify({ by: this.replica.site, changes })
    this.#unconfirmed.push(text)
    this.#room.send(text)
  }

  get waiting() { return this.#room.isOpen ? 0 : this.#unconfirmed.length }

  #take(text) {
    if (this.#unconfirmed[0] === text) this.#unconfirmed.shift() // the room keeps the order of what one peer sends
    const message = parse(text)
    if (!Array.isArray(message?.changes)) return
    for (const change of message.changes) this.replica.merge(change)
    if (message.isSnapshot) {
      this.#sinceSnapshot = 0
      this.#publishesSnapshot = false
    } else {
      // All browsers count alike, since the room has one order. We have got all that came before our own change.
      this.#sinceSnapshot += 1
      const isOurTurn = message.by === this.replica.site && !this.#publishesSnapshot
      if (isOurTurn && this.#sinceSnapshot >= CHANGES_PER_SNAPSHOT) this.#publishSnapshot()
    }
    this.#onChange()
  }

  #publishSnapshot() {
    const { site, letters, lines } = this.replica
    if (!letters.size && !lines.size) return
    const changes = this.replica.snapshot()
    this.#publishesSnapshot = this.#room.send(JSON.stringify({ by: site, changes, isSnapshot: true }))
  }

  // A message may have arrived before the connection was lost. A change that comes twice does no harm.
  #sendAgain() {
    this.#publishesSnapshot = false
    for (const text of this.#unconfirmed) this.#room.send(text)
  }
}
