"""The check of the parsers that a Tofino compiler makes, on its assembly."""

from __future__ import annotations

import pytest

from p4src.artifact import BUILD, TOFINO, TOFINO_2
from p4src.parser_check import parser_defects

PARSER = """\
parser {gress}:
  start: start
  init_zero: [ B3, H10 ]
  hdr_len_adj: 16
  states:
    start:
      match: [ half ]
      {first}:
        counter:
          push: 1
        0..13: B1
        load: {{ half : 12..13 }}
        shift: 14
        next: parse_mfs
      {second}:
        next: parse_ipv4
      0x****:
        buf_req: 0
        next: end
    parse_mfs:
      *:
        shift: 24
        next: end
"""


def assembly(first: str = "0x88b5", second: str = "0x0800", egress: str = "0x88b5") -> str:
    return (
        "version:\n  target: Tofino\n"
        + PARSER.format(gress="ingress", first=first, second=second)
        + "deparser ingress:\n  dictionary:\n    B1: 1\n"
        + PARSER.format(gress="egress", first=egress, second="0b0110****")
        + "stage 0 ingress:\n"
    )


def test_a_parser_that_matches_is_accepted() -> None:
    assert parser_defects(assembly()) == []


def test_a_parser_without_any_value_is_refused() -> None:
    assert parser_defects(assembly("*", "*")) == ["no state of the ingress parser matches on a value"]


@pytest.mark.parametrize("anything", ["*", "0x****"])
@pytest.mark.parametrize("gress", ["ingress", "egress"])
def test_a_row_that_hides_others_is_refused_with_its_state(gress: str, anything: str) -> None:
    broken = assembly(first=anything) if gress == "ingress" else assembly(egress=anything)
    assert parser_defects(broken) == [f"in the {gress} parser, rows behind one that matches anything: start"]


def test_a_text_without_parsers_is_refused() -> None:
    assert len(parser_defects("stage 0 ingress:\n")) == 2


@pytest.mark.parametrize("name", [TOFINO, TOFINO_2])
def test_the_artifact_here_has_a_parser_that_matches(name: str) -> None:
    path = BUILD / name / "pipe" / "mfs.bfa"
    if not path.is_file():
        pytest.skip(f"{path} is not there; `mfs p4 build` makes it where p4c-barefoot is installed")
    assert parser_defects(path.read_text("utf-8")) == []
