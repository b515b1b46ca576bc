import { find, make, showState } from "./dom.js"

const url = new URL("prices", location.href)
url.protocol = url.protocol.replace("http", "ws")

function start(panel) {
  panel.append(find("#figures").content.cloneNode(true))
  const show = (name, value) => { panel.querySelector(`.${name}`).textContent = value }
  const state = panel.querySelector(".state")
  const worker = new Worker("reader.js")
  let receivedBefore = 0
  let shownAt = performance.now()
  let rate = 0

  showState(state, "connecting")
  worker.postMessage({ url: url.href })
  worker.onmessage = ({ data }) => {
    if (data.state) return showState(state, data.state)
    const { quotes, totals } = data
    const now = performance.now()
    rate = 0.7 * rate + 0.3 * ((totals.received - receivedBefore) / (now - shownAt)) * 1000
    receivedBefore = totals.received
    shownAt = now
    show("received", totals.received.toLocaleString("en"))
    show("skipped", totals.skipped.toLocaleString("en"))
    show("rate", rate.toFixed(0))
    show("age", totals.ageMs < 950 ? `${totals.ageMs.toFixed(0)} ms` : `${(totals.ageMs / 1000).toFixed(1)} s`)
    quotes.sort((one, other) => (one.symbol < other.symbol ? -1 : 1))
    panel.querySelector("tbody").replaceChildren(...quotes.map(row))
  }
  return worker
}

function row({ symbol, number, price, first, skipped }) {
  const change = ((price - first) / first) * 100
  const direction = change >= 0 ? "up" : "down"
  return make("tr", { "data-symbol": symbol, "data-number": number },
    make("td", {}, symbol),
    make("td", { class: "number" }, price.toFixed(2)),
    make("td", { class: `number ${direction}` }, `${change >= 0 ? "+" : "−"}${Math.abs(change).toFixed(2)} %`),
    make("td", { class: "number" }, skipped.toLocaleString("en")))
}

start(find("#fast"))
const slow = start(find("#slow"))
const slider = find("#pause")
slider.oninput = () => {
  find("#chosen").textContent = `${slider.value} ms`
  slow.postMessage({ pauseMs: Number(slider.value) })
}
slider.oninput()
