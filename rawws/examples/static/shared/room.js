// Follows a room of rawws: each message once and in order, over as many connections as it takes.
//
// With the subprotocol rawws.id.v1, each message begins with a line of JSON that has its id. A connection that is lost
// is made again, and asks for the messages after the last id. If some of them are gone, the line has a gap.

const SUBPROTOCOL = "rawws.id.v1"
const FIRST_WAIT_MS = 300
const LONGEST_WAIT_MS = 5000

export class Room {
  #socket = null
  #timer = 0
  #at = ""
  #wait = FIRST_WAIT_MS
  #last
  #hooks

  // `last` is the number of earlier messages to get. The hooks are onMessage(text, id), onGap(), and onState(text),
  // whose text is "open", "connecting" or "closed".
  constructor(path, { last = 0, ...hooks }) {
    this.url = new URL(path, location.href)
    this.url.protocol = this.url.protocol.replace("http", "ws")
    this.#last = last
    this.#hooks = { onMessage() {}, onGap() {}, onState() {}, ...hooks }
  }

  get isOpen() { return this.#socket?.readyState === WebSocket.OPEN }

  open() {
    this.#hooks.onState("connecting")
    this.url.search = new URLSearchParams(this.#at ? { since: this.#at } : { last: this.#last })
    const socket = this.#socket = new WebSocket(this.url, SUBPROTOCOL)
    socket.onopen = () => {
      this.#wait = FIRST_WAIT_MS
      this.#hooks.onState("open")
    }
    socket.onmessage = ({ data }) => { if (typeof data === "string") this.#take(data) }
    socket.onclose = () => {
      if (socket !== this.#socket) return
      this.#hooks.onState("connecting")
      // The wait is random, so that a thousand readers do not come back in the same moment.
      this.#timer = setTimeout(() => this.open(), this.#wait * (0.5 + Math.random()))
      this.#wait = Math.min(2 * this.#wait, LONGEST_WAIT_MS)
    }
  }

  close() {
    clearTimeout(this.#timer)
    const socket = this.#socket
    this.#socket = null
    socket?.close()
    this.#hooks.onState("closed")
  }

  // Sends a text if the connection is open, and says whether it was.
  send(text) {
    if (this.isOpen) this.#socket.send(text)
    return this.isOpen
  }

  #take(data) {
    const end = data.indexOf("\n")
    const head = JSON.parse(end < 0 ? data : data.slice(0, end))
    this.#at = head.id ?? head.at ?? this.#at
    if (head.gap) this.#hooks.onGap()
    if (head.id) this.#hooks.onMessage(data.slice(end + 1), head.id)
  }
}
