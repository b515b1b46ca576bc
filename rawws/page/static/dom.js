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

/** A button that copies `text()`, and says so for a moment. */
export function copyButton(label, text) {
  const button = el("button", { type: "button", class: "copy" }, label);
  const status = el("span", { class: "copied", role: "status" });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      status.textContent = "Copied.";
    } catch {
      status.textContent = "The browser refused to copy.";
    }
    setTimeout(() => (status.textContent = ""), 2000);
  });
  return el("span", { class: "copying" }, button, status);
}

/** Save text as a file of the reader's. */
export function download(name, type, text) {
  const link = el("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/**
 * Arrow keys move among elements, of which one alone is a Tab stop (a roving tabindex). Return a function that makes an
 * element that stop.
 */
export function rove(box, selector) {
  const all = () => [...box.querySelectorAll(selector)].filter((each) => each.offsetParent !== null);
  const stopAt = (element) => {
    for (const each of box.querySelectorAll(selector)) each.tabIndex = each === element ? 0 : -1;
  };
  box.addEventListener("keydown", (event) => {
    const elements = all();
    const at = elements.indexOf(event.target.closest(selector));
    const steps = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    if (at < 0 || steps[event.key] === undefined) return;
    event.preventDefault();
    const next = elements[Math.min(Math.max(at + steps[event.key], 0), elements.length - 1)];
    stopAt(next);
    next.focus();
  });
  box.addEventListener("focusin", (event) => event.target.closest(selector) && stopAt(event.target.closest(selector)));
  return stopAt;
}
