// One browser's copy of a document: letters and lines, and those that have been removed. It knows no network and no
// page, and runs in Node.js too.
//
// It is a set that only grows (a two-phase set, which is a CRDT). An item never changes, and one that is removed never
// comes back. So two replicas that have got the same changes hold the same set, whatever the order and however often
// each change came; and all that is shown follows from the set alone.
//
// Each item has an id of its own, "12.ab": a counter, and the site that made it. A site's counter is beyond all that it
// has seen, so what is made later, by somebody who has seen the earlier, sorts after it (Lamport, 1978).
//
// A letter names the letter after which it was typed. That makes the letters a tree. The text is the tree read from the
// root, where of several letters after the same one the newest comes first (a causal tree, or RGA). What somebody types
// in one go stays together, since each of its letters follows the one before.
//
// The changes, as they are sent:
//   { kind: "type", id, after, text }   letters; the first has this id, and the others count on from it
//   { kind: "line", id, points, hue }   a line through points x, y, x, y, …
//   { kind: "remove", ids }             items; [id, n] are n letters, whose counters count on

export const MAX_LETTERS = 20000
export const MAX_LINES = 8000

const ROOT = ""
const ID = /^(\d{1,10})\.([a-z0-9]{1,12})$/

const idOf = (counter, site) => `${counter}.${site}`

function partsOf(id) {
  const [, counter, site] = ID.exec(id)
  return [Number(counter), site]
}

// Compares ids by their counters, and by their sites where those are equal.
export function compareIds(one, other) {
  const [counter, site] = partsOf(one)
  const [otherCounter, otherSite] = partsOf(other)
  return counter - otherCounter || (site < otherSite ? -1 : Number(site > otherSite))
}

// Returns the ids of the letters of a change.
export function idsOf({ id, text }) {
  const [counter, site] = partsOf(id)
  return [...text].map((_, index) => idOf(counter + index, site))
}

const isId = (value) => typeof value === "string" && ID.test(value)

export class Replica {
  letters = new Map() // id: { id, after, text }
  lines = new Map() // id: { id, points, hue }
  removed = new Set()
  #following = new Map() // id: the ids of the letters after it, the newest first
  #counter = 0
  #shown = null // the letters that are shown, in order; null after a change

  constructor(site) { this.site = site }

  // Adds a change from anywhere; it may have come before. One that makes no sense is ignored, as every replica does.
  merge(change) {
    if (change?.kind === "type" && isId(change.id) && typeof change.text === "string") this.#addLetters(change)
    if (change?.kind === "line" && isId(change.id) && Array.isArray(change.points)) this.#addLine(change)
    if (change?.kind === "remove" && Array.isArray(change.ids)) change.ids.forEach((each) => this.#remove(each))
  }

  // The changes that a user of this replica makes. Each is merged, and returned to be sent.

  // Types a text after a letter; after ROOT at the beginning.
  type(after, text) {
    return this.#make({ kind: "type", id: idOf(this.#counter + 1, this.site), after, text })
  }

  draw(points, hue) {
    return this.#make({ kind: "line", id: idOf(this.#counter + 1, this.site), points, hue })
  }

  remove(ids) { return this.#make({ kind: "remove", ids: runsOf(ids) }) }

  #make(change) {
    this.merge(change)
    return change
  }

  // Returns the letters of the text, in order: { id, text }.
  shown() {
    if (this.#shown) return this.#shown
    const shown = []
    const waiting = [ROOT]
    while (waiting.length) {
      const id = waiting.pop()
      const following = this.#following.get(id) ?? []
      for (let index = following.length - 1; index >= 0; index--) waiting.push(following[index])
      if (id !== ROOT && !this.removed.has(id)) shown.push(this.letters.get(id))
    }
    return this.#shown = shown
  }

  text() { return this.shown().map((letter) => letter.text).join("") }

  // Returns the lines in the order in which they are drawn.
  drawing() { return [...this.lines.values()].sort((one, other) => compareIds(one.id, other.id)) }

  // Returns changes that make an empty replica equal to this one.
  snapshot() {
    const runs = []
    for (const { id, after, text } of [...this.letters.values()].sort(bySite)) {
      const run = runs.at(-1)
      const [counter, site] = partsOf(id)
      if (run && run.last === after && after === idOf(counter - 1, site)) {
        run.change.text += text
        run.last = id
      } else {
        runs.push({ change: { kind: "type", id, after, text }, last: id })
      }
    }
    const removed = { kind: "remove", ids: runsOf([...this.removed]) }
    return [...runs.map(({ change }) => change), ...this.drawing().map((line) => ({ kind: "line", ...line })), removed]
  }

  #addLetters(change) {
    let { after } = change
    if (after !== ROOT && !(isId(after) && compareIds(after, change.id) < 0)) return
    const characters = [...change.text]
    for (const [index, id] of idsOf(change).entries()) {
      if (!this.letters.has(id)) this.#place({ id, after, text: characters[index] })
      this.#see(id)
      after = id
    }
  }

  #place(letter) {
    const { id, after } = letter
    this.letters.set(id, letter)
    const following = this.#following.get(after) ?? []
    let index = 0
    while (index < following.length && compareIds(following[index], id) > 0) index++
    following.splice(index, 0, id)
    this.#following.set(after, following)
    this.#shown = null
  }

  #addLine({ id, points, hue }) {
    this.#see(id)
    if (!this.removed.has(id) && points.every(Number.isFinite)) this.lines.set(id, { id, points, hue: Number(hue) || 0 })
  }

  #remove(each) {
    const [first, count] = Array.isArray(each) ? each : [each, 1]
    if (!isId(first) || !(count <= MAX_LETTERS)) return
    const [counter, site] = partsOf(first)
    for (let index = 0; index < count; index++) {
      const id = idOf(counter + index, site)
      this.removed.add(id)
      this.lines.delete(id)
      this.#see(id)
    }
    this.#shown = null
  }

  #see(id) { this.#counter = Math.max(this.#counter, partsOf(id)[0]) }
}

function bySite({ id: one }, { id: other }) {
  const [counter, site] = partsOf(one)
  const [otherCounter, otherSite] = partsOf(other)
  return site === otherSite ? counter - otherCounter : site < otherSite ? -1 : 1
}

// Returns ids with each run of consecutive ones as [first, count].
function runsOf(ids) {
  const runs = []
  for (const { id } of ids.map((id) => ({ id })).sort(bySite)) {
    const [counter, site] = partsOf(id)
    const run = runs.at(-1)
    if (run && run.site === site && run.next === counter) {
      run.next += 1
    } else {
      runs.push({ id, site, first: counter, next: counter + 1 })
    }
  }
  return runs.map(({ id, first, next }) => (next - first === 1 ? id : [id, next - first]))
}
