"""The rendezvous of several machines: all learn the same addresses, and failures reach every machine."""

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
    monkeypatch.setattr(_process_group, "JOIN_SECONDS", 10)  # limits the wait when a test fails
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Group(nodes=3, address=f"127.0.0.1:{probe.getsockname()[1]}")


def meet(group: Group, stack: ExitStack) -> list[Rendezvous]:
    """The rendezvous of every machine of a group, by rank."""

    def enter(rank: int) -> Rendezvous:
        return stack.enter_context(_rendezvous.meet(replace(group, node_rank=rank)))

    with ThreadPoolExecutor(group.nodes) as pool:
        found: list[Future[Rendezvous]] = [pool.submit(enter, rank) for rank in range(group.nodes)]
    return [future.result() for future in found]


def connected(group: Group) -> socket.socket:
    """A connection to machine 0; waits until it listens."""
    host, port = _process_group.endpoint(group).split(":")
    while True:
        try:
            return socket.create_connection((host, int(port)), 5)
        except ConnectionRefusedError:
            threading.Event().wait(0.01)


def test_all_machines_learn_the_same_addresses_and_strangers_are_disconnected(group: Group) -> None:
    strangers = [b"GET / HTTP/1.1\r\n\r\n", b'{"rank": 7, "port": 1}\n', b'{"rank": "1"}\n', b"[]\n", b""]

    def disturb() -> None:
        for message in strangers:
            with connected(group) as stranger:
                stranger.sendall(message)
                with suppress(OSError):
                    stranger.shutdown(socket.SHUT_WR)
                    stranger.recv(1)  # returns when machine 0 closes the connection

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


def test_a_failure_reaches_the_other_machines_and_exit_code_0_is_no_failure(group: Group) -> None:
    with ExitStack() as stack:
        first, second, third = meet(group, stack)
        third.send(2, Exit(-9, {}))
        assert first.failures(5) == {2: Exit(-9, {})}
        first.send(2, Exit(-9, {}))
        assert second.failures(5) == {2: Exit(-9, {})}
    with ExitStack() as stack:
        first, second = meet(replace(group, nodes=2), stack)
        second.send(1, Exit(0, {}))
        assert (first.failures(5), first.peers) == ({}, {})


def disconnects(peer: socket.socket) -> None:
    peer.shutdown(socket.SHUT_RDWR)


def sends_nonsense(peer: socket.socket) -> None:
    peer.sendall(json.dumps({"rank": "one", "code": None}).encode() + b"\n")


@pytest.mark.parametrize("how", [disconnects, sends_nonsense])
def test_a_machine_that_disconnects_or_sends_nonsense_counts_as_failed(
    how: Callable[[socket.socket], None], group: Group
) -> None:
    with ExitStack() as stack:
        first, second = meet(replace(group, nodes=2), stack)
        how(second.peers[0])
        assert first.failures(5) == {1: _rendezvous.LOST}
        assert "process 1 (of 2, from 0) failed: ConnectionError" in str(
            _process_group.root_cause({1: _rendezvous.LOST}, 2)
        )


@pytest.mark.parametrize("rank", [0, 1])
def test_waiting_for_a_missing_machine_times_out(rank: int, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_process_group, "JOIN_SECONDS", 0.3)
    with pytest.raises(StageFailed, match=r"127\.0\.0\.1:\d+"), _rendezvous.meet(replace(group, node_rank=rank)):
        pass


def test_a_single_machine_has_no_peers() -> None:
    with _rendezvous.meet(Group(devices=2)) as rendezvous:
        assert (rendezvous.addresses, rendezvous.failures(0)) == ((), {})
