// The capture as text, which is how it outlives a reload of the page.
//
// It is kept in the tab's sessionStorage from the moment at which the page goes until it is loaded again, and no longer:
// another server may come up at the same origin, and its pages can read what is there.

import { Connection, Cut, Frame, Run } from "./model.js";
import { isAccept, isCheck, isFrame, isText } from "./records.js";

const NAME = "rawws-capture";
const VERSION = 2;
const MOST_CHARACTERS = 2_000_000; // browsers give an origin 5 MB, and most of them count two bytes a character
const LEAST_CHARACTERS = 10_000;
const CONNECTIONS_SHARE = 0.3;
const SEEN = ["request", "response", "accept", "refused", "switched", "ended", "cause", "checks", "frames"];
const OF_CONNECTION = ["from", "path", "agent", "opened", ...SEEN];
const TOTALS = ["lost", "forgotten", "wireBytes", "messageBytes", "began"];

/** Keep a store for the page that this tab shows next. An empty one leaves nothing. */
export function keep(store, isWatching) {
  forget();
  const connections = [...store.connections.values()];
  if (!store.frames.length && !connections.some((each) => each.ended !== null)) return;
  const capture = {
    run: store.run.number,
    instance: store.run.instance,
    files: store.files,
    until: isWatching ? Date.now() : store.watchedUntil,
    ...Object.fromEntries(TOTALS.map((name) => [name, store[name]])),
  };
  const frames = store.frames.map((frame) => {
    if (!frame.isCut) return { ...frame.toRecord(), of: frame.of.id, number: frame.number };
    const { told, at, number, isRestart } = frame;
    return { kind: "cut", told, at, number, isRestart };
  });
  for (let room = MOST_CHARACTERS; room > LEAST_CHARACTERS; room /= 2) {
    try {
      sessionStorage.setItem(NAME, pack(capture, connections, frames, room));
      return;
    } catch {
      // There is less room than that, or none at all, where the browser keeps nothing.
    }
  }
}

export function forget() {
  try {
    sessionStorage.removeItem(NAME);
  } catch {
    // Then nothing was kept.
  }
}

/** Go on with the capture of the page that this tab has shown before, and keep it no longer. */
export function restore(store) {
  const kept = takeBack();
  if (kept === null) return;
  const number = Number.isInteger(kept.run) ? kept.run : 1;
  store.run = new Run(number, { instance: String(kept.instance) });
  store.files = Number.isInteger(kept.files) ? kept.files : 0;
  const runs = new Map([[store.run.key, store.run]]);
  const runOf = (key) => {
    if (!runs.has(key)) {
      const run = new Run(Number(key.slice(1)), { file: key.startsWith("f") ? "a recording" : null });
      runs.set(key, Object.assign(run, { isCurrent: false }));
    }
    return runs.get(key);
  };
  for (const each of kept.connections) {
    const connection = new Connection(runOf(each.run), each.number);
    for (const name of OF_CONNECTION) connection[name] = each[name];
    store.connections.set(connection.id, connection);
  }
  for (const record of kept.frames) {
    if (record.kind === "cut") store.addCut(new Cut(record.told, record.at, record.number, record));
    else {
      const [run, number] = record.of.split(":");
      const connection = store.connections.get(record.of) ?? new Connection(runOf(run), Number(number));
      if (connection.run.file !== null) connection.run.began ??= record.at;
      store.addFrame(new Frame(record, connection, record.number));
    }
  }
  for (const name of TOTALS) if (Number.isFinite(kept[name])) store[name] = kept[name];
  if (store.frames.length) store.began ??= store.frames[0].at;
  store.watchedUntil = kept.until;
  store.why = "the page was loaded again";
  for (const connection of store.connections.values()) store.changed(connection);
  store.dispatchEvent(new Event("frames"));
}

function takeBack() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(NAME));
    if (kept?.version !== VERSION) return null;
    // Others may have written there too: what can't be ours is left out.
    const isRight = (frame) => (frame.kind === "cut" ? isText(frame.told) : isKey(frame.of?.split(":")[0]) && isFrame(frame));
    return {
      ...kept,
      connections: kept.connections.filter(isConnection),
      frames: kept.frames.filter((frame) => Number.isInteger(frame.number) && isRight(frame)),
    };
  } catch {
    return null;
  } finally {
    forget();
  }
}

function pack(capture, connections, frames, room) {
  const [packedConnections, left] = packNewest(connections, room * CONNECTIONS_SHARE);
  const [packedFrames, , dropped] = packNewest(frames, room * (1 - CONNECTIONS_SHARE) + left);
  const head = JSON.stringify({ ...capture, version: VERSION, forgotten: capture.forgotten + dropped });
  return `${head.slice(0, -1)},"connections":[${packedConnections}],"frames":[${packedFrames}]}`;
}

/** The last of some items as JSON, as far as there is room; how much of that is left; how many items are left out. */
function packNewest(items, room) {
  const packed = [];
  let at = items.length;
  while (at > 0) {
    const text = JSON.stringify(items[at - 1]);
    if (text.length + 1 > room) break;
    room -= text.length + 1;
    packed.push(text);
    at -= 1;
  }
  return [packed.reverse().join(","), room, items.slice(0, at).filter((each) => each.kind !== "cut").length];
}

const isKey = (key) => isText(key) && /^[rf]\d{1,9}$/.test(key);

function isConnection(kept) {
  const { run, number, from, path, agent, ended, switched, request, response, accept, refused, checks, frames } = kept;
  const isHead = (head) => head === null || (head.lines.length > 0 && head.lines.every(isText));
  return (
    isKey(run) &&
    [number, frames].every(Number.isInteger) &&
    [from, path, agent].every(isText) &&
    (ended === null || isText(ended)) &&
    typeof switched === "boolean" &&
    isHead(request) &&
    isHead(response) &&
    (accept === null || isAccept(accept)) &&
    (refused === null || isText(refused.told)) &&
    [...checks.client, ...checks.server].every(isCheck)
  );
}
