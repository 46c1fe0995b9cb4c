"""Elections come before the work that follows them, and few switches are taken over at a time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from mfs_ctrl.p4rt.session import Session
from mfs_ctrl.turns import AT_ONCE, QUIET_MAX_S, QUIET_S, Turns
from tests.support.controller import eventually, serving


def test_a_backup_is_elected_while_nothing_asks_it_to_look() -> None:
    with serving() as (_, server):
        first, second, third = (Session(server.address, election_id=number) for number in (3, 2, 1))
        for session in (first, second, third):
            session.connect()
            assert session.claim() == (session is first)
        first.close()
        # The higher bid wins, whichever comes first.
        eventually(lambda: second.primary and not third.primary)
        assert second.election_id == 3 + 2
        second.close()
        eventually(lambda: third.primary)
        third.close()


def test_a_client_that_has_not_claimed_stays_what_it_is() -> None:
    with serving() as (_, server):
        first, second = (Session(server.address, election_id=number) for number in (2, 1))
        first.connect()
        second.connect()
        first.close()
        third = Session(server.address, election_id=7)
        third.connect()
        eventually(lambda: third.primary)
        assert (second.primary, second.election_id) == (False, 1)
        second.close()
        third.close()


def test_few_have_a_turn_at_a_time_and_all_get_one() -> None:
    turns, lock = Turns(), threading.Lock()
    now, most = 0, 0

    def work(_: int) -> None:
        nonlocal now, most
        with turns.taken(lambda: False):
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.02)
            with lock:
                now -= 1

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(work, range(8)))) == 8
    assert (now, most) == (0, AT_ONCE)


def test_work_waits_for_elections_but_not_for_ever() -> None:
    ahead_s = 0.0
    turns = Turns(lambda: time.monotonic() + ahead_s)
    began_s = time.monotonic()
    turns.news()
    with turns.taken(lambda: False):
        assert time.monotonic() - began_s >= QUIET_S
    # As if a switch told something all the time.
    ahead_s = 60.0
    turns.news()
    ahead_s = 0.0
    began_s = time.monotonic()
    with turns.taken(lambda: False):
        assert QUIET_MAX_S <= time.monotonic() - began_s < 30.0
    began_s = time.monotonic()
    with turns.taken(lambda: True):
        assert time.monotonic() - began_s < QUIET_MAX_S, "one that leaves waits for nothing"
