"""The check of the prose, .ci/prose.py: it finds each pattern that it names, and lets good sentences pass."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).resolve().parent.parent / ".ci" / "prose.py"


@pytest.fixture(scope="module")
def prose() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prose", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["prose"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "text",
    [
        "Who reads slowly falls behind.",
        "A peer reads. Who does not is closed.",
        "What a room holds.",
        "A room: What it holds is a log.",
        "Those who left are gone.",
        "So many bytes may wait.",
        "So long it waits.",
        "Of a message only the head is read.",
        "Of what arrived, half is read.",
        "who reads slowly",
        "so many bytes may wait",
        "A peer left; and so it is forgotten.",
    ],
)
def test_a_sentence_without_a_subject_is_found_in_every_kind_of_text(prose: ModuleType, text: str) -> None:
    assert len(list(prose.findings_in_markdown(text, "a.md"))) == 1
    assert len(list(prose.findings_in_python(f"# {text}\n", "a.py"))) == 1
    assert len(list(prose.findings_in_python(f'"""{text}"""\n', "a.py"))) == 1
    assert len(list(prose.findings_in_python(f'log(f"{text} {{x}}")\n', "a.py"))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "A peer that reads slowly starts to lag.",
        "`Who` is a name. `What` is another.",
        "What went wrong? Nothing.",
        "The server knows who asked, and what for.",
        "Those are the limits.",
        "So it is closed.",
        "Of course it is.",
        "Whole messages are sent.",
        "Whether it is sent is another question.",
    ],
)
def test_a_sentence_with_a_subject_passes(prose: ModuleType, text: str) -> None:
    assert list(prose.findings_in_markdown(text, "a.md")) == []
    assert list(prose.findings_in_python(f'# {text}\nx = "{text}"\n', "a.py")) == []


@pytest.mark.parametrize(
    "source",
    [
        "told = 1",
        "def f(told): ...",
        "self._told = 1",
        "def test_who_reads_slowly_is_closed(): ...",
        "async def test_5_4_what_is_fragmented(): ...",
        "def test_those_who_left(): ...",
    ],
)
def test_a_name_is_found(prose: ModuleType, source: str) -> None:
    assert [finding.line for finding in prose.findings_in_python(f"\n{source}\n", "a.py")] == [2]


def test_a_finding_names_its_line(prose: ModuleType) -> None:
    text = "A paragraph of\ntwo lines.\n\n* An item.\n* A second, of\n  two lines. Who reads it? Who reads is here.\n"
    assert [finding.line for finding in prose.findings_in_markdown(text, "a.md")] == [6]
    docstring = '"""One line.\n\nA paragraph.\nWho reads is here.\n"""\n'
    assert [finding.line for finding in prose.findings_in_python(docstring, "a.py")] == [4]
    comment = "x = 1\n# One line.\n# Who reads is here.\n"
    assert [finding.line for finding in prose.findings_in_python(comment, "a.py")] == [3]


def test_code_and_headings_are_not_checked(prose: ModuleType) -> None:
    text = "## What it is\n\n```text\nWho is there\n```\n\nA sentence.\n"
    assert list(prose.findings_in_markdown(text, "a.md")) == []


def test_the_exit_status_shows_whether_there_are_findings(
    prose: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    (tmp_path / "good.md").write_text("A sentence.\n")
    assert prose.main(["good.md"]) == 0
    (tmp_path / "bad.md").write_text("A sentence.\n\nWho reads is here.\n")
    assert prose.main(["bad.md"]) == 1
    assert "bad.md:3: 'Who reads': name the subject" in capsys.readouterr().out
