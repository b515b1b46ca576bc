"""The manual as a structure, sans-IO: pages of Markdown, their sections, and the names by which one finds them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from typing import NamedTuple

# The folders of pages, in the order in which a reader needs them, and what each has.
GROUPS = {
    "tutorial": "to learn from",
    "howto": "a task each",
    "explanation": "why it is so",
    "reference": "to look things up",
    "": "besides",
}
INDEX = "README"  # a page that only links to the others

_HEADING = re.compile(r"(#{1,6}) +(.*?) *#*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_CODE = re.compile(r"`([^`]+)`")
_STATUS = re.compile(r"#[^\n]*\n+\*\*(\d{3})\*\*")  # the status of a refusal, below its heading
_SUGGESTED = 5


class Section(NamedTuple):
    """A heading and everything up to the next heading of its level or above."""

    topic: str  # the page that it is on, such as howto/rooms
    level: int
    heading: str  # in Markdown
    text: str  # with the heading
    parents: tuple[str, ...] = ()  # the headings above it, without the page's title

    @property
    def place(self) -> str:
        """Where it is: its page, and the headings above it."""
        return ", ".join([self.topic, *map(plain, self.parents)])

    @property
    def names(self) -> set[str]:
        """The names by which a reader may ask for it: the heading, each code in it, its first number, its status."""
        names = {plain(self.heading), *_CODE.findall(self.heading)}
        if number := re.match(r"\d+\b", plain(self.heading)):
            names.add(number[0])
        if status := _STATUS.match(self.text):
            names.add(status[1])
        names |= {name.removeprefix("rawws.") for name in names if re.fullmatch(r"rawws(\.\w+)+", name)}
        return names


class Page(NamedTuple):
    """A page: its topic is its path without the ending, such as howto/rooms."""

    topic: str
    text: str

    @property
    def group(self) -> str:
        return self.topic.rpartition("/")[0]

    @property
    def name(self) -> str:
        return self.topic.rpartition("/")[2]

    @property
    def title(self) -> str:
        return next((plain(section.heading) for section in self.sections()), self.name)

    def sections(self) -> Iterator[Section]:
        """Yield the page's sections in order; a section comes before those within it."""
        lines = self.text.splitlines()
        headings = list(_headings(lines))
        above: list[_Heading] = []
        for index, each in enumerate(headings):
            end = next((later.line for later in headings[index + 1 :] if later.level <= each.level), len(lines))
            text = "\n".join(lines[each.line : end]).strip() + "\n"
            above = [higher for higher in above if higher.level < each.level]
            parents = tuple(higher.text for higher in above if higher.level > 1)
            yield Section(self.topic, each.level, each.text, text, parents)
            above.append(each)


class _Heading(NamedTuple):
    line: int
    level: int
    text: str


def _headings(lines: list[str]) -> Iterator[_Heading]:
    """Yield the headings; a line in a block of code is none."""
    fence = ""
    for number, line in enumerate(lines):
        if mark := _FENCE.match(line):
            if not fence:
                fence = mark[1]
            elif mark[1].startswith(fence):
                fence = ""
        elif not fence and (found := _HEADING.match(line)):
            yield _Heading(number, len(found[1]), found[2])


class Manual:
    """All pages, from their texts by topic."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        pages = [Page(topic, text) for topic, text in texts.items() if topic.rpartition("/")[2] != INDEX]
        order = list(GROUPS)
        pages.sort(key=lambda page: (order.index(page.group) if page.group in order else len(order), page.topic))
        self.pages = pages

    @cached_property
    def _named_sections(self) -> list[list[tuple[Section, set[str]]]]:
        """The sections of each page in order, with their names. Every link of a page that is shown is looked up."""
        return [[(section, section.names) for section in page.sections()] for page in self.pages]

    def name_of(self, page: Page) -> str:
        """Return the shortest name that only this page has."""
        return page.topic if [each.name for each in self.pages].count(page.name) > 1 else page.name

    def find(self, wanted: str) -> list[Page | Section]:
        """Return the page of this topic, or all pages of this name; or else the sections of this name on all pages.

        If there is neither, and ``wanted`` has several words, those are the sections that have them one after the
        other. Returns an empty list if nothing is found. Upper and lower case count as the same unless both are in use.
        """
        for fold in (str, str.lower):
            given = fold(wanted)
            for page in self.pages:
                if given == fold(page.topic):
                    return [page]
            if pages := [page for page in self.pages if given == fold(page.name)]:
                return [*pages]
            if sections := self._sections(given, fold):
                return sections
        return self._with_words(wanted) if " " in wanted else []

    def find_in_heading(self, word: str) -> list[Page | Section]:
        """Return the section that alone has a word in its heading, or nothing."""
        sections = (section for page in self.pages for section in page.sections() if section.level > 1)
        found: list[Page | Section] = [each for each in sections if word.lower() in plain(each.heading).lower().split()]
        return found if len(found) == 1 else []

    def _with_words(self, wanted: str) -> list[Page | Section]:
        """Return the smallest sections with these words."""
        words = re.compile(r"\s+".join(map(re.escape, wanted.split())), re.IGNORECASE)
        found: list[Page | Section] = []
        for named in self._named_sections:
            sections = [section for section, _ in named if words.search(section.text)]
            for section, following in zip(sections, [*sections[1:], None], strict=False):
                if following is None or following.level <= section.level:  # else the words are in a part of it
                    found.append(section)
        return found

    def _sections(self, given: str, fold: Callable[[str], str]) -> list[Page | Section]:
        found: list[Page | Section] = []
        for sections in self._named_sections:
            within = 0  # the level of a section that was found, of which the next ones may be parts
            for section, names in sections:
                if within and section.level > within:
                    continue
                within = 0
                if section.level > 1 and given in map(fold, names):
                    found.append(section)
                    within = section.level
        return found

    def suggest(self, wanted: str) -> list[str]:
        """Return the names that are most like one that there isn't, the nearest first."""
        names = {page.name.lower(): page.name for page in self.pages}
        for page in self.pages:
            for section in page.sections():
                if section.level > 1:
                    for name in section.names:
                        names.setdefault(name.lower(), name)
        given = wanted.lower()
        near = get_close_matches(given, names, n=_SUGGESTED, cutoff=0.65)
        near += [name for name in sorted(names, key=len) if len(given) > 2 and given in name and name not in near]
        return [names[name] for name in near[:_SUGGESTED]]

    def contents(self) -> Iterator[tuple[str, list[Page]]]:
        """Yield each group that has pages, and these."""
        for group in dict.fromkeys([*GROUPS, *(page.group for page in self.pages)]):
            if pages := [page for page in self.pages if page.group == group]:
                yield group, pages


def plain(text: str) -> str:
    """Return a line of Markdown without its marks."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"\*\*(.+?)\*\*", r"\1", text).replace("`", "").strip()
