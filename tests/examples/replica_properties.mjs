// Properties of a document's replicas, in random runs: node replica_properties.mjs REPLICA.mjs RUNS

import { strict as assert } from "node:assert"

const { Replica } = await import(process.argv[2])
const RUNS = Number(process.argv[3])
const WORDS = ["a", "bc", "😀", "def\n", "é", "  "]

// A small generator with a seed (mulberry32), so that a run that fails can be repeated.
function generator(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296
  }
}

function run(seed) {
  const random = generator(seed)
  const below = (number) => Math.floor(random() * number)
  const replicas = ["a", "b", "c"].map((site) => new Replica(site))
  const inboxes = replicas.map(() => []) // changes that are on their way to each replica
  const all = []
  const publish = (change, author) => {
    all.push(change)
    inboxes.forEach((inbox, index) => { if (index !== author) inbox.push(change) })
  }
  const deliver = (index) => {
    const inbox = inboxes[index]
    const at = below(inbox.length)
    replicas[index].merge(inbox[at]) // in any order
    if (random() < 0.8) inbox.splice(at, 1) // and sometimes twice
  }
  for (let step = 0; step < 60; step++) {
    const author = below(replicas.length)
    const replica = replicas[author]
    const shown = replica.shown()
    const choice = random()
    if (choice < 0.35) {
      const index = below(shown.length + 1)
      const word = WORDS[below(WORDS.length)]
      const before = shown.map(({ text }) => text)
      publish(replica.type(shown[index - 1]?.id ?? "", word), author)
      // The author sees it where it was typed.
      assert.equal(replica.text(), [...before.slice(0, index), word, ...before.slice(index)].join(""))
    } else if (choice < 0.5 && shown.length) {
      const index = below(shown.length)
      const removed = shown.slice(index, index + 1 + below(4))
      publish(replica.remove(removed.map(({ id }) => id)), author)
      assert.equal(replica.text(), shown.filter((letter) => !removed.includes(letter)).map(({ text }) => text).join(""))
    } else if (choice < 0.6) {
      publish(replica.draw([below(800), below(600), below(800), below(600)], below(360)), author)
    } else if (choice < 0.65 && replica.lines.size) {
      publish(replica.remove([[...replica.lines.keys()][below(replica.lines.size)]]), author)
    } else if (inboxes[author].length) {
      deliver(author)
    }
  }
  // Somebody comes late: the whole set of one replica, and a part of the changes, some of them again.
  const late = new Replica("late")
  const rest = [...replicas[0].snapshot(), ...all]
  while (rest.length) late.merge(rest.splice(below(rest.length), 1)[0])
  for (const index of inboxes.keys()) while (inboxes[index].length) deliver(index)
  for (const replica of [...replicas.slice(1), late]) {
    assert.equal(replica.text(), replicas[0].text(), `run ${seed}`)
    assert.deepEqual(replica.drawing(), replicas[0].drawing(), `run ${seed}`)
  }
  // The whole set alone is enough, and what is typed after it goes where it belongs.
  const copy = new Replica("copy")
  for (const change of JSON.parse(JSON.stringify(replicas[0].snapshot()))) copy.merge(change)
  assert.equal(copy.text(), replicas[0].text(), `run ${seed}`)
  assert.deepEqual(copy.drawing(), replicas[0].drawing(), `run ${seed}`)
  const last = copy.shown().at(-1)?.id ?? ""
  replicas[1].merge(copy.type(last, "!"))
  assert.equal(replicas[1].text(), copy.text())
}

for (let seed = 0; seed < RUNS; seed++) run(seed)

// Two people type at the same place at once, letter by letter: each text stays whole.
const [one, other] = [new Replica("one"), new Replica("other")]
const typed = [one, other].map((replica, index) => {
  let after = ""
  return [...(index ? "world" : "hello")].map((letter) => {
    const change = replica.type(after, letter)
    after = change.id
    return change
  })
})
typed[1].toReversed().forEach((change) => one.merge(change))
typed[0].forEach((change) => other.merge(change))
assert.equal(one.text(), other.text())
assert.match(one.text(), /^(helloworld|worldhello)$/)

// Changes that make no sense are ignored.
const before = one.snapshot()
for (const change of [
  null, 1, "x", [], {}, { kind: "type" }, { kind: "type", id: "1", after: "", text: "x" },
  { kind: "type", id: "1.a", after: "2.a", text: "x" }, { kind: "type", id: "5.a", after: 7, text: "x" },
  { kind: "line", id: "9.a", points: ["x"] }, { kind: "remove", ids: [["1.a", 1e9], 3, null, "…"] }, { kind: "remove", ids: 1 },
]) one.merge(change)
assert.deepEqual(one.snapshot(), before)
