// Recordings: what `--record` writes and this page exports, lines of JSON that `rawws decode` reads too.

import { clock, plural } from "../text.js";
import { inflateAll } from "./inflate.js";
import { Connection, Run, parseHeader } from "./model.js";
import { isEvent, isFrame } from "./records.js";
import { KEPT_FRAMES } from "./store.js";

const MOST_BYTES = 256 * 1024 * 1024;
const MOST_INFLATED = 50_000; // frames: of a longer recording, what is compressed stays so
const MOST_PAYLOAD = 8192; // bytes of each payload: twice what the feed sends
const TAIL = 64;
const KEPT_CONNECTIONS = 250; // so that those of the server stay
const EXPORTED_RUN = 1_000_000_000;

/** What can't be opened, and why. */
export class NoRecording extends Error {}

/** Read a file; return what `Store.takeFile` takes. Raises `NoRecording`. */
export async function readFile(file, number) {
  if (file.size > MOST_BYTES) throw new NoRecording(`${file.name} has more than 256 MB: cut it first`);
  return readLines(await file.text(), file.name, number);
}

async function readLines(text, name, number) {
  const run = new Run(number, { file: name });
  const latest = new Map(); // by number, which begins with 1 again where another program has gone on
  const connections = [];
  const frames = [];
  let wrong = 0;
  for (const line of text.split("\n")) {
    const trimmed = line.trim().replace(/,$/, "");
    if (["", "[", "]"].includes(trimmed)) continue;
    const record = parse(trimmed);
    if (record === null || !Number.isInteger(record.connection)) {
      wrong += 1;
      if (wrong > 10 && !connections.length) break; // it is something else
      continue;
    }
    if (record.kind === "open" || !latest.has(record.connection)) {
      const connection = new Connection(run, connections.length + 1);
      connections.push(connection);
      latest.set(record.connection, connection);
    }
    const connection = latest.get(record.connection);
    if (record.kind !== "frame") connection.take(record);
    else frames.push([record, connection]);
  }
  if (!connections.length) {
    throw new NoRecording(`${name} is not a recording: give a file of --record, or one that this page has exported`);
  }
  for (const connection of connections) connection.ended ??= "the recording ends here";
  const bare = frames.filter(([record]) => record.text === undefined && record.data === undefined);
  if (bare.length <= MOST_INFLATED) await inflateAll(bare.map(([record, connection]) => [record, parseHeader(record.header), connection]));
  const kept = frames.slice(-KEPT_FRAMES);
  for (const [record] of kept) shortenPayload(record);
  const when = frames.length ? `, ${clock(frames[0][0].at * 1000)} to ${clock(frames.at(-1)[0].at * 1000)}` : "";
  const told = [`${name}: ${plural(frames.length, "frame")} of ${plural(connections.length, "connection")}${when}`];
  if (frames.length > kept.length) told.push(`the last ${plural(kept.length, "frame")} of them follow`);
  if (wrong) told.push(`${plural(wrong, "line")} couldn't be read`);
  return { run, connections: connections.slice(-KEPT_CONNECTIONS), frames: kept, told: told.join("; ") };
}

/** Leave out the middle of a long payload, as the feed does. */
function shortenPayload(record) {
  const more = record.payload.length / 2 - MOST_PAYLOAD;
  if (more <= 0) return;
  const tail = record.tail ?? record.payload.slice(-2 * Math.min(TAIL, more));
  record.left_out = (record.left_out ?? 0) + more - (record.tail ? 0 : tail.length / 2);
  record.payload = record.payload.slice(0, 2 * MOST_PAYLOAD);
  record.tail = tail;
}

function parse(line) {
  try {
    const record = JSON.parse(line);
    return (record.kind === "frame" ? isFrame(record) : isEvent(record)) ? record : null;
  } catch {
    return null;
  }
}

/**
 * Return frames as an array of records with one on each line. Where there are more runs than one, a connection's number
 * begins with that of an earlier one, since each may occur in all of them. With `events`, each connection's handshake
 * and end are there too: `rawws decode` then judges the frames as parts of a whole.
 */
export function write(frames, { events = false } = {}) {
  const numberOf = ({ run, number }) => {
    if (run.isCurrent) return number;
    return (2 * run.number - (run.file === null)) * EXPORTED_RUN + number;
  };
  const ofConnection = new Map();
  for (const frame of frames) {
    if (frame.isCut) continue;
    if (!ofConnection.has(frame.of)) ofConnection.set(frame.of, []);
    ofConnection.get(frame.of).push(frame.toRecord(numberOf(frame.of)));
  }
  const records = [...ofConnection].flatMap(([connection, its]) => {
    const isWhole = events && connection.request !== null && connection.opened !== null;
    return isWhole ? [...before(connection, numberOf(connection)), ...its, ...after(connection, its)] : its;
  });
  records.sort((a, b) => a.at - b.at);
  return `[\n${records.map((record) => JSON.stringify(record)).join(",\n")}\n]\n`;
}

function before({ opened: at, from, request, response, checks, accept, switched }, connection) {
  const head = (sender, { lines }) => ({ kind: "head", sender, head: `${lines.join("\r\n")}\r\n\r\n` });
  const records = [{ kind: "open", from }, head("client", request)];
  if (checks.client.length) records.push({ kind: "checks", sender: "client", checks: checks.client, accept: accept ?? undefined });
  if (response) records.push(head("server", response));
  if (checks.server.length) records.push({ kind: "checks", sender: "server", checks: checks.server });
  if (switched) records.push({ kind: "switch" });
  return records.map((record) => ({ at, connection, ...record }));
}

function after({ ended, cause }, its) {
  if (ended === null) return [];
  const { at, connection } = its.at(-1);
  return [{ at, connection, kind: "end", told: ended, cause: cause ?? undefined }];
}
