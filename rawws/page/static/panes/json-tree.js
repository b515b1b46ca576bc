// JSON as a tree whose parts can be folded, bounded in its depth and its number of nodes.

import { el } from "../dom.js";
import { plural, shorten } from "../text.js";

const MOST_NODES = 2000;
const MOST_DEPTH = 40;
const OPEN_DEPTH = 2; // what is deeper, or longer than that, is folded at first
const OPEN_ITEMS = 30;

/** A tree of text that is a JSON object or array; null for other text. */
export function jsonTree(text) {
  if (!/^\s*[[{]/.test(text)) return null;
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  const budget = { nodes: MOST_NODES };
  return el("div", { class: "json", tabindex: "0", role: "region", "aria-label": "JSON of the message" }, node("", value, 0, budget));
}

function node(name, value, depth, budget) {
  budget.nodes -= 1;
  const label = name === "" ? [] : [el("span", { class: "json-name" }, name), ": "];
  if (value === null || typeof value !== "object") {
    return el("div", { class: "json-leaf" }, ...label, el("span", { class: `json-${typeof value}` }, JSON.stringify(value)));
  }
  const isArray = Array.isArray(value);
  const entries = Object.entries(value);
  const [open, close] = isArray ? "[]" : "{}";
  if (!entries.length) return el("div", { class: "json-leaf" }, ...label, open + close);
  const count = plural(entries.length, isArray ? "item" : "member");
  const details = el("details", {}, el("summary", {}, ...label, open, el("span", { class: "json-hint" }, ` ${count} ${preview(value)}`)));
  details.open = depth < OPEN_DEPTH && entries.length <= OPEN_ITEMS;
  let shown = 0;
  for (const [key, child] of entries) {
    if (budget.nodes <= 0 || depth >= MOST_DEPTH) break;
    details.append(node(isArray ? key : JSON.stringify(key), child, depth + 1, budget));
    shown += 1;
  }
  if (shown < entries.length) details.append(el("div", { class: "json-leaf note" }, `… ${plural(entries.length - shown, "more")} not shown`));
  details.append(el("div", {}, close));
  return details;
}

const preview = (value) => shorten(JSON.stringify(value).slice(0, 200), 48);
