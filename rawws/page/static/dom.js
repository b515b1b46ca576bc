// Small helpers. Text from a peer only ever becomes text: nothing here parses HTML.

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/**
 * A new element: `el("a", {href: "#", class: "x", onclick: f}, "text", child)`. Properties that begin with "on" are
 * listeners; null, undefined and false leave an attribute out.
 */
export function el(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

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
  return Uint8Array.from(digits.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

export const toHex = (data, between = " ") => Array.from(data, (byte) => byte.toString(16).padStart(2, "0")).join(between);

/** A section such as "RFC 6455 §5.2" as a link to where it is written. */
export function sectionLink(section) {
  const found = /^RFC (\d+)(?: §([\d.]+))?/.exec(section);
  if (!found) return document.createTextNode(section);
  const anchor = found[2] ? `#section-${found[2]}` : "";
  const href = `https://www.rfc-editor.org/rfc/rfc${found[1]}${anchor}`;
  return el("a", { href, rel: "noreferrer", target: "_blank", class: "rfc" }, section);
}

/** Have a function called once, before the next drawing, however often it is asked for. */
export function soon(draw) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      draw();
    });
  };
}
