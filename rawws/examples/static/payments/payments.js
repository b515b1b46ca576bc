import { find, make, parse, showState } from "./dom.js"
import { Room } from "./room.js"

const SHOWN = 10
const KEPT = 1000

const payments = new Map() // id: the amount
const receipts = new Map() // id: the number of SMS that were sent for it
let lastRequest

async function send(request) {
  lastRequest = request
  const began = performance.now()
  let answer
  try {
    const headers = { "Idempotency-Key": request.key }
    const response = await fetch("payments", { method: "POST", body: `amount=${request.amount}`, headers })
    const id = (await response.text()).trim()
    const ms = (performance.now() - began).toFixed(0)
    const meaning = response.status === 200 ? "known already, and not paid again" : "paid"
    answer = response.ok ? `${id}: ${meaning}. The answer took ${ms} ms.` : `Refused with ${response.status}: ${id}`
  } catch {
    answer = "There was no answer. Send it again: with the same key, nothing is paid twice."
  }
  find("#answer").textContent = answer
  find("#again").disabled = false
}

function show() {
  find("#paid").textContent = payments.size
  const sent = [...payments.keys()].filter((id) => receipts.has(id)).length
  find("#sent").textContent = [...receipts.values()].reduce((sum, count) => sum + count, 0)
  find("#waiting").textContent = payments.size - sent
  find("#payments").replaceChildren(...[...payments].reverse().slice(0, SHOWN).map(([id, amount]) => {
    const count = receipts.get(id) ?? 0
    const state = count > 1 ? `sent ${count} times` : count ? "sent" : "waits for the service"
    return make("tr", {},
      make("td", { class: "mono" }, id),
      make("td", { class: "number" }, amount),
      make("td", { class: count ? "sent" : "waiting" }, state))
  }))
}

find("#pay").onsubmit = (event) => {
  event.preventDefault()
  const key = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("")
  send({ amount: find("#amount").value, key })
}
find("#again").onclick = () => send(lastRequest)

const port = location.port && location.port !== "8080" ? ` --port ${location.port}` : ""
find("#command").textContent = `python -m rawws.examples.payments sms${port} --state sms.state`

new Room("payments", {
  last: KEPT,
  onState: (state) => showState(find("#state"), state),
  onMessage(text, id) {
    payments.set(id, String(parse(text)?.paid ?? "").replace(/^amount=/, ""))
    show()
  },
}).open()
new Room("receipts", {
  last: KEPT,
  onMessage(id) {
    receipts.set(id, (receipts.get(id) ?? 0) + 1)
    show()
  },
}).open()
