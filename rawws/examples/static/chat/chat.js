import { find, hueOf, make, parse, showState } from "./dom.js"

const given = new URLSearchParams(location.search)
const name = given.get("name")?.trim() ?? ""
const room = given.get("room")?.trim() || "lounge"
let socket

function enter() {
  find("#entrance").hidden = true
  find("#talk").hidden = false
  find("#heading").textContent = `#${room}`
  document.title = `#${room} · Chat`
  connect()
  find("#text").focus()
}

function connect() {
  const url = new URL(`room/${encodeURIComponent(room)}?${new URLSearchParams({ name })}`, location.href)
  url.protocol = url.protocol.replace("http", "ws")
  showState(find("#state"), "connecting")
  socket = new WebSocket(url)
  socket.onopen = () => {
    find("#said").replaceChildren() // the room sends its last messages again
    showState(find("#state"), "open")
  }
  socket.onmessage = ({ data }) => show(parse(data))
  socket.onclose = () => {
    showState(find("#state"), "connecting")
    setTimeout(connect, 1000 + 1000 * Math.random())
  }
}

function show({ name: author, people, text, event }) {
  const list = find("#said")
  const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40
  let item
  if (event) {
    item = make("li", { class: "notice" }, `${author} ${event}`)
  } else {
    item = make("li", { class: author === name ? "message mine" : "message" }, make("b", {}, author), text)
    item.style.setProperty("--hue", hueOf(author))
  }
  list.append(item)
  if (isAtEnd || author === name) item.scrollIntoView({ block: "nearest" })
  find("#people").replaceChildren(...people.map((person) => {
    const entry = make("li", { "data-initial": [...person][0].toUpperCase() }, person === name ? `${person} (you)` : person)
    entry.style.setProperty("--hue", hueOf(person))
    return entry
  }))
}

find("#say").onsubmit = (event) => {
  event.preventDefault()
  const input = find("#text")
  if (socket.readyState !== WebSocket.OPEN || !input.value.trim()) return // what was written stays
  socket.send(input.value)
  input.value = ""
}

find("#name").value = name
find("#room").value = room
if (name) enter()
