// The whiteboard of a document on a canvas, by pointer or by keyboard, and the pens of the others above it.

import { make } from "./dom.js"
import { MAX_LINES } from "./replica.js"

const WIDTH = 800
const HEIGHT = 600
const FLUSH_MS = 100 // a line is sent in pieces while it is drawn, so that others see it grow
const STEP = 10 // of the pen that the arrow keys move

export class Board {
  #piece = null // the points of the piece that is being drawn
  #flushing = 0
  #strokes = [] // the ids of the pieces of each of the user's own lines
  #needsPaint = false
  pen = null // the place of the user's pen; null while it is elsewhere

  constructor(canvas, pens, replica, { hue, onEdit, onFull, onPen }) {
    Object.assign(this, { canvas, pens, replica, hue, onEdit, onFull, onPen })
    canvas.addEventListener("pointerdown", (event) => this.#begin(event))
    canvas.addEventListener("pointermove", (event) => this.#move(event))
    canvas.addEventListener("pointerup", () => this.#end())
    canvas.addEventListener("pointercancel", () => this.#end())
    canvas.addEventListener("pointerleave", () => this.#setPen(null))
    canvas.addEventListener("keydown", (event) => this.#press(event))
    canvas.addEventListener("blur", () => this.#end())
    new ResizeObserver(() => this.render()).observe(canvas)
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.render())
  }

  // Draws all lines at the next frame.
  render() {
    if (this.#needsPaint) return
    this.#needsPaint = true
    requestAnimationFrame(() => {
      this.#needsPaint = false
      this.#paint()
    })
  }

  // Removes the last line that the user has drawn.
  undo() {
    const ids = this.#strokes.pop()
    if (ids) this.onEdit(this.replica.remove(ids))
    this.render()
  }

  clear() {
    if (this.replica.lines.size) this.onEdit(this.replica.remove([...this.replica.lines.keys()]))
    this.#strokes = []
    this.render()
  }

  // Shows the pens of others: { name, hue, pen }.
  showPens(cursors) {
    this.pens.replaceChildren(...cursors.map(({ name, hue, pen: [x, y] }) => {
      const flag = make("span", { class: "pen" }, name)
      flag.style.setProperty("--hue", hue)
      flag.style.left = `${(100 * x) / WIDTH}%`
      flag.style.top = `${(100 * y) / HEIGHT}%`
      return flag
    }))
  }

  #paint() {
    const scale = (this.canvas.clientWidth / WIDTH) * devicePixelRatio
    this.canvas.width = WIDTH * scale
    this.canvas.height = HEIGHT * scale
    const context = this.canvas.getContext("2d")
    context.scale(scale, scale)
    context.lineWidth = 4
    context.lineCap = context.lineJoin = "round"
    const lightness = matchMedia("(prefers-color-scheme: dark)").matches ? 68 : 42
    const own = this.#piece ? [{ points: this.#piece, hue: this.hue }] : []
    for (const { points, hue } of [...this.replica.drawing(), ...own]) {
      context.strokeStyle = `hsl(${hue} 70% ${lightness}%)`
      context.beginPath()
      context.moveTo(points[0], points[1])
      for (let at = 0; at < points.length; at += 2) context.lineTo(points[at], points[at + 1])
      context.stroke()
    }
  }

  #begin(event) {
    if (!event.isPrimary || event.button !== 0) return
    this.canvas.setPointerCapture(event.pointerId)
    this.#start(this.#placeOf(event))
  }

  #start(place) {
    if (this.replica.lines.size >= MAX_LINES) return this.onFull()
    this.#strokes.push([])
    this.#piece = [...place]
    this.#flushing = setInterval(() => this.#flush(), FLUSH_MS)
    this.#setPen(place)
  }

  #move(event) {
    for (const each of event.getCoalescedEvents?.() ?? [event]) this.#piece?.push(...this.#placeOf(each))
    this.#setPen(this.#placeOf(event))
  }

  #end() {
    if (!this.#piece) return
    if (this.#strokes.at(-1).length === 0 && this.#piece.length === 2) this.#piece.push(...this.#piece) // a dot
    this.#flush()
    clearInterval(this.#flushing)
    this.#piece = null
  }

  // Sends the points so far as a piece, and begins the next one at its end.
  #flush() {
    if (this.#piece.length < 4) return
    const change = this.replica.draw(this.#piece, this.hue)
    this.#strokes.at(-1).push(change.id)
    this.#piece = this.#piece.slice(-2)
    this.onEdit(change)
  }

  // The arrow keys move the pen; the space bar puts it down and takes it up.
  #press(event) {
    const step = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key]
    if (!step && event.key !== " ") return
    event.preventDefault()
    const [x, y] = this.pen ?? [WIDTH / 2, HEIGHT / 2]
    if (!step) return this.#piece ? this.#end() : this.#start([x, y])
    const place = [Math.min(Math.max(x + step[0], 0), WIDTH), Math.min(Math.max(y + step[1], 0), HEIGHT)]
    this.#piece?.push(...place)
    this.#setPen(place)
  }

  #placeOf({ clientX, clientY }) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect()
    return [Math.round(((clientX - left) / width) * WIDTH), Math.round(((clientY - top) / height) * HEIGHT)]
  }

  #setPen(place) {
    this.pen = place
    this.onPen()
    this.render()
  }
}
