// Which records can be trusted to have the right shape: those of a file, or those that another server of this origin may
// have left in the tab's storage.

import { parseHeader } from "./model.js";

export const isText = (value) => typeof value === "string";
export const isHex = (value) => isText(value) && value.length % 2 === 0 && !/[^0-9a-f]/.test(value);

const FRAME = {
  at: Number.isFinite,
  sender: (value) => value === "client" || value === "server",
  header: (value) => isHex(value) && parseHeader(value) !== null,
  payload: isHex,
};
const MORE_OF_FRAME = {
  left_out: Number.isInteger,
  tail: isHex,
  message_size: Number.isInteger,
  cut: (value) => value === true,
  text: isText,
  data: isHex,
};

export function isFrame(record) {
  const has = ([name, isRight]) => isRight(record[name]);
  const mayHave = ([name, isRight]) => record[name] === undefined || isRight(record[name]);
  return Object.entries(FRAME).every(has) && Object.entries(MORE_OF_FRAME).every(mayHave);
}

export const isCheck = (check) => ["section", "requirement", "about"].every((name) => isText(check?.[name]));

export const isAccept = (accept) =>
  ["key", "guid", "value"].every((name) => isText(accept?.[name])) && isHex(accept.sha1);

/** Whether a record of another kind than a frame can be taken in. */
export function isEvent(record) {
  const isSender = ["client", "server"].includes(record.sender);
  switch (record.kind) {
    case "open":
      return isText(record.from);
    case "head":
      return isSender && isText(record.head);
    case "checks": {
      const { checks, accept } = record;
      return isSender && Array.isArray(checks) && checks.every(isCheck) && (accept === undefined || isAccept(accept));
    }
    case "refused":
      return Number.isInteger(record.status) && isText(record.code) && isText(record.told);
    case "switch":
      return true;
    case "end":
      return isText(record.told);
    default:
      return false;
  }
}
