import { Board } from "./board.js"
import { Cursors } from "./cursors.js"
import { SharedDocument } from "./document.js"
import { find, hueOf, make, showState } from "./dom.js"
import { TextView } from "./text.js"

const name = new URLSearchParams(location.search).get("document")?.trim().slice(0, 40) || "notes"
const site = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => (byte % 36).toString(36)).join("")
const hue = hueOf(site)
const ownName = find("#name")
ownName.value = localStorage.getItem("name") || `Guest ${site.slice(0, 2).toUpperCase()}`

const shared = new SharedDocument(name, site, { onChange: renderSoon, onState: (state) => showState(find("#state"), state) })
const { replica } = shared
const onFull = () => { find("#full").hidden = false }

function edit(...changes) {
  shared.send(...changes)
  showFigures()
  cursors.moved()
}

const text = new TextView(find("#text"), find("#mirror"), replica, { onEdit: edit, onFull })
const board = new Board(find("#canvas"), find("#pens"), replica, {
  hue, onEdit: edit, onFull, onPen: () => cursors.moved(),
})

let people = []
const cursors = new Cursors(name, site, {
  ours: () => ({
    name: ownName.value,
    hue,
    after: document.activeElement === text.area ? text.cursor : null,
    pen: board.pen,
  }),
  onChange: (others) => {
    people = others
    showPeople()
  },
})

let isDue = false

// Shows the document at the next frame: a newcomer gets thousands of changes at once.
function renderSoon() {
  if (!isDue) requestAnimationFrame(render)
  isDue = true
}

function render() {
  isDue = false
  text.render()
  board.render()
  showPeople()
  showFigures()
}

function showPeople() {
  text.showCursors(people.filter(({ after }) => after !== null))
  board.showPens(people.filter(({ pen }) => pen !== null))
  const own = { name: `${ownName.value} (you)`, hue }
  find("#people").replaceChildren(...[own, ...people].map((person) => {
    const entry = make("li", {}, person.name || "Nameless")
    entry.style.setProperty("--hue", person.hue)
    return entry
  }))
}

function showFigures() {
  const waiting = shared.waiting
  find("#waiting").textContent = waiting ? `${waiting} ${waiting === 1 ? "change waits" : "changes wait"} to be sent` : ""
}

find("#online").onchange = ({ target }) => {
  for (const each of [shared, cursors]) target.checked ? each.open() : each.close()
  showFigures()
}
find("#undo").onclick = () => board.undo()
find("#clear").onclick = () => board.clear()
ownName.onchange = () => {
  localStorage.setItem("name", ownName.value)
  cursors.moved()
  showPeople()
}
document.addEventListener("selectionchange", () => cursors.moved())
text.area.addEventListener("blur", () => cursors.moved())

document.title = `${name} · Editing together`
globalThis.shared = shared // for the browser's console: shared.replica.text()
shared.open()
cursors.open()
render()
