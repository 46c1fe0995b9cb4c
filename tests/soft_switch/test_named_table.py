"""Covers entries written by name and as text, as the testbench takes them."""

from __future__ import annotations

import pytest

from soft_switch import ActionCall, Exact, InvalidEntryError, Lpm, Member, NamedTable, Range, Ternary, Testbench
from soft_switch.examples import dscp_queues
from soft_switch.tables.match_text import MatchLike, read_match, read_value
from soft_switch.tables.table import Table


def acl() -> NamedTable:
    table = Table(
        "MyIngress.acl",
        10,
        ("exact", "lpm", "ternary", "range"),
        (48, 32, 8, 16),
        {"MyIngress.permit": (1, (9, 32)), "NoAction": (0, ())},
        key_names=("hdr.ethernet.src", "hdr.ipv4.dst", "hdr.ipv4.tos", "hdr.udp.port"),
    )
    return NamedTable(table, {"MyIngress.permit": (("port", 9), ("next_hop", 32)), "NoAction": ()})


@pytest.mark.parametrize(
    ("given", "kind", "width", "match"),
    [
        (5, "exact", 16, Exact(5)),
        ("0x1f", "exact", 16, Exact(31)),
        ("10.0.0.1", "exact", 32, Exact(0x0A000001)),
        ("aa:bb:cc:dd:ee:ff", "exact", 48, Exact(0xAABBCCDDEEFF)),
        ("aa-bb-cc-dd-ee-0f", "exact", 48, Exact(0xAABBCCDDEE0F)),
        ("fd00::1", "exact", 128, Exact(0xFD << 120 | 1)),
        ("10.0.2.0/24", "lpm", 32, Lpm(0x0A000200, 24)),
        ("10.0.2.1", "lpm", 32, Lpm(0x0A000201, 32)),
        ("fd00::/8", "lpm", 128, Lpm(0xFD << 120, 8)),
        ("0x8000/1", "lpm", 16, Lpm(0x8000, 1)),
        ("*", "lpm", 32, Lpm(0, 0)),
        ("0x0a/0xff", "ternary", 8, Ternary(0x0A, 0xFF)),
        ("0x0a &&& 0x0f", "ternary", 8, Ternary(0x0A, 0x0F)),
        ("10.0.0.0/255.0.0.0", "ternary", 32, Ternary(0x0A000000, 0xFF000000)),
        (7, "ternary", 8, Ternary(7, 0xFF)),
        ("*", "ternary", 8, Ternary(0, 0)),
        ("5..9", "range", 16, Range(5, 9)),
        ("10.0.0.1..10.0.0.9", "range", 32, Range(0x0A000001, 0x0A000009)),
        ("5", "range", 16, Range(5, 5)),
        ("*", "range", 4, Range(0, 15)),
        (Ternary(1, 1), "ternary", 8, Ternary(1, 1)),
    ],
)
def test_a_match_is_read_by_the_kind_of_its_field(given: MatchLike, kind: str, width: int, match: object) -> None:
    assert read_match(given, kind, width, "x") == match


@pytest.mark.parametrize(
    ("given", "kind", "width", "words"),
    [
        ("10.0.2.0/24", "exact", 32, "matched by exact, which takes a value"),
        ("10.0.2.1/24", "lpm", 32, "has bits set after its first 24"),
        ("10.0.2.0/33", "lpm", 32, "'33' is not a prefix length of 0 to 32"),
        ("10.0.2", "lpm", 32, r"not a value of 32 bits; write e\.g\. 46, 0x2e, 10\.0\.2\.1"),
        ("10.0.2.0", "exact", 16, "'10.0.2.0' is not a value of 16 bits"),
        ("aa:bb", "exact", 48, "02:00:00:00:00:01"),
        ("256", "exact", 8, "256 does not fit in 8 bits"),
        (-1, "range", 8, "-1 does not fit in 8 bits"),
        ("10.0.0.0/8", "ternary", 32, "bits set outside its mask 0x8.* comes a mask, not a prefix length"),
        ("5..x", "range", 8, "'x' is not a value of 8 bits"),
        ("1/2", "range", 8, r"matched by range, which takes LOW\.\.HIGH"),
        ("*", "exact", 8, "matched exactly; give it a value"),
        (1.5, "lpm", 8, "1.5 is not a match; write VALUE/PREFIX_LENGTH"),
    ],
)
def test_text_that_does_not_fit_is_refused_with_the_form_that_does(
    given: MatchLike, kind: str, width: int, words: str
) -> None:
    with pytest.raises(InvalidEntryError, match=rf"^the field.*{words}"):
        read_match(given, kind, width, "the field")


