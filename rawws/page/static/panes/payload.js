// A frame's payload: as text, as JSON that can be folded, and byte by byte, masked and clear.

import { el } from "../dom.js";
import { bytes, fromHex, toHex } from "../text.js";
import { jsonTree } from "./json-tree.js";

const ROOM_PX = 510; // for eight bytes a row, masked and clear; otherwise there are four, as many as the key has

/** What shows a payload where there is so much room; `meaning` is filled in later, for a close. */
export function drawPayload(frame, meaning, roomPx) {
  if (!frame.size) return [el("p", { class: "note" }, "There is no payload.")];
  return [...drawText(frame, meaning), ...drawBytes(frame, frame.mask !== null && roomPx < ROOM_PX ? 4 : 8)];
}

function drawText(frame, meaning) {
  const text = frame.code === null ? frame.text : null;
  if (text === null) return frame.code === null ? [] : [el("h4", {}, "Close"), meaning];
  const more = frame.cut ? " or more" : "";
  const inflated = frame.message_size === undefined ? "" : `, inflated to ${bytes(frame.message_size)}${more}`;
  const tree = frame.isPartial ? null : jsonTree(text);
  const shown = tree ?? el("pre", { class: "text", tabindex: "0", role: "region", "aria-label": "Text of the message" }, text);
  return [el("h4", {}, `${tree ? "JSON" : "Text"}${inflated}`), shown];
}

function drawBytes(frame, rowBytes) {
  const key = frame.mask === null ? null : fromHex(frame.mask);
  const parts = [el("h4", {}, `Payload, ${bytes(frame.size)}${frame.isCompressed ? ", compressed" : ""}`), dump(fromHex(frame.payload), key, 0, rowBytes)];
  if (frame.left_out) parts.push(el("p", { class: "note" }, `… ${bytes(frame.left_out)} left out …`));
  if (frame.tail) parts.push(dump(fromHex(frame.tail), key, frame.size - frame.tail.length / 2, rowBytes));
  return parts;
}

/** Bytes in rows: masked, if there is a key, and clear, and as characters. */
function dump(clear, key, at, rowBytes) {
  const width = rowBytes * 3 - 1;
  const rows = [];
  for (let start = 0; start < clear.length; start += rowBytes) {
    const row = clear.slice(start, start + rowBytes);
    const masked = key && row.map((byte, index) => byte ^ key[(at + start + index) % 4]);
    const characters = Array.from(row, (byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : "·")).join("");
    const columns = [(at + start).toString(16).padStart(4, "0")];
    if (masked) columns.push(toHex(masked).padEnd(width));
    columns.push(toHex(row).padEnd(width), characters);
    rows.push(columns.join("  "));
  }
  const title = key ? `      ${"masked".padEnd(width)}  mask off\n` : "";
  const label = "Bytes of the payload";
  return el("pre", { class: "dump", tabindex: "0", role: "region", "aria-label": label }, title + rows.join("\n"));
}
