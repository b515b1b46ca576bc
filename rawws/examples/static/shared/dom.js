// The few things that all pages do with the document. Text from others is only ever set as text.

export const find = (selector) => document.querySelector(selector)

// Returns an element with attributes and children; a child may be a text.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  element.append(...children)
  return element
}

const STATES = { open: "connected", connecting: "connecting …", closed: "disconnected" }

// Shows the state of a connection in an element of the class "state".
export function showState(element, state) {
  element.dataset.state = state
  element.textContent = STATES[state]
}

// Returns one of eight hues for a name, always the same one.
export function hueOf(name) {
  let sum = 0
  for (const character of name) sum = (sum * 31 + character.codePointAt(0)) >>> 0
  return (sum % 8) * 45 + 10
}

// Parses a message of the server; undefined if it is not JSON.
export function parse(text) {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