def test_numbers_may_have_a_base() -> None:
    assert [read_value(text, 16, "x") for text in ("10", "0xA", "0b1010", "0o12", 10)] == [10] * 5


def test_keys_are_given_by_name_or_in_order() -> None:
    table = acl()
    by_name = table.key({"src": "02:00:00:00:00:01", "hdr.ipv4.dst": "10.0.0.0/8"})
    assert by_name == (Exact(0x020000000001), Lpm(0x0A000000, 8), Ternary(0, 0), Range(0, 65535))
    assert table.key(["02:00:00:00:00:01", "10.0.0.0/8", "*", "*"]) == by_name


def test_parameters_are_given_by_name_or_in_order() -> None:
    table = acl()
    call = ActionCall("MyIngress.permit", (7, 0x0A000001))
    assert table.action("permit", {"next_hop": "10.0.0.1", "port": 7}) == call
    assert table.action("permit", [7, "10.0.0.1"]) == call
    assert table.action(call) == call


def test_an_entry_lives_by_its_key_and_priority() -> None:
    table = acl()
    key = {"src": 1, "port": "80..90"}
    entry = table.insert(key, "permit", [1, 2], priority=3)
    assert table.get(key, priority=3) is entry
    assert table.get(key, priority=4) is None
    table.modify(key, "NoAction", priority=3)
    assert [entry.target for entry in table.entries()] == [ActionCall("NoAction", ())]
    table.delete(key, priority=3)
    assert list(table.entries()) == []
    table.set_default("permit", [1, 1])
    assert table.table.default == ActionCall("MyIngress.permit", (1, 1))
    table.set_default(None)
    assert table.table.default == ActionCall("NoAction", ())


@pytest.mark.parametrize(
    ("key", "action", "arguments", "words"),
    [
        ({"src": 1, "ttl": 1}, "permit", [1, 1], "has no key field 'ttl'; it has: hdr.ethernet.src, hdr.ipv4.dst"),
        ({"dst": 1}, "permit", [1, 1], "key field hdr.ethernet.src is matched exactly; give it a value"),
        ({"src": 1, "dst": "10.0.0.1/8"}, "permit", [1, 1], r"key field hdr.ipv4.dst: 10.0.0.1/8 has bits set"),
        ([1], "permit", [1, 1], "has 4 key fields .*, not 1; give each a match, or name fields"),
        ("10.0.0.1", "permit", [1, 1], "the key '10.0.0.1' is text; write a mapping"),
        ({"src": 1}, "deny", [], "has no action 'deny'; it has: MyIngress.permit, NoAction"),
        ({"src": 1}, "permit", {"port": 1}, "action MyIngress.permit: give a value for next_hop"),
        ({"src": 1}, "permit", {"prt": 1}, "has no parameter 'prt'; it has: port, next_hop"),
        ({"src": 1}, "permit", [1], r"takes 2 arguments \(port, next_hop\), not \[1\]"),
        ({"src": 1}, "permit", {"port": 512, "next_hop": 0}, "parameter port: 512 does not fit in 9 bits"),
        ({"src": 1}, "permit", [1, 1.5], "parameter next_hop: 1.5 is not a value of 32 bits"),
        ({"src": 1}, Member(1), {"port": 1}, "already has its arguments"),
        ({"src": Lpm(1, 1)}, "NoAction", [], "key field hdr.ethernet.src is matched by exact, not by lpm"),
    ],
)
def test_an_entry_that_does_not_fit_names_table_and_field(
    key: dict[str, MatchLike], action: str, arguments: list[int], words: str
) -> None:
    with pytest.raises(InvalidEntryError, match=rf"table MyIngress.acl.*{words}"):
        acl().insert(key, action, arguments, priority=1)


def test_a_default_is_an_action() -> None:
    with pytest.raises(InvalidEntryError, match="the default is an action, not Member"):
        acl().set_default(Member(1))


def test_tables_of_a_testbench_are_found_by_the_end_of_their_name() -> None:
    tables = Testbench.load(dscp_queues.PROGRAM).tables
    assert tables["route"].name == tables["RouterIngress.route"].name == "RouterIngress.route"
    with pytest.raises(InvalidEntryError, match="the program has no table 'rout'; it has: "):
        tables["rout"]
    assert "RouterIngress.route" in tables
    assert len(tables) == len(list(tables))
