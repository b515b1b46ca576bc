// The page, put together: what it knows (state/), what shows it (panes/), and which pane is shown.

import { byId, soon } from "./dom.js";
import { Layout } from "./layout.js";
import { BreakPane } from "./panes/break.js";
import { ConnectionsPane } from "./panes/connections.js";
import { DetailsPane } from "./panes/details.js";
import { FramesPane } from "./panes/frames.js";
import { QueuePane } from "./panes/queue.js";
import { SendPane } from "./panes/send.js";
import { WaysPane } from "./panes/ways.js";
import { forget, keep, restore } from "./state/keep.js";
import { Peers } from "./state/peers.js";
import { Route } from "./state/route.js";
import { Selection } from "./state/selection.js";
import { Store } from "./state/store.js";
import { Watch } from "./state/watch.js";
import { plural } from "./text.js";
import { chooseTheme } from "./theme.js";

chooseTheme(byId("theme"));
const route = new Route();
const store = new Store();
const watch = new Watch(store);
const peers = new Peers(watch, store);
const selection = new Selection(store, route);
new Layout(route);
const context = { route, store, watch, peers, selection };
for (const Pane of [ConnectionsPane, FramesPane, DetailsPane, SendPane, WaysPane, QueuePane, BreakPane]) new Pane(context);

const drawState = soon(() => {
  const told = {
    connecting: "connecting to the server",
    watching: `watching: ${plural(store.openCount, "WebSocket")} open`,
    lost: "the server has gone; trying again",
    refused: "not watching: the server has another token",
  };
  byId("notice").hidden = watch.state !== "refused";
  byId("notice").textContent =
    `${watch.refusal} The captured frames stay in this tab, which continues as soon as any tab of this browser has opened the link.`;
  byId("watch").textContent = told[watch.state];
  byId("watch").dataset.state = watch.state;
  byId("where").textContent = watch.about?.is_tap ? `tap at ${watch.about.uri}` : location.host;
});
for (const event of ["state", "about"]) watch.addEventListener(event, drawState);
for (const event of ["connection", "cleared"]) store.addEventListener(event, drawState);
store.addEventListener("cleared", forget);
drawState();
restore(store);
selection.follow();
watch.connect();
addEventListener("pagehide", () => keep(store, watch.isWatching));
addEventListener("pageshow", ({ persisted }) => persisted && forget()); // it has come back as it was
