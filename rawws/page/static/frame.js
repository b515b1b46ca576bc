// One frame: its header bit by bit, and its payload as it is on the wire and without the mask.

import { bytes, el, fromHex, sectionLink, toHex } from "./dom.js";
import { DIRECTIONS } from "./marks.js";

const BITS_A_ROW = 16;
const BYTES_A_ROW = 8;

export class FrameView {
  #trace;
  #box;
  #shown = null;

  constructor(trace, box) {
    this.#trace = trace;
    this.#box = box;
  }

  async show(frame) {
    this.#shown = frame;
    if (frame === null) {
      this.#box.replaceChildren(el("p", { class: "hint" }, "Select a frame to see its bits."));
      return;
    }
    const { sender, header, payload, left_out, tail } = frame;
    try {
      const told = await this.#trace.ask("frame", { frame: { sender, header, payload, left_out, tail } });
      if (this.#shown === frame) this.#draw(frame, told);
    } catch (error) {
      if (this.#shown === frame) this.#box.replaceChildren(el("p", { class: "error" }, `${error.message}.`));
    }
  }

  #draw(frame, told) {
    this.#box.replaceChildren(
      el("h3", {}, `${frame.of.label} ${DIRECTIONS[frame.sender]}: ${frame.opcode}`),
      this.#ruler(told.fields),
      this.#fields(told.fields),
      ...this.#payload(frame, told),
    );
  }

  /** The header as the RFC draws it, two bytes a row. The table below says the same in words. */
  #ruler(fields) {
    const cells = [];
    for (const [index, field] of fields.entries()) {
      let { at, bits } = field;
      let isFirst = true;
      while (bits > 0) {
        const span = Math.min(bits, BITS_A_ROW - (at % BITS_A_ROW));
        const part = field.bits < 8 ? field.digits : hexPart(field.digits, at - field.at, span);
        const name = span === 1 ? field.name.replace("MASK", "M") : field.name;
        const cell = el(
          "div",
          { class: `bits kind-${index % 6}` },
          el("span", { class: "name" }, isFirst ? name : "…"),
          el("span", { class: "digits" }, part),
        );
        cell.style.gridColumn = `span ${span}`;
        cells.push(cell);
        at += span;
        bits -= span;
        isFirst = false;
      }
    }
    return el("div", { class: "ruler", "aria-hidden": "true" }, ...cells);
  }

  #fields(fields) {
    const rows = fields.map((field, index) =>
      el(
        "tr",
        {},
        el("th", { scope: "row" }, el("span", { class: `swatch kind-${index % 6}` }), field.name),
        el("td", {}, el("code", {}, field.digits)),
        el("td", {}, field.meaning),
        el("td", {}, sectionLink(field.section)),
      ),
    );
    return el(
      "table",
      { class: "fields" },
      el("caption", { class: "unseen" }, "The fields of the header"),
      el(
        "thead",
        { class: "unseen" },
        el("tr", {}, ...["Field", "Value", "Meaning", "Where it is written"].map((t) => el("th", { scope: "col" }, t))),
      ),
      el("tbody", {}, ...rows),
    );
  }

  #payload(frame, told) {
    if (!frame.size) return [el("p", { class: "hint" }, "There is no payload.")];
    const clear = fromHex(frame.payload);
    const key = frame.mask === null ? null : fromHex(frame.mask);
    const parts = [el("h4", {}, `Payload, ${bytes(frame.size)}`)];
    if (told.meaning) parts.push(el("p", { class: "meaning" }, told.meaning));
    parts.push(dump(clear, key, 0));
    if (frame.left_out) parts.push(el("p", { class: "hint" }, `… ${bytes(frame.left_out)} left out …`));
    if (frame.tail) parts.push(dump(fromHex(frame.tail), key, frame.size - frame.tail.length / 2));
    const text = frame.text ?? told.text;
    if (text) {
      const more = frame.cut ? " or more" : "";
      const inflated = frame.message_size === undefined ? "" : `, inflated to ${bytes(frame.message_size)}${more}`;
      parts.push(el("h4", {}, `Text${inflated}`));
      parts.push(el("pre", { class: "text", tabindex: "0", "aria-label": "Text of the message" }, pretty(text)));
    }
    return parts;
  }
}

/** The hex digits of a field's bits from `offset` on, which begin and end between bytes. */
function hexPart(digits, offset, bits) {
  return digits.split(" ").slice(offset / 8, (offset + bits) / 8).join(" ");
}

/** Bytes in rows: masked, if there is a key, and clear, and as characters. */
function dump(clear, key, at) {
  const rows = [];
  for (let start = 0; start < clear.length; start += BYTES_A_ROW) {
    const row = clear.slice(start, start + BYTES_A_ROW);
    const masked = key && row.map((byte, index) => byte ^ key[(at + start + index) % 4]);
    const characters = Array.from(row, (byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : "·")).join("");
    const columns = [(at + start).toString(16).padStart(4, "0")];
    if (masked) columns.push(toHex(masked).padEnd(BYTES_A_ROW * 3 - 1));
    columns.push(toHex(row).padEnd(BYTES_A_ROW * 3 - 1), characters);
    rows.push(columns.join("  "));
  }
  const title = key ? "        on the wire, masked      with the mask off\n" : "";
  const text = (title && title.slice(2)) + rows.join("\n");
  return el("pre", { class: "dump", tabindex: "0", "aria-label": "Bytes of the payload" }, text);
}

/** JSON is laid out; anything else stays as it is. */
function pretty(text) {
  if (!/^\s*[[{]/.test(text)) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
