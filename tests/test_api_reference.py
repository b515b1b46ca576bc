"""The manual's pages about the API: they are made from the code, and no public name is missing."""

from __future__ import annotations

import re

import pytest

import rawws
import rawws.testing
import rawws.wire
from tests import api_reference
from tests.api_reference import PAGES, Reference
from tests.manual import page

HOW = "python -m tests.api_reference writes the pages anew"
NAMES = [reference.file for reference in PAGES]


@pytest.mark.parametrize("reference", PAGES, ids=NAMES)
def test_a_page_is_made_from_docstrings_and_signatures(reference: Reference) -> None:
    assert page(f"reference/{reference.file.removesuffix('.md')}") == api_reference.page(reference), HOW


@pytest.mark.parametrize("reference", PAGES, ids=NAMES)
def test_a_page_has_every_public_name_once(reference: Reference) -> None:
    names = [name for group in reference.groups for name in group.names]
    assert len(set(names)) == len(names)
    missing = set(reference.module.__all__) - set(names)
    assert all(getattr(rawws, name) is getattr(reference.module, name) for name in missing)
    assert reference.module is not rawws or not missing


@pytest.mark.parametrize("reference", PAGES, ids=NAMES)
def test_each_link_within_a_page_leads_to_a_heading(reference: Reference) -> None:
    text = page(f"reference/{reference.file.removesuffix('.md')}")
    anchors = {api_reference.anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= anchors


def test_every_name_in_a_signature_is_explained() -> None:
    used = {name for reference in PAGES for name in re.findall(r"^\* `(\w+)`: ", page_of(reference), re.MULTILINE)}
    assert set(api_reference.TYPES) <= used, "a type is explained that no signature has"


def page_of(reference: Reference) -> str:
    return page(f"reference/{reference.file.removesuffix('.md')}").partition("## Types in signatures")[2]
