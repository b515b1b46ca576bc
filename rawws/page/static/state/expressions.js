// Regular expressions whose time grows with the text, not with its powers: a peer chooses the text, and a browser's own
// matcher takes minutes for /(a+)+$/ on forty letters.
//
// All places at which the expression may be are followed at once, as in Thompson's construction. What needs more than
// that is refused: references to a group, and looking ahead or behind. The browser's own matcher still decides whether
// one character is in a class.

const MOST_STATES = 500;
const MOST_REMEMBERED = 1000;

// One character, or a class of them. The browser has accepted the whole expression before, so this may be lenient.
const ONE =
  /\\(?:[pP]\{[^}]*\}|u\{[^}]*\}|u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|u[\da-fA-F]{4}|x[\da-fA-F]{2}|c[A-Za-z]|[^bBk1-9])|\[(?:[^\]\\]|\\.)*\]|[^()|*+?{}[\]\\^$]/suy;
const GROUP = /\((?:\?:|\?<[^=!>][^>]*>|(?!\?))/uy;
const PLACE = /\^|\$|\\b|\\B/uy;
const TIMES = /(?:([*+?])|\{(\d+)(,?)(\d*)\})\??/uy;

const isWord = (char) => char !== undefined && /^\w$/u.test(char);
const isEdge = (chars, at) => isWord(chars[at - 1]) !== isWord(chars[at]);
const PLACES = {
  "^": (_, at) => at === 0,
  $: (chars, at) => at === chars.length,
  "\\b": isEdge,
  "\\B": (chars, at) => !isEdge(chars, at),
};

/** Whether one character fits, as the browser says; the answers are remembered. */
function fits(source, flags) {
  const pattern = new RegExp(`^(?:${source})$`, flags);
  const known = new Map();
  return (char) => {
    let answer = known.get(char);
    if (answer === undefined) {
      answer = pattern.test(char);
      if (known.size < MOST_REMEMBERED) known.set(char, answer);
    }
    return answer;
  };
}

/** Reads an expression into a tree: `one`, `place`, `all` in a row, `any` of them, or `of` a number of times. */
class Reader {
  #source;
  #flags;
  #at = 0;

  constructor(source, flags) {
    this.#source = source;
    this.#flags = flags;
  }

  readAll() {
    const tree = this.#readAny();
    if (this.#at < this.#source.length) this.#refuse();
    return tree;
  }

  #readAny() {
    const any = [this.#readRow()];
    while (this.#take(/\|/uy)) any.push(this.#readRow());
    return { any };
  }

  #readRow() {
    const all = [];
    for (let part; (part = this.#readPart()); ) all.push(this.#readTimes(part));
    return { all };
  }

  #readPart() {
    let found;
    if ((found = this.#take(ONE))) return { one: fits(found[0], this.#flags) };
    if ((found = this.#take(PLACE))) return { place: PLACES[found[0]] };
    if (!this.#take(GROUP)) return null;
    const group = this.#readAny();
    if (!this.#take(/\)/uy)) this.#refuse();
    return group;
  }

  #readTimes(of) {
    const found = this.#take(TIMES);
    if (!found) return of;
    const [, sign, least, comma, most] = found;
    if (sign) return { of, least: sign === "+" ? 1 : 0, most: sign === "?" ? 1 : Infinity };
    return { of, least: Number(least), most: most ? Number(most) : comma ? Infinity : Number(least) };
  }

  #take(token) {
    token.lastIndex = this.#at;
    const found = token.exec(this.#source);
    if (found) this.#at = token.lastIndex;
    return found;
  }

  #refuse() {
    throw new SyntaxError(
      `a filter can't have ${this.#source.slice(this.#at, this.#at + 4)}: it has no (?=…), (?!…), (?<=…), \\1 or \\k`,
    );
  }
}

/** The states of a tree: one that takes a character, holds at a place, or leads to others. State 0 is the end. */
class States extends Array {
  add(state) {
    if (this.length > MOST_STATES) throw new SyntaxError("the expression is too long for a filter");
    return this.push(state) - 1;
  }

  /** Add a tree that leads to a state, and return its first one. */
  build(tree, next) {
    if (tree.one) return this.add({ one: tree.one, next });
    if (tree.place) return this.add({ place: tree.place, next });
    if (tree.all) return tree.all.reduceRight((then, part) => this.build(part, then), next);
    if (tree.any) return this.add({ to: tree.any.map((each) => this.build(each, next)) });
    return this.#repeat(tree, next);
  }

  #repeat({ of, least, most }, next) {
    let first = next;
    if (most === Infinity) {
      first = this.add({ to: [next] });
      this[first].to.push(this.build(of, first));
    } else {
      for (let more = least; more < most; more += 1) first = this.add({ to: [next, this.build(of, first)] });
    }
    for (let more = 0; more < least; more += 1) first = this.build(of, first);
    return first;
  }
}

/** Return a function that says whether a text has a match. Throws a SyntaxError for what can't be one. */
export function compile(source, flags = "") {
  new RegExp(source, `${flags}su`);
  const states = new States();
  states.add({});
  const begin = states.build(new Reader(source, `${flags}su`).readAll(), 0);
  return (text) => hasMatch(states, begin, [...text]);
}

function hasMatch(states, begin, chars) {
  const reached = new Int32Array(states.length).fill(-1); // the place in the text up to which each state is known
  const follow = (first, at, into) => {
    const open = [first];
    while (open.length) {
      const index = open.pop();
      if (reached[index] === at) continue;
      reached[index] = at;
      const { one, place, next, to } = states[index];
      if (one) into.push(states[index]);
      else if (to) open.push(...to);
      else if (place?.(chars, at)) open.push(next);
    }
  };
  for (let at = 0, now = []; ; at += 1) {
    follow(begin, at, now);
    if (reached[0] === at) return true;
    if (at === chars.length) return false;
    const then = [];
    for (const { one, next } of now) if (one(chars[at])) follow(next, at + 1, then);
    now = then;
  }
}
