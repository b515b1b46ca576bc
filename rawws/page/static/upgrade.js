// Panel "The upgrade": a connection's HTTP, header by header, with what the RFC asks of it.

import { byId, el, sectionLink, soon, toHex } from "./dom.js";

/** The bytes of a head's line, each character of which is one. */
const lineBytes = (line) => Uint8Array.from(`${line}\r\n`, (character) => character.charCodeAt(0) & 0xff);

export class Upgrade {
  #trace;
  #selected = null; // a connection

  constructor(trace, onSelect) {
    this.#trace = trace;
    this.onSelect = onSelect;
    this.drawSoon = soon(() => this.#draw());
    this.listSoon = soon(() => this.#list());
    trace.addEventListener("connection", ({ detail }) => {
      this.listSoon();
      if (detail === this.#selected) this.drawSoon();
      // Until the reader has chosen one, it is the first that becomes a WebSocket.
      if (this.#selected === null && detail.switched && detail.request) this.select(detail);
    });
    trace.addEventListener("cleared", () => {
      if (this.#selected && !trace.connections.has(this.#selected.id)) this.#selected = null;
      this.listSoon();
      this.drawSoon();
    });
    // Connections of an earlier run are called otherwise, and of those of a server that is away nothing is known.
    for (const event of ["about", "state"]) trace.addEventListener(event, this.listSoon);
    byId("connection").addEventListener("change", (event) => {
      this.select(trace.connections.get(event.target.value) ?? null);
    });
    byId("as-hex").addEventListener("change", this.drawSoon);
    this.#draw();
  }

  get selected() {
    return this.#selected;
  }

  select(connection) {
    if (connection === null) return;
    this.#selected = connection;
    this.listSoon();
    this.drawSoon();
    this.onSelect(connection);
  }

  #list() {
    const shown = [...this.#trace.connections.values()];
    const options = shown.reverse().map((connection) => {
      const peer = connection.peer ? ` · peer ${connection.peer.name}` : "";
      const target = connection.target || "open before we watched";
      const isUnsure = connection.state === "open" && this.#trace.state !== "watching";
      const told = `${connection.label}${peer} · ${target} · ${connection.state}${isUnsure ? " when last seen" : ""}`;
      return new Option(told, connection.id, false, connection === this.#selected);
    });
    byId("connection").replaceChildren(...(options.length ? options : [new Option("none yet", "")]));
  }

  #draw() {
    const box = byId("heads");
    const connection = this.#selected;
    if (connection === null) {
      box.replaceChildren(
        el("p", { class: "hint" }, "Connect a peer above, or any client to this server: its handshake appears here."),
      );
      return;
    }
    if (connection.request === null) {
      const told = "This connection was open before the page began to watch: its handshake isn't known.";
      box.replaceChildren(el("p", { class: "hint" }, told), ...this.#end(connection));
      return;
    }
    const isUpgrade = connection.checks.client.length > 0;
    const parts = [
      el(
        "div",
        { class: "heads" },
        this.#head("Request, from the client", "client", connection.request, connection.checks.client),
        el(
          "div",
          {},
          connection.response
            ? this.#head("Response, from the server", "server", connection.response, connection.checks.server)
            : el("p", { class: "hint" }, "There is no answer yet."),
          connection.accept ? this.#accept(connection.accept) : null,
        ),
      ),
    ];
    if (!isUpgrade) parts.push(el("p", { class: "hint" }, "An ordinary request: it doesn't ask for a WebSocket."));
    if (connection.switched) {
      const told = "101: HTTP ends here, in both directions. From the next byte on, the same connection carries frames.";
      parts.push(el("p", { class: "switch" }, el("span", {}, told)));
    }
    box.replaceChildren(...parts, ...this.#end(connection));
  }

  #end({ label, ended }) {
    return ended === null ? [] : [el("p", { class: "hint" }, `${label}: ${ended}.`)];
  }

  #head(title, sender, head, checks) {
    const rows = head.lines.map((line, index) => {
      const name = index === 0 ? "" : line.split(":")[0].trim().toLowerCase();
      return this.#row(line, checks.filter((check) => check.about.toLowerCase() === name));
    });
    // What is required and isn't there.
    const names = new Set(head.lines.slice(1).map((line) => line.split(":")[0].trim().toLowerCase()));
    const missing = checks.filter((check) => check.about && !names.has(check.about.toLowerCase()));
    if (missing.length) rows.push(this.#row(null, missing));
    return el(
      "div",
      { class: `head ${sender}` },
      el("h3", {}, title),
      el(
        "table",
        {},
        el("caption", { class: "unseen" }, title),
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Line"), el("th", { scope: "col" }, "What is required"))),
        el("tbody", {}, ...rows, this.#row("", [])),
      ),
    );
  }

  #row(line, checks) {
    const cell = el("td", {});
    if (line === null) {
      cell.append(el("span", { class: "hint" }, "not sent"));
    } else {
      const colon = line.indexOf(":");
      const isField = colon > 0 && !line.startsWith("HTTP/") && !/ HTTP\/\S+$/.test(line);
      const code = el("code", {});
      if (isField) code.append(el("b", {}, line.slice(0, colon)), line.slice(colon));
      else code.append(line);
      code.append(el("span", { class: "crlf" }, "\\r\\n"));
      cell.append(code);
      if (byId("as-hex").checked) cell.append(el("code", { class: "hex" }, toHex(lineBytes(line))));
    }
    return el("tr", {}, cell, el("td", {}, ...checks.map((check) => this.#check(check))));
  }

  #check(check) {
    return el(
      "p",
      { class: check.holds ? "check yes" : "check no" },
      el("span", { class: "verdict" }, check.holds ? "✓ yes" : "✗ NO"),
      ` ${check.requirement} `,
      sectionLink(check.section),
    );
  }

  #accept(accept) {
    const step = (title, ...value) => el("li", {}, `${title} `, el("code", {}, ...value));
    return el(
      "div",
      { class: "accept" },
      el("h3", {}, "How Sec-WebSocket-Accept is made ", sectionLink("RFC 6455 §4.2.2")),
      el(
        "ol",
        {},
        step("The client's key", accept.key),
        step("with the GUID behind it", accept.key, el("mark", {}, accept.guid)),
        step("its SHA-1", accept.sha1.match(/../g).join(" ")),
        step("and that in base64", accept.value),
      ),
    );
  }
}
