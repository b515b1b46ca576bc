// A connection's HTTP, header by header, with what the RFC asks of it.

import { el, sectionLink } from "../dom.js";
import { toHex } from "../text.js";

/** The bytes of a head's line, each character of which is one. */
const lineBytes = (line) => Uint8Array.from(`${line}\r\n`, (character) => character.charCodeAt(0) & 0xff);

/** Draw a connection's upgrade into a box. */
export function drawUpgrade(box, connection, { inHex, setHex }) {
  if (connection.request === null) {
    const told = "This connection was open before the page began to watch, and its handshake isn't known any more.";
    box.replaceChildren(el("p", { class: "note" }, told));
    return;
  }
  const asHex = el("input", { type: "checkbox", onchange: () => setHex(asHex.checked) });
  asHex.checked = inHex;
  const isUpgrade = connection.checks.client.length > 0;
  const title = isUpgrade ? "The upgrade, as it crossed the wire" : "An ordinary request: it doesn't ask for a WebSocket";
  const hadFocus = document.activeElement?.closest(".as-hex") && box.contains(document.activeElement);
  const parts = [
    el("div", { class: "title" }, el("h3", {}, title), el("label", { class: "check-label as-hex" }, asHex, " bytes in hex")),
    drawHead("Request, from the client", "client", connection.request, connection.checks.client, inHex),
    connection.response
      ? drawHead("Response, from the server", "server", connection.response, connection.checks.server, inHex)
      : el("p", { class: "note" }, "There is no answer yet."),
  ];
  if (connection.switched) {
    const told = "101: HTTP ends here, in both directions. From the next byte on, the same connection carries frames.";
    parts.push(el("p", { class: "switch" }, told));
  }
  if (connection.accept) parts.push(drawAccept(connection.accept));
  box.replaceChildren(...parts);
  if (hadFocus) asHex.focus();
}

function drawHead(title, sender, head, checks, inHex) {
  const rows = head.lines.map((line, index) => {
    const name = index === 0 ? "" : line.split(":")[0].trim().toLowerCase();
    return drawRow(line, checks.filter((check) => check.about.toLowerCase() === name), inHex);
  });
  // What is required and isn't there.
  const names = new Set(head.lines.slice(1).map((line) => line.split(":")[0].trim().toLowerCase()));
  const missing = checks.filter((check) => check.about && !names.has(check.about.toLowerCase()));
  if (missing.length) rows.push(drawRow(null, missing, inHex));
  return el(
    "div",
    { class: `head ${sender}` },
    el("h4", {}, title),
    el(
      "table",
      {},
      el("caption", { class: "unseen" }, title),
      el("thead", { class: "unseen" }, el("tr", {}, el("th", { scope: "col" }, "Line"), el("th", { scope: "col" }, "Requirement"))),
      el("tbody", {}, ...rows, drawRow("", [], inHex)),
    ),
  );
}

function drawRow(line, checks, inHex) {
  const cell = el("td", {});
  if (line === null) {
    cell.append(el("span", { class: "note" }, "not sent"));
  } else {
    const colon = line.indexOf(":");
    const isField = colon > 0 && !line.startsWith("HTTP/") && !/ HTTP\/\S+$/.test(line);
    const code = el("code", {});
    if (isField) code.append(el("b", {}, line.slice(0, colon)), line.slice(colon));
    else code.append(line);
    code.append(el("span", { class: "crlf" }, "\\r\\n"));
    cell.append(code);
    if (inHex) cell.append(el("code", { class: "hex" }, toHex(lineBytes(line))));
  }
  return el("tr", {}, cell, el("td", {}, ...checks.map(drawCheck)));
}

function drawCheck(check) {
  return el(
    "p",
    { class: check.holds ? "check yes" : "check no" },
    el("span", { class: "verdict" }, check.holds ? "✓ yes" : "✗ NO"),
    ` ${check.requirement} `,
    sectionLink(check.section),
  );
}

const WHY_ACCEPT = [
  "After a 101, the client sends bytes that are no longer HTTP. So it first makes the same value, and closes the " +
    "connection if the server's is another. The right value proves that the server speaks WebSocket, since nothing " +
    "else uses this GUID, and that it has read this very request, since the key is new each time. A server that " +
    "knows only HTTP, a script that repeats headers, and a cache that stored an earlier answer all fail.",
  "It proves nothing else. Key and GUID are no secrets, so it says neither whose server this is (TLS does, with " +
    "wss://) nor who the client is (a cookie or a token does). The Origin field names the site whose page is asking.",
];

function drawAccept(accept) {
  const step = (title, ...value) => el("li", {}, `${title} `, el("code", {}, ...value));
  return el(
    "div",
    { class: "accept" },
    el("h4", {}, "How Sec-WebSocket-Accept is made ", sectionLink("RFC 6455 §4.2.2")),
    el(
      "ol",
      {},
      step("The client's key", accept.key),
      step("with the GUID appended", accept.key, el("mark", {}, accept.guid)),
      step("its SHA-1", accept.sha1.match(/../g).join(" ")),
      step("and that in base64", accept.value),
    ),
    // On a phone, the reasons would make the pane twice as long.
    el("details", { open: matchMedia("(min-width: 900px)").matches, class: "why" },
      el("summary", {}, "Why it is there"),
      ...WHY_ACCEPT.map((sentence) => el("p", {}, sentence, " ", sectionLink("RFC 6455 §1.3"))),
    ),
  );
}
