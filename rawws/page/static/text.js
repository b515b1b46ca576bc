// Text of numbers, bytes and times. Nothing here knows the page.

export const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

const UNITS = ["bytes", "kB", "MB", "GB"];

/** A number of bytes as people say it. */
export function bytes(count) {
  let unit = 0;
  while (count >= 10_000 && unit < UNITS.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return unit === 0 ? plural(count, "byte") : `${count.toFixed(count < 100 ? 1 : 0)} ${UNITS[unit]}`;
}

/** Hex digits as bytes; null if they are none. White space, commas, colons and 0x between them are fine. */
export function fromHex(text) {
  const digits = text.replace(/0x|[\s,:]/gi, "");
  if (digits.length % 2 || /[^0-9a-f]/i.test(digits)) return null;
  const found = new Uint8Array(digits.length / 2);
  for (let at = 0; at < found.length; at += 1) found[at] = parseInt(digits.slice(2 * at, 2 * at + 2), 16);
  return found;
}

export const toHex = (data, between = " ") => Array.from(data, (byte) => byte.toString(16).padStart(2, "0")).join(between);

export function toBase64(data) {
  let characters = "";
  for (const byte of data) characters += String.fromCharCode(byte);
  return btoa(characters);
}

export const utf8 = (text) => new TextEncoder().encode(text);

/** A time of the day, for milliseconds since 1970. */
export const clock = (at) => new Date(at).toTimeString().slice(0, 8);

/** The same with milliseconds, for seconds since 1970. */
export const preciseClock = (at) => `${clock(at * 1000)}.${String(Math.floor((at * 1000) % 1000)).padStart(3, "0")}`;

/** Text on one line: characters that show nothing, or turn the line around, are spelt out. */
export function oneLine(text) {
  if (!/[\p{C}\p{Zl}\p{Zp}]/u.test(text)) return text;
  const names = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };
  const spell = (character) => names[character] ?? `\\u${character.codePointAt(0).toString(16).padStart(4, "0")}`;
  return text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, spell);
}

export const shorten = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/** A URL or a target without what follows `token=` or `access_token=` in its query, as the server's log has it. */
export const withoutToken = (target) => target.replace(/([?&](?:access_)?token=)[^&#]*/gi, "$1(masked)");

/** A User-Agent in two or three words. */
export function shortAgent(agent) {
  const browser = /(Firefox|Edg|OPR|Chrome)\/(\d+)/.exec(agent) ?? /(Version)\/(\d+)[.\d]* .*Safari/.exec(agent);
  const names = { Edg: "Edge", OPR: "Opera", Version: "Safari" };
  if (browser) return `${names[browser[1]] ?? browser[1]} ${browser[2]}`;
  const products = agent.split(" ").filter((each) => /^[\w.-]+\/[\w.-]+$/.test(each));
  return shorten((products.at(-1) ?? agent).replace("/", " "), 32);
}
