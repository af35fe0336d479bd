"""Where launchers of several machines meet: all learn the same addresses, and a lost machine is known to the others."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace

import pytest

from pipeline.errors import StageFailed
from pipeline.frameworks import Group, _process_group, _rendezvous
from pipeline.frameworks._process_group import Exit
from pipeline.frameworks._rendezvous import Rendezvous


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    monkeypatch.setattr(_process_group, "JOIN_SECONDS", 10)  # of a test that fails, others would wait for long
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Group(nodes=3, address=f"127.0.0.1:{probe.getsockname()[1]}")


def meet(group: Group, stack: ExitStack) -> list[Rendezvous]:
    """The meetings of all machines of a group, by rank."""

    def enter(rank: int) -> Rendezvous:
        return stack.enter_context(_rendezvous.meet(replace(group, node_rank=rank)))

    with ThreadPoolExecutor(group.nodes) as pool:
        found: list[Future[Rendezvous]] = [pool.submit(enter, rank) for rank in range(group.nodes)]
    return [future.result() for future in found]


def connected(group: Group) -> socket.socket:
    """A connection to machine 0, once it listens."""
    host, port = _process_group.endpoint(group).split(":")
    while True:
        try:
            return socket.create_connection((host, int(port)), 5)
        except ConnectionRefusedError:
            threading.Event().wait(0.01)


def test_all_learn_the_same_addresses_and_whoever_is_none_of_them_is_shown_out(group: Group) -> None:
    strangers = [b"GET / HTTP/1.1\r\n\r\n", b'{"rank": 7, "port": 1}\n', b'{"rank": "1"}\n', b"[]\n", b""]

    def disturb() -> None:
        for says in strangers:
            with connected(group) as stranger:
                stranger.sendall(says)
                with suppress(OSError):
                    stranger.shutdown(socket.SHUT_WR)
                    stranger.recv(1)  # until it is closed

    with ExitStack() as stack:
        with ThreadPoolExecutor(1) as pool:
            server = pool.submit(lambda: stack.enter_context(_rendezvous.meet(group)))
            disturb()
            others = [replace(group, node_rank=rank) for rank in (2, 1)]
            with ThreadPoolExecutor(2) as two:
                joined = list(two.map(lambda other: stack.enter_context(_rendezvous.meet(other)), others))
            first = server.result()
        assert first.addresses == joined[0].addresses == joined[1].addresses
        assert [place.split(":")[0] for place in first.addresses] == ["127.0.0.1"] * 3
        assert len(set(first.addresses)) == 3


def test_a_failure_is_told_to_the_others_and_an_end_that_went_well_is_none(group: Group) -> None:
    with ExitStack() as stack:
        first, second, third = meet(group, stack)
        third.tell(2, Exit(-9, {}))
        assert first.failures(5) == {2: Exit(-9, {})}
        first.tell(2, Exit(-9, {}))
        assert second.failures(5) == {2: Exit(-9, {})}
    with ExitStack() as stack:
        first, second = meet(replace(group, nodes=2), stack)
        second.tell(1, Exit(0, {}))
        assert (first.failures(5), first.peers) == ({}, {})


def went_away(peer: socket.socket) -> None:
    peer.shutdown(socket.SHUT_RDWR)


def says_something_else(peer: socket.socket) -> None:
    peer.sendall(json.dumps({"rank": "one", "code": None}).encode() + b"\n")


@pytest.mark.parametrize("how", [went_away, says_something_else])
def test_a_machine_that_went_away_has_failed(how: Callable[[socket.socket], None], group: Group) -> None:
    with ExitStack() as stack:
        first, second = meet(replace(group, nodes=2), stack)
        how(second.peers[0])
        assert first.failures(5) == {1: _rendezvous.LOST}
        said = str(_process_group.root_cause({1: _rendezvous.LOST}, 2))
        assert said == "training process 1 (of 2, from 0) failed: ConnectionError: its machine went away"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_machine_that_does_not_come_is_not_waited_for_for_ever(
    rank: int, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_process_group, "JOIN_SECONDS", 0.3)
    with pytest.raises(StageFailed, match="did not meet at 127"), _rendezvous.meet(replace(group, node_rank=rank)):
        pass


def test_one_machine_meets_nobody() -> None:
    with _rendezvous.meet(Group(devices=2)) as meeting:
        assert (meeting.addresses, meeting.failures(0)) == ((), {})
