"""The regular expressions of the page's filter: as the browser's own, but in time that grows with the text."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.resources import files
from typing import Any

from tests.serving.machine import PATIENCE_S, need

SOURCE = files("rawws.page").joinpath("static/state/expressions.js")

ALIKE = r"""
const sources = [
  "", "a", "abc", "a|b", "^a", "a$", "^$", "(a|b)*c", "(?:ab)+", "a{2}", "a{2,}", "a{1,3}b", "[a-c]+x", "[^a]b",
  "\\d+ now", "\\bab\\b", "\\Ba", ".", ".*c.", "(a*)*b", "(a|aa)+$", "\\p{L}+", "\\u{1F600}", "\\uD83D\\uDE00",
  "\\x61b", "(?<n>a)b", "a??b", "a+?b", "[\\]]", "\\.", "\\/", "(|a)b", "()", "(a{0}b){2}", "[\\b]", "\\s\\S", "é",
  "É", "ß", "a{0,2}$", "\\W+",
];
const texts = [
  "", "a", "b", "ab", "abc", "aab", "aaab", "cab now", "order 17 now", "😀", "x😀y", "É", "é", "ß ẞ", "a\nc.", "]",
  "a/b.c", " \n", "aaaaaaaa", "ABC", "ab ab", "k K", "\b", "ſ", "ac",
];
const wrong = [];
const compare = (source, flags, text) => {
  if (compile(source, flags)(text) !== new RegExp(source, `${flags}su`).test(text)) wrong.push([source, flags, text]);
};
for (const flags of ["", "i"]) for (const source of sources) for (const text of texts) compare(source, flags, text);
"""
AT_RANDOM = r"""
let seed = 7;
const below = (bound) => (seed = (seed * 1103515245 + 12345) & 0x7fffffff) % bound;
const make = (depth) => {
  const one = () => make(depth - 1);
  const kinds = [
    () => "a", () => "b", () => "[ab]", () => one() + one(), () => `(${one()}|${one()})`, () => `(?:${one()})*`,
    () => `(${one()})+`, () => `(${one()}){${below(3)},${2 + below(2)}}`,
    () => ["^", "", "\\b"][below(3)] + one() + ["$", "", "\\B"][below(3)],
  ];
  return kinds[below(depth ? kinds.length : 3)]();
};
for (let count = 0; count < 1000; count += 1) {
  const source = make(4);
  for (let texts = 0; texts < 5; texts += 1) {
    compare(source, "", Array.from({ length: below(8) }, () => "abc "[below(4)]).join(""));
  }
}
"""
REFUSED = r"""
const refusal = (source) => { try { compile(source); return null; } catch (error) { return `${error}`; } };
"""
ENDLESS = ["(a+)+$", "(a|a)*b", "a*a*a*a*a*b", "(.*)*x"]


def run(script: str, result: str) -> Any:
    """Run the module and a script in Node, and return the result of an expression."""
    node = shutil.which("node")
    need(node, "node")
    program = f"{SOURCE.read_text('utf-8')}\n{script}\nconsole.log(JSON.stringify({result}));"
    command = [str(node), "--input-type=module", "-"]
    ran = subprocess.run(command, input=program.encode(), capture_output=True, timeout=PATIENCE_S, check=False)
    assert ran.returncode == 0, ran.stderr.decode()
    return json.loads(ran.stdout)


def test_they_match_as_the_browser_s_own_do() -> None:
    assert run(ALIKE + AT_RANDOM, "wrong") == []


def test_a_text_of_a_peer_s_choice_takes_no_long_time() -> None:
    """The browser's own matcher wouldn't be back within the age of the universe."""
    assert run("", f"{json.dumps(ENDLESS)}.map((each) => compile(each)('a'.repeat(4000) + 'c'))") == [False] * 4


def test_an_expression_that_needs_more_is_refused_in_a_sentence() -> None:
    more = ["(?=a)", "(?!a)", "(?<=a)b", "(?<!a)b", r"(a)\1", r"(?<n>a)\k<n>"]
    refusals = run(REFUSED, f"{json.dumps(more)}.map(refusal)")
    assert all(refusal.startswith("SyntaxError: a filter can't have ") for refusal in refusals), refusals
    long, broken = run(REFUSED, '["(((a{9}){9}){9}){9}", "("].map(refusal)')
    assert long == "SyntaxError: the expression is too long for a filter"
    assert broken.startswith("SyntaxError: Invalid regular expression")
