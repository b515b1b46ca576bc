// A frame's message as something to paste elsewhere: text, hex, base64, a command or a program that sends it.

import { copyButton, el } from "../dom.js";
import { toBase64, toHex } from "../text.js";

const inShell = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;

/** What a frame can be copied as, by name. Each says null where it makes no sense. */
export const FORMS = {
  text: (frame) => frame.text || null,
  hex: (frame) => toHex(frame.bytes),
  base64: (frame) => toBase64(frame.bytes),
  curl: (frame, { http, hasRooms }) => (hasRooms && !frame.isControl ? curl(frame, http) : null),
  Python: (frame, { ws }) => (frame.isControl ? null : python(frame, ws)),
};

function curl(frame, url) {
  const { text } = frame;
  const type = text === null ? "application/octet-stream" : "text/plain; charset=utf-8";
  const start = `curl ${inShell(url)} -H 'Content-Type: ${type}'`;
  // A peer's control character that is pasted into a terminal may be obeyed there: Ctrl-C ends even a quoted line.
  if (text !== null && !/(?!\n)\p{Cc}/u.test(text)) return `${start} --data-raw ${inShell(text)}`;
  return `printf ${inShell(toBase64(frame.bytes))} | base64 -d | ${start} --data-binary @-`;
}

function python(frame, url) {
  const { text } = frame;
  // A JSON string is a Python string too, once surrogates are left as they are.
  const message = text === null ? `bytes.fromhex("${toHex(frame.bytes, "")}")` : JSON.stringify(text);
  return `# pip install websockets
from websockets.sync.client import connect

with connect(${JSON.stringify(url)}) as ws:
    ws.send(${message})
    print(ws.recv())`;
}

/** A menu of forms and a button. */
export function copyChooser(frame, watch) {
  if (!frame.size) return el("p", {});
  const target = frame.of.target || "/";
  const ws = watch.urlOf(target);
  const places = { ws, http: ws.replace(/^ws/, "http"), hasRooms: watch.about?.has_rooms ?? false };
  const names = Object.keys(FORMS).filter((name) => FORMS[name](frame, places) !== null);
  const select = el("select", { "aria-label": "Copy as" }, ...names.map((name) => el("option", { value: name }, name)));
  const partly = frame.isPartial ? el("span", { class: "note" }, "only the part that is known") : null;
  return el("p", { class: "row-of copy-as" }, "Copy as ", select, copyButton("Copy", () => FORMS[select.value](frame, places)), partly);
}
