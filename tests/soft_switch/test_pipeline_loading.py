"""Covers loading: damaged artifacts end in a readable error, unsupported constructs are refused by name and place."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soft_switch.errors import ArtifactError, SwitchError, UnsupportedConstructError
from soft_switch.pipeline import Pipeline
from tests.support.p4_programs import program_text

NAMES = ("matching", "parsing", "state", "stacks", "variants", "copies", "loops")
PROGRAMS = {name: json.loads(program_text(name)) for name in NAMES}


def load(root: Any) -> Pipeline:
    return Pipeline.load(json.dumps(root))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.9999])
def test_a_truncated_artifact_is_refused(name: str, share: float) -> None:
    text = program_text(name)
    with pytest.raises(ArtifactError, match="JSON"):
        Pipeline.load(text[: int(len(text) * share)])


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '"x"', "\x00", '{"header_types": []}'])
def test_text_that_is_not_a_program_is_refused(text: str) -> None:
    with pytest.raises(ArtifactError):
        Pipeline.load(text)


def test_bytes_are_read_like_text() -> None:
    assert Pipeline.load(program_text("matching").encode()).source == Pipeline.load(program_text("matching")).source
    with pytest.raises(ArtifactError):
        Pipeline.load(b"\xff\xfe\xfa")


def places(root: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    result = [path] if path else []
    items = root.items() if isinstance(root, dict) else enumerate(root) if isinstance(root, list) else ()
    for key, value in items:
        if key != "source_info":
            result += places(value, (*path, key))
    return result


PLACES = [(name, place) for name in NAMES for place in places(PROGRAMS[name])]
DAMAGE = [None, "x", -1, 3, [], {}, True, "0xzz", 10**9]


@settings(max_examples=100)
@given(st.sampled_from(PLACES), st.sampled_from(["delete", *range(len(DAMAGE))]))
def test_damage_is_refused_with_a_message_or_is_harmless(where: tuple[str, tuple[Any, ...]], damage: str | int) -> None:
    name, place = where
    root = copy.deepcopy(PROGRAMS[name])
    at = root
    for key in place[:-1]:
        at = at[key]
    if damage == "delete":
        del at[place[-1]]
    else:
        at[place[-1]] = DAMAGE[int(damage)]
    with contextlib.suppress(SwitchError):  # any other exception fails the test
        load(root)


def test_the_message_names_the_place() -> None:
    root = copy.deepcopy(PROGRAMS["matching"])
    del root["pipelines"][0]["tables"][3]["next_tables"]
    name = root["pipelines"][0]["tables"][3]["name"]
    with pytest.raises(ArtifactError, match=name):
        load(root)


def test_a_newer_major_format_is_refused() -> None:
    root = copy.deepcopy(PROGRAMS["matching"])
    root["__meta__"]["version"] = [3, 0]
    with pytest.raises(ArtifactError, match=r"3\.x"):
        load(root)


def test_an_unknown_primitive_is_refused_by_name_and_line() -> None:
    root = copy.deepcopy(PROGRAMS["state"])
    primitive = next(p for a in root["actions"] for p in a["primitives"] if "source_info" in p)
    primitive["op"] = "frobnicate"
    with pytest.raises(UnsupportedConstructError, match="frobnicate") as caught:
        load(root)
    info = primitive["source_info"]
    assert caught.value.place == f"{info['filename']}:{info['line']}"


def test_unsupported_constructs_are_refused_by_name() -> None:
    root = copy.deepcopy(PROGRAMS["matching"])
    root["extern_instances"] = [{"name": "box", "id": 0, "type": "magic"}]
    with pytest.raises(UnsupportedConstructError, match="extern 'box'"):
        load(root)
    root = copy.deepcopy(PROGRAMS["variants"])
    key = root["pipelines"][0]["conditionals"][0]["expression"]["value"]
    element = {"op": "dereference_union_stack", "left": {"type": "header_union_stack", "value": "items"}}
    element["right"] = {"type": "field", "value": ["start", "what"]}
    key["left"] = {"type": "expression", "value": {"op": "access_field", "left": element, "right": 0}}
    with pytest.raises(UnsupportedConstructError, match="stack of header unions with a computed index"):
        load(root)


@pytest.mark.parametrize("name", NAMES)
def test_the_source_is_the_same_every_time(name: str) -> None:
    assert Pipeline.load(program_text(name)).source == Pipeline.load(program_text(name)).source


def test_absurd_widths_are_refused() -> None:
    """Widths whose mask would take all memory: the first of each kind in each program."""
    found = set()
    for name, place in PLACES:
        value = PROGRAMS[name]
        for key in place:
            parent, value = value, value[key]
        is_lookahead = place[-2:] == ("value", 1) and parent[0] == 0 and isinstance(value, int)
        if isinstance(value, bool) or not isinstance(value, int) or not (place[-1] in WIDTHS or is_lookahead):
            continue
        kind = (name, *(key for key in place if isinstance(key, str)))
        if kind not in found:
            found.add(kind)
            damaged = copy.deepcopy(PROGRAMS[name])
            inner = damaged
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = 1 << 40
            with pytest.raises(SwitchError):
                load(damaged)
    assert {kind[-1] for kind in found} == {*WIDTHS, "value"}


WIDTHS = {"bitwidth", "max_length"}
