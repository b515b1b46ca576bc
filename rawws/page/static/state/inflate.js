// Messages of a recording that were compressed (RFC 7692): each refers to those before it, so they are inflated in their
// order. Frames of the feed need none of this, since the server sends the messages too.

import { fromHex, toHex } from "../text.js";

const END = Uint8Array.of(0, 0, 255, 255); // §7.2.2: what the sender has taken off each message
const MOST_BYTES = 4096; // kept of a message, as much as the feed would send
const MOST_INFLATED = 64 * 1024 * 1024; // of a recording: what follows stays as it is
const SLICE_BYTES = 16 * 1024; // inflated at a time: a byte may become a thousand

/** One direction of a connection. */
class Inflater {
  #stream = new DecompressionStream("deflate-raw");
  #writer = this.#stream.writable.getWriter();
  #turn = new MessageChannel(); // whose messages come sooner than a timer would
  #output = []; // the beginning of the message
  #size = 0; // of the message
  #budget; // for all directions: how much may still be inflated

  constructor(budget) {
    this.#budget = budget;
    this.#read();
  }

  async #read() {
    const reader = this.#stream.readable.getReader();
    try {
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        if (this.#size < MOST_BYTES) this.#output.push(value.slice(0, MOST_BYTES));
        this.#size += value.length;
        this.#budget.left -= value.length;
      }
    } catch {
      // It is the writer who says so.
    }
  }

  /** Return a message's beginning and its size; throws where it can't be inflated. */
  async inflate(pieces) {
    this.#output = [];
    this.#size = 0;
    for (const piece of [...pieces, END]) {
      for (let at = 0; at < piece.length; at += SLICE_BYTES) {
        if (this.#budget.left < 0) throw new Error("too much");
        await this.#writer.write(piece.subarray(at, at + SLICE_BYTES));
      }
    }
    await new Promise((resolve) => {
      this.#turn.port1.onmessage = resolve; // by then all of it has been read
      this.#turn.port2.postMessage(null);
    });
    return [join(this.#output), this.#size];
  }

  /** Let go of the browser's own objects, which it wouldn't collect. */
  close() {
    this.#turn.port1.close();
    this.#writer.abort().catch(() => {});
  }
}

/** Add to the records of frames the messages that end with them, as the feed does; `[record, header, connection]` each. */
export async function inflateAll(frames) {
  const directions = new Map(); // by connection and sender: {inflater, pieces, isText}
  const budget = { left: MOST_INFLATED };
  const inflaters = [];
  const makeInflater = () => {
    inflaters.push(new Inflater(budget));
    return inflaters.at(-1);
  };
  for (const [record, header, connection] of frames) {
    if (header.isControl) continue;
    const key = `${connection.id} ${record.sender}`;
    if (!directions.has(key)) directions.set(key, { inflater: null, pieces: [], isText: false, isCompressed: false });
    const direction = directions.get(key);
    if (direction === null) continue; // something is missing
    if (header.opcode !== "CONTINUATION") {
      Object.assign(direction, { pieces: [], isText: header.opcode === "TEXT", isCompressed: header.rsv[0] === "1" });
    }
    if (record.left_out && direction.isCompressed) {
      directions.set(key, null);
      continue;
    }
    const isFragment = header.opcode === "CONTINUATION" || !header.fin;
    if (!direction.isCompressed && !isFragment) continue; // the payload shows it
    direction.pieces.push(fromHex(record.payload + (record.tail ?? "")));
    if (!header.fin) continue;
    try {
      addMessage(record, header, direction, ...(await messageOf(direction, makeInflater)));
    } catch {
      directions.set(key, null);
    }
  }
  for (const inflater of inflaters) inflater.close();
}

function join(pieces) {
  const whole = new Uint8Array(pieces.reduce((size, piece) => size + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

async function messageOf(direction, makeInflater) {
  if (!direction.isCompressed) {
    const whole = join(direction.pieces);
    return [whole, whole.length];
  }
  direction.inflater ??= makeInflater();
  return direction.inflater.inflate(direction.pieces);
}

function addMessage(record, header, { isText }, beginning, size) {
  const kept = beginning.slice(0, MOST_BYTES);
  if (isText) record.text = new TextDecoder().decode(kept);
  else record.data = toHex(kept, "");
  if (header.rsv[0] === "1") record.message_size = size;
  if (kept.length < size) record.cut = true;
}
