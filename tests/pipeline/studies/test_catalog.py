"""The catalog: studies are listed, described, and refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataltt.pipeline.studies import catalog

from ...helpers import run_cli


def test_the_studies_are_listed() -> None:
    result = run_cli("study", "list")
    assert result.code == 0, result.err
    assert [line.split()[0] for line in result.out.splitlines()] == list(catalog.STUDIES)


@pytest.mark.parametrize("name", sorted(catalog.STUDIES))
def test_every_study_says_what_it_is(name: str) -> None:
    result = run_cli("study", name, "--describe")
    assert result.code == 0, result.err
    begins = [line.split(":")[0] for line in result.out.splitlines() if ":" in line]
    assert [word for word in begins if word in ("Paper", "Command", "Cost", "To expect")] == [
        "Paper",
        "Command",
        "Cost",
        "To expect",
    ]
    assert f"dataltt study {name} " in " ".join(result.out.split()) + " "


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("nonsense",), "there is no study 'nonsense'; all of them: dataltt study list"),
        (("paper_deit_s_8",), "did you mean paper_deit_s_08?"),
        (("views-photos",), "the study views-photos needs --shards, --test-shards, --checkpoint"),
        (("paper-deit-s-08", "--shards", "a.tar"), "needs --test-shards"),
        (
            ("paper_lvvit_s_085", "--shards", "a.tar", "--test-shards", "a.tar"),
            "the study paper_lvvit_s_085 needs --checkpoint; see dataltt study paper_lvvit_s_085 --describe",
        ),
        (("paper-deit-s-08", "--shards", "no.tar", "--test-shards", "no.tar"), "no.tar"),
        (("fashion", "--seeds", "one"), "--seeds 'one' should be whole numbers such as 0,1,2"),
    ],
)
def test_bad_input_is_one_sentence(options: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    result = run_cli("study", *options, "--out", tmp_path / "study")
    assert result.code == 1
    assert sentence in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not (tmp_path / "study").exists()
