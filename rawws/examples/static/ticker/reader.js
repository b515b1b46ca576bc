// A reader of the prices, in a thread of its own: it may be slow without slowing down the page.
//
// It takes `pauseMs` for each message. A browser reads no more from the connection than this thread takes, up to its
// buffers, so the server sees a slow reader.

let pauseMs = 0
let offsetMs = Infinity // between the server's clock and ours, taken from the message that came fastest
const seen = new Map() // symbol: the newest quote
const totals = { received: 0, skipped: 0, ageMs: 0 }

onmessage = ({ data }) => {
  pauseMs = data.pauseMs ?? pauseMs
  if (data.url) open(data.url)
}

function open(url) {
  const socket = new WebSocket(url)
  socket.onopen = () => postMessage({ state: "open" })
  socket.onmessage = ({ data }) => take(JSON.parse(data))
  socket.onclose = () => {
    postMessage({ state: "connecting" })
    setTimeout(open, 1000, url)
  }
}

function take({ symbol, number, price, time }) {
  const before = seen.get(symbol)
  // After a restart of the server, the numbers begin again.
  const skipped = before && number > before.number ? number - before.number - 1 : 0
  const first = before?.first ?? price
  seen.set(symbol, { symbol, number, price, first, skipped: (before?.skipped ?? 0) + skipped })
  offsetMs = Math.min(offsetMs, Date.now() - 1000 * time)
  totals.received += 1
  totals.skipped += skipped
  totals.ageMs = Date.now() - 1000 * time - offsetMs
  if (pauseMs) pause(pauseMs)
}

function pause(ms) {
  if (globalThis.crossOriginIsolated) {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
  } else {
    for (const end = performance.now() + ms; performance.now() < end;) { /* a browser has no other way to wait here */ }
  }
}

setInterval(() => postMessage({ quotes: [...seen.values()], totals }), 200)
