import { find, make, parse, showState } from "./dom.js"

const KEYS = {
  ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down", a: "left", d: "right", w: "up", s: "down",
}
const SWIPE_PX = 24
const GOLDEN_ANGLE = 137.5 // of the colour circle, so that players who come one after the other look different

const canvas = find("#field")
const context = canvas.getContext("2d")
let socket
let own = { id: 0, crashes: 0, score: 0 }
let size = { width: 48, height: 30 }
let state = { players: [], dots: [] }

function connect() {
  const name = localStorage.getItem("name") || `Guest ${Math.floor(Math.random() * 90 + 10)}`
  find("#name").value = name
  const url = new URL(`play?${new URLSearchParams({ name })}`, location.href)
  url.protocol = url.protocol.replace("http", "ws")
  const opened = socket = new WebSocket(url)
  showState(find("#state"), "connecting")
  socket.onopen = () => showState(find("#state"), "open")
  socket.onmessage = ({ data }) => take(parse(data))
  socket.onclose = () => {
    if (opened !== socket) return
    showState(find("#state"), "connecting")
    setTimeout(connect, 1000)
  }
}

function take(message) {
  if (message.you) {
    own = { id: message.you, crashes: 0, score: 0 }
    size = message
    return
  }
  state = message
  requestAnimationFrame(draw)
  const now = state.players.find(({ id }) => id === own.id)
  if (!now) return
  if (now.crashes > own.crashes) {
    find("#news").textContent = `A crash, with ${own.score} ${own.score === 1 ? "point" : "points"}. You begin again.`
  }
  own = now
  showPlayers()
}

function showPlayers() {
  const players = state.players.toSorted((one, other) => other.score - one.score)
  find("#players").replaceChildren(...players.map(({ id, name, score }) => {
    const isOwn = id === own.id
    const entry = make("li", isOwn ? { class: "you" } : {}, make("span", {}, isOwn ? `${name} (you)` : name), make("b", {}, score))
    entry.style.setProperty("--hue", hueOf(id))
    return entry
  }))
}

const hueOf = (id) => (id * GOLDEN_ANGLE) % 360

function draw() {
  const cell = (canvas.clientWidth * devicePixelRatio) / size.width
  canvas.width = size.width * cell
  canvas.height = size.height * cell
  context.scale(cell, cell)
  context.translate(0.5, 0.5)
  context.fillStyle = "#fff4c2"
  for (const [x, y] of state.dots) disc(x, y, 0.28)
  context.lineCap = context.lineJoin = "round"
  for (const { id, name, cells } of state.players) {
    const [x, y] = cells.at(-1)
    context.strokeStyle = `hsl(${hueOf(id)} 90% 64%)`
    context.lineWidth = 0.62
    context.beginPath()
    for (const [trailX, trailY] of cells) context.lineTo(trailX, trailY)
    context.stroke()
    context.fillStyle = id === own.id ? "#ffffff" : context.strokeStyle
    disc(x, y, 0.45)
    context.fillStyle = "#ffffffcc"
    context.font = "1.1px system-ui, sans-serif"
    context.textAlign = x > size.width - 8 ? "right" : "left"
    context.fillText(name, x + (x > size.width - 8 ? -0.8 : 0.8), y < 2 ? y + 1.5 : y - 0.7)
  }
}

function disc(x, y, radius) {
  context.beginPath()
  context.arc(x, y, radius, 0, 2 * Math.PI)
  context.fill()
}

function turn(heading) {
  if (socket.readyState === WebSocket.OPEN) socket.send(heading)
}

addEventListener("keydown", (event) => {
  const heading = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key]
  if (!heading || event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return
  event.preventDefault()
  turn(heading)
})

let touched = null
canvas.addEventListener("pointerdown", ({ clientX, clientY }) => { touched = [clientX, clientY] })
canvas.addEventListener("pointermove", ({ clientX, clientY, buttons }) => {
  if (!touched || !buttons) return
  const [x, y] = [clientX - touched[0], clientY - touched[1]]
  if (Math.max(Math.abs(x), Math.abs(y)) < SWIPE_PX) return
  turn(Math.abs(x) > Math.abs(y) ? (x < 0 ? "left" : "right") : y < 0 ? "up" : "down")
  touched = [clientX, clientY]
})

for (const button of find("#pad").children) button.onclick = () => turn(button.dataset.turn)
find("#rename").onsubmit = (event) => {
  event.preventDefault()
  localStorage.setItem("name", find("#name").value)
  socket.close()
  connect()
  canvas.focus()
}
connect()
canvas.focus()
