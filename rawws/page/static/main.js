// The page's panels, put together. Each has a module of its own; what they share is the trace.

import { Breaker } from "./break.js";
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
  const open = [...trace.connections.values()].filter((each) => each.state === "open" && !each.isOurs).length;
  const told = {
    connecting: "connecting to the server",
    watching: `watching: ${plural(open, "WebSocket")} open`,
    lost: "the server has gone; trying again",
  };
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
trace.connect();
