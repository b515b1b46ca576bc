// The text of a document in a textarea, and the cursors of the others in a mirror behind it.

import { make } from "./dom.js"
import { idsOf, MAX_LETTERS } from "./replica.js"

const BEGINNING = ""

export class TextView {
  #letters = [] // those in the textarea, in order
  #composes = false // an input method is at work, and must not be disturbed

  // `onEdit(...changes)` is called with what the user does, `onFull()` when the document takes no more letters.
  constructor(area, mirror, replica, { onEdit, onFull }) {
    Object.assign(this, { area, mirror, replica, onEdit, onFull })
    area.addEventListener("input", () => this.#read())
    area.addEventListener("compositionstart", () => { this.#composes = true })
    area.addEventListener("compositionend", () => {
      this.#composes = false
      this.render()
    })
    area.addEventListener("scroll", () => { mirror.scrollTop = area.scrollTop })
  }

  // Shows the replica's text. The selection stays with the letters that it is next to.
  render() {
    const letters = this.replica.shown()
    if (this.#composes) return
    const isSame = letters.length === this.#letters.length && letters.every(({ id }, at) => id === this.#letters[at].id)
    if (isSame) return
    const { selectionStart, selectionEnd, selectionDirection, scrollTop } = this.area
    const places = new Map(letters.map(({ id }, index) => [id, index + 1]))
    const [start, end] = [selectionStart, selectionEnd].map((offset) => {
      let index = indexAt(this.#letters, offset)
      while (index > 0 && !places.has(this.#letters[index - 1].id)) index--
      return offsetAt(letters, index && places.get(this.#letters[index - 1].id))
    })
    this.#letters = letters
    this.area.value = this.replica.text()
    this.area.setSelectionRange(start, end, selectionDirection)
    this.area.scrollTop = scrollTop
  }

  // Returns the letter before the user's cursor; BEGINNING if there is none.
  get cursor() { return this.#letters[indexAt(this.#letters, this.area.selectionEnd) - 1]?.id ?? BEGINNING }

  // Shows cursors: { name, hue, after }, where `after` is the letter before it.
  showCursors(cursors) {
    const letters = this.#letters
    const places = new Map(letters.map(({ id }, index) => [id, index + 1]))
    const placed = cursors.map((cursor) => ({ ...cursor, index: this.#indexAfter(cursor.after, places) }))
    placed.sort((one, other) => one.index - other.index)
    const text = (from, to) => letters.slice(from, to).map((letter) => letter.text).join("")
    let at = 0
    this.mirror.replaceChildren()
    for (const { name, hue, index } of placed) {
      const flag = make("span", { class: index ? "cursor" : "cursor first" }, make("b", {}, name))
      flag.style.setProperty("--hue", hue)
      this.mirror.append(text(at, index), flag)
      at = index
    }
    this.mirror.append(text(at), "\n")
    this.mirror.scrollTop = this.area.scrollTop
  }

  // A letter that is removed leaves its cursors to the letter after which it was typed.
  #indexAfter(id, places) {
    while (id !== BEGINNING && !places.has(id)) id = this.replica.letters.get(id)?.after ?? BEGINNING
    return places.get(id) ?? 0
  }

  // Finds what the user has changed: all between the longest equal beginning and the longest equal end.
  #read() {
    const before = this.#letters
    const now = [...this.area.value]
    const afterCursor = [...this.area.value.slice(this.area.selectionEnd)].length
    let end = 0
    while (end < Math.min(before.length, afterCursor) && before.at(-1 - end).text === now.at(-1 - end)) end++
    let begin = 0
    const most = Math.min(before.length, now.length) - end
    while (begin < most && before[begin].text === now[begin]) begin++
    this.#change(before.slice(0, begin), before.slice(begin, before.length - end), before.slice(before.length - end),
      now.slice(begin, now.length - end))
  }

  // Makes the change between letters that stay. The textarea shows it already, and is left alone: so undo works on.
  #change(beginning, removed, end, typed) {
    const isFull = typed.length > 0 && this.replica.letters.size + typed.length > MAX_LETTERS
    const changes = []
    let letters = []
    if (removed.length) changes.push(this.replica.remove(removed.map(({ id }) => id)))
    if (typed.length && !isFull) {
      const change = this.replica.type(beginning.at(-1)?.id ?? BEGINNING, typed.join(""))
      letters = idsOf(change).map((id) => this.replica.letters.get(id))
      changes.push(change)
    }
    this.#letters = [...beginning, ...letters, ...end]
    if (isFull) {
      this.area.value = this.#letters.map(({ text }) => text).join("")
      this.onFull()
    }
    if (changes.length) this.onEdit(...changes)
  }
}

// Converts an offset of the textarea, in UTF-16, to a number of letters, and back.
function indexAt(letters, offset) {
  let index = 0
  for (let at = 0; at < offset && index < letters.length; index++) at += letters[index].text.length
  return index
}

function offsetAt(letters, index) {
  let offset = 0
  for (let at = 0; at < index; at++) offset += letters[at].text.length
  return offset
}
