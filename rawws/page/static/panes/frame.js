// One frame in the details: its header bit by bit, and its payload.

import { el, sectionLink } from "../dom.js";
import { DIRECTIONS } from "../marks.js";
import { copyChooser } from "./copy-as.js";
import { drawPayload } from "./payload.js";

const BITS_A_ROW = 16;
const KINDS = ["FIN", "RSV1", "RSV2", "RSV3", "opcode", "MASK", "length", "extended length", "masking key"];

/** The class with a field's colour: each field has its own. */
const kindOf = (field) => `kind-${KINDS.indexOf(field.name)}`;

export class FrameView {
  #watch;
  #selection;
  #box;

  constructor({ watch, selection }, box) {
    this.#watch = watch;
    this.#selection = selection;
    this.#box = box;
  }

  async draw(frame) {
    const { sender, header, payload, left_out, tail } = frame;
    const fields = el("div", { class: "header-fields" });
    const meaning = el("p", { class: "meaning" });
    this.#box.replaceChildren(this.#title(frame), fields, copyChooser(frame, this.#watch), ...drawPayload(frame, meaning, this.#box.clientWidth));
    try {
      const told = await this.#watch.ask("frame", { frame: { sender, header, payload, left_out, tail } });
      if (this.#selection.shown !== frame) return;
      fields.replaceChildren(ruler(told.fields), table(told.fields));
      meaning.textContent = told.meaning;
    } catch (error) {
      fields.replaceChildren(el("p", { class: "error" }, `The header isn't explained: ${error.message}.`));
    }
  }

  #title(frame) {
    const peer = frame.of.peerName && ` ${frame.of.peerName}`;
    const open = () => this.#selection.showConnection(frame.of);
    return el(
      "h3",
      { class: `of-frame ${frame.sender}` },
      el("button", { type: "button", class: "link", onclick: open }, `${frame.of.label}${peer}`),
      ` ${DIRECTIONS[frame.sender]}: ${frame.opcode}`,
    );
  }
}

/** The header as the RFC draws it, two bytes a row, in the colours of the table below, which has the names. */
function ruler(fields) {
  const cells = [];
  for (const field of fields) {
    let { at, bits } = field;
    while (bits > 0) {
      const span = Math.min(bits, BITS_A_ROW - (at % BITS_A_ROW));
      const part = field.bits < 8 ? field.digits : hexPart(field.digits, at - field.at, span);
      const cell = el("div", { class: `bits ${kindOf(field)}`, title: field.name }, el("span", { class: "digits" }, part));
      cell.style.gridColumn = `span ${span}`;
      cells.push(cell);
      at += span;
      bits -= span;
    }
  }
  return el("div", { class: "ruler", "aria-hidden": "true" }, ...cells);
}

/** The hex digits of a field's bits from `offset` on, which begin and end between bytes. */
function hexPart(digits, offset, bits) {
  return digits.split(" ").slice(offset / 8, (offset + bits) / 8).join(" ");
}

function table(fields) {
  const rows = fields.map((field) =>
    el(
      "tr",
      {},
      el("th", { scope: "row", class: kindOf(field) }, field.name),
      el("td", {}, el("code", {}, field.digits)),
      el("td", {}, field.meaning, " ", sectionLink(field.section)),
    ),
  );
  const titles = ["Field", "Value", "Meaning"].map((title) => el("th", { scope: "col" }, title));
  return el(
    "table",
    { class: "fields" },
    el("caption", { class: "unseen" }, "The fields of the header"),
    el("thead", { class: "unseen" }, el("tr", {}, ...titles)),
    el("tbody", {}, ...rows),
  );
}
