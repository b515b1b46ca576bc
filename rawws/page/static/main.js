// The page's panels, put together. Each has a module of its own; what they share is the trace.

import { Breaker } from "./break.js";
import { forget } from "./capture.js";
import { byId, plural, soon } from "./dom.js";
import { Frames } from "./frames.js";
import { Peers } from "./peers.js";
import { Sender } from "./send.js";
import { Trace } from "./trace.js";
import { Upgrade } from "./upgrade.js";
import { Ways } from "./ways.js";

const trace = new Trace();
const upgrade = new Upgrade(trace, () => {
  if (byId("only").checked) frames.filter();
});
const frames = new Frames(trace, upgrade);
const peers = new Peers(trace, (connection) => upgrade.select(connection));
new Sender(peers);
new Ways(trace);
new Breaker(trace);

const drawState = soon(() => {
  const told = {
    connecting: "connecting to the server",
    watching: `watching: ${plural(trace.openCount, "WebSocket")} open`,
    lost: "the server has gone; trying again",
    refused: "not watching: the server has another token",
  };
  byId("notice").hidden = trace.state !== "refused";
  byId("notice").textContent =
    `${trace.refusal} The captured frames stay in this tab, which continues as soon as any tab of this browser has opened the link.`;
  byId("watch").textContent = told[trace.state];
  byId("watch").dataset.state = trace.state;
  byId("where").textContent = trace.about?.is_tap ? `tap at ${trace.about.uri}` : location.host;
});
for (const event of ["state", "about", "connection"]) trace.addEventListener(event, drawState);
peers.addEventListener("change", () => {
  upgrade.listSoon();
  frames.drawSoon();
});
drawState();
trace.restore();
trace.connect();
addEventListener("pagehide", () => trace.keep());
addEventListener("pageshow", ({ persisted }) => persisted && forget()); // it has come back as it was
