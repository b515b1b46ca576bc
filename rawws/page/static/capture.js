// The capture as text, which is how it outlives a reload of the page.
//
// It is kept in the tab's sessionStorage from the moment at which the page goes until it is loaded again, and no longer:
// another server may come up at the same origin, and its pages can read what is there.

const NAME = "rawws-capture";
const VERSION = 1;
const MOST_CHARACTERS = 2_000_000; // browsers give an origin 5 MB, and most of them count two bytes a character
const LEAST_CHARACTERS = 10_000;
const CONNECTIONS_SHARE = 0.3;

const FRAME_FIELDS = {
  at: Number.isFinite,
  sender: (value) => value === "client" || value === "server",
  header: isHex,
  payload: isHex,
  opcode: isText,
  fin: (value) => typeof value === "boolean",
  rsv: isText,
  mask: (value) => value === null || isHex(value),
  size: Number.isInteger,
  preview: isText,
};
const MORE_FRAME_FIELDS = {
  left_out: Number.isInteger,
  tail: isHex,
  message_size: Number.isInteger,
  cut: (value) => value === true,
  text: isText,
};

function isText(value) {
  return typeof value === "string";
}

function isHex(value) {
  return isText(value) && /^([0-9a-f]{2})*$/.test(value);
}

/** Keep a capture: the newest of it, if there is too much. An empty one leaves nothing. */
export function save(capture) {
  forget();
  if (!capture.frames.length && !capture.connections.some((each) => each.ended !== null)) return;
  for (let room = MOST_CHARACTERS; room > LEAST_CHARACTERS; room /= 2) {
    try {
      sessionStorage.setItem(NAME, pack(capture, room));
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

/** Return what was kept, and keep it no longer; null if there is nothing of use. */
export function takeBack() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(NAME));
    if (kept?.version !== VERSION) return null;
    // Others may have written there too: what can't be ours is left out.
    return {
      ...kept,
      connections: kept.connections.filter(isConnection),
      frames: kept.frames.filter((frame) => (frame.kind === "cut" ? isText(frame.told) : isFrame(frame))),
    };
  } catch {
    return null;
  } finally {
    forget();
  }
}

function pack({ frames, connections, forgotten, ...rest }, room) {
  const [packedConnections, left] = packNewest(connections, room * CONNECTIONS_SHARE);
  const [packedFrames, , dropped] = packNewest(frames, room * (1 - CONNECTIONS_SHARE) + left);
  const head = JSON.stringify({ ...rest, version: VERSION, forgotten: forgotten + dropped });
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

function isFrame(frame) {
  const has = ([name, isRight]) => isRight(frame[name]);
  const mayHave = ([name, isRight]) => frame[name] === undefined || isRight(frame[name]);
  return (
    isText(frame.of) && Object.entries(FRAME_FIELDS).every(has) && Object.entries(MORE_FRAME_FIELDS).every(mayHave)
  );
}

function isConnection({ run, number, from, path, ended, switched, request, response, accept, checks }) {
  const isHead = (head) => head === null || head.lines.every(isText);
  const isCheck = (check) => ["section", "requirement", "about"].every((name) => isText(check[name]));
  return (
    [run, number].every(Number.isInteger) &&
    [from, path].every(isText) &&
    (ended === null || isText(ended)) &&
    typeof switched === "boolean" &&
    isHead(request) &&
    isHead(response) &&
    (accept === null || (["key", "guid", "value"].every((name) => isText(accept[name])) && isHex(accept.sha1))) &&
    [...checks.client, ...checks.server].every(isCheck)
  );
}
