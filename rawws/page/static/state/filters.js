// A filter for frames, written in one line: `path:/chat from:client -opcode:ping size:>100 /order \d+/ "two words"`.
//
// Every term has to hold; a "-" before a term negates it. What has no known name before a colon is text.

import { DIRECTIONS } from "../marks.js";
import { compile } from "./expressions.js";

/** What can't be read as a filter, and why. */
export class BadFilter extends Error {}

const TERM = /(-?)(?:\/((?:[^/\\\s]|\\.|\s(?=[^/]*\/))+)\/(i?)(?=\s|$)|([a-z]+):("[^"]*"|\S+)|("[^"]*"|\S+))/giu;

const unquote = (text) => text.replace(/^"(.*)"$/s, "$1");

/** Names that a term may begin with; each makes a test of its value. `say` describes it in words. */
const NAMES = {
  opcode: {
    test: (value) => {
      const name = value.toUpperCase();
      return (frame) => frame.opcode === name;
    },
    say: (value) => `opcode is ${value.toUpperCase()}`,
    values: ["text", "binary", "continuation", "ping", "pong", "close"],
  },
  from: {
    test: (value) => {
      const sender = value.toLowerCase();
      if (!Object.hasOwn(DIRECTIONS, sender)) throw new BadFilter(`a frame is from:client or from:server, not from:${value}`);
      return (frame) => frame.sender === sender;
    },
    say: (value) => `sent by the ${value.toLowerCase()}`,
    values: ["client", "server"],
  },
  path: {
    test: (value) => {
      const parts = value.split("*");
      return (frame) => isLike(frame.of.room, parts);
    },
    say: (value) => `path is ${value}`,
    values: [],
  },
  conn: {
    test: (value) => {
      const name = value.replace(/^#/, "").toLowerCase();
      return ({ of }) => [of.address, of.label.replace("#", "."), of.peerName.toLowerCase()].includes(name);
    },
    say: (value) => `connection is ${value}`,
    values: [],
  },
  size: { test: (value) => within(value, (frame) => frame.messageSize), say: (value) => `size ${value}`, values: [] },
  is: {
    test: (value) => {
      const test = KINDS[value.toLowerCase()];
      if (!test) throw new BadFilter(`a frame is:${Object.keys(KINDS).join(", is:")}, not is:${value}`);
      return test;
    },
    say: (value) => `is ${value.toLowerCase()}`,
    values: ["data", "control", "compressed", "fragment", "masked"],
  },
};
const ALIASES = { op: "opcode", connection: "conn", room: "path", by: "from" };

const KINDS = {
  data: (frame) => !frame.isControl,
  control: (frame) => frame.isControl,
  compressed: (frame) => frame.isCompressed,
  fragment: (frame) => !frame.fin || frame.opcode === "CONTINUATION",
  masked: (frame) => frame.mask !== null,
};

/** The names for a menu, each with the values that it can have; free ones have none. */
export const CHOICES = Object.fromEntries(Object.entries(NAMES).map(([name, { values }]) => [name, values]));

/**
 * Whether a text has these parts one after the other, with anything between them. A regular expression for that takes
 * minutes for some paths, and a client chooses its path.
 */
function isLike(text, [first, ...others]) {
  if (!others.length) return text === first;
  if (!text.startsWith(first)) return false;
  const last = others.pop();
  let at = first.length;
  for (const part of others) {
    const found = text.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return text.length - last.length >= at && text.endsWith(last);
}

/** A test for a number: >100, <100, 100..200 or 100. */
function within(value, of) {
  const found = /^(?:([<>]=?)(\d+)|(\d+)\.\.(\d+)|(\d+))$/.exec(value);
  if (!found) throw new BadFilter(`a size is size:>100, size:<100, size:10..20 or size:5, not size:${value}`);
  const [, sign, bound, from, to, exact] = found;
  if (exact !== undefined) return (frame) => of(frame) === Number(exact);
  if (from !== undefined) return (frame) => of(frame) >= Number(from) && of(frame) <= Number(to);
  const tests = { ">": (a, b) => a > b, ">=": (a, b) => a >= b, "<": (a, b) => a < b, "<=": (a, b) => a <= b };
  return (frame) => tests[sign](of(frame), Number(bound));
}

function textOf(frame) {
  return frame.text ?? frame.shown;
}

/** Read a filter: its terms, each with `written`, `said` and `test`. Raises `BadFilter`. */
export function readFilter(line) {
  const terms = [];
  for (const [written, minus, expression, flags, name, value, word] of line.matchAll(TERM)) {
    const { test, said } = readTerm({ expression, flags, name: name?.toLowerCase(), value, word });
    const isNegated = minus !== "";
    terms.push({
      written,
      said: isNegated ? `not: ${said}` : said,
      test: isNegated ? (frame) => !test(frame) : test,
    });
  }
  return terms;
}

function readTerm({ expression, flags, name, value, word }) {
  if (expression !== undefined) {
    try {
      const matches = compile(expression, flags);
      return { test: (frame) => matches(textOf(frame)), said: `payload matches /${expression}/${flags}` };
    } catch (error) {
      throw new BadFilter(error.message); // a SyntaxError, or the depth of its groups
    }
  }
  const known = NAMES[ALIASES[name] ?? name];
  if (known) return { test: known.test(unquote(value)), said: known.say(unquote(value)) };
  const text = unquote(word ?? `${name}:${value}`).toLowerCase();
  if (/^r?\d*#\d+$/.test(text)) return { test: NAMES.conn.test(text), said: `connection is ${text}` };
  const contains = (frame) => textOf(frame).toLowerCase().includes(text) || frame.opcode.toLowerCase() === text;
  return { test: contains, said: `contains “${text}”` };
}
