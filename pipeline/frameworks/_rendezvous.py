"""Where the launchers of several machines meet: each learns the others' addresses, and at once when one has failed.

For a framework that brings no launcher of its own. Machine 0 listens; a line of JSON each way joins, and what comes on
a connection afterwards is how a machine's process ended.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.frameworks import Group, _process_group
from pipeline.frameworks._process_group import Exit

LINE = 1 << 16
"""Bytes that a line may have."""

READ_SECONDS = 10
"""How long whoever connects may take to say its line."""

LOST = Exit(1, {
    "kind": "ConnectionError", "message": {"message": "its machine went away", "extraInfo": {"py_callstack": ""}}
})  # fmt: skip
"""How the process of a machine ended that cannot be asked any more."""


@dataclass
class Rendezvous:
    """The machines of a training, met.

    Attributes:
        addresses: "host:port" of every machine's process, by rank; empty where nobody had to be met.
        peers: a connection to each machine by its rank: machine 0 has all others', another that to machine 0.
    """

    addresses: tuple[str, ...] = ()
    peers: dict[int, socket.socket] = field(default_factory=dict)

    def tell(self, rank: int, end: Exit) -> None:
        """Tells the others how this machine's process ended, or what another has told."""
        line = json.dumps({"rank": rank, "code": end.code, "said": dict(end.said)}).encode() + b"\n"
        for peer in self.peers.values():
            with contextlib.suppress(OSError):  # it has ended too
                peer.sendall(line)

    def failures(self, seconds: float) -> dict[int, Exit]:
        """How processes of other machines failed, by rank; nothing after so many seconds without."""
        if not self.peers:
            time.sleep(seconds)
            return {}
        found = {}
        for connection in select.select(list(self.peers.values()), [], [], seconds)[0]:
            peer = next(rank for rank, known in self.peers.items() if known is connection)
            said = _read_line(connection)
            if said is None or not isinstance(said.get("rank"), int) or not isinstance(said.get("code"), int):
                found[peer] = LOST
            elif said["code"] != 0:
                found[said["rank"]] = Exit(said["code"], dict(said.get("said", {})))
            del self.peers[peer]
            connection.close()
        return found


@contextlib.contextmanager
def meet(group: Group) -> Iterator[Rendezvous]:
    """The machines of a group, once all are there.

    Raises:
        StageFailed: one has not come.
    """
    if not group.address:
        yield Rendezvous()
        return
    with contextlib.ExitStack() as stack:
        until = time.monotonic() + _process_group.JOIN_SECONDS
        host, _, port = _process_group.endpoint(group).partition(":")
        try:
            if group.node_rank == 0:
                meeting = _host(group, host, int(port), until, stack)
            else:
                meeting = _join(group, (host, int(port)), until, stack)
        except TimeoutError as error:
            raise _process_group.rendezvous_failed(group) from error
        yield meeting


def _host(group: Group, host: str, port: int, until: float, stack: contextlib.ExitStack) -> Rendezvous:
    """Machine 0's: listens until all are there, and tells them."""
    places, peers = {0: f"{host}:{_free_port()}"}, {}
    server = stack.enter_context(socket.create_server(("", port)))
    while len(places) < group.nodes:
        server.settimeout(max(0.01, until - time.monotonic()))
        connection, (address, *_) = server.accept()
        stack.callback(connection.close)
        said = _read_line(connection) or {}
        rank, theirs = said.get("rank"), said.get("port")
        if not isinstance(rank, int) or not 0 < rank < group.nodes or rank in peers or not isinstance(theirs, int):
            connection.close()  # not one of ours
            continue
        places[rank], peers[rank] = f"{address}:{theirs}", connection
    addresses = tuple(places[rank] for rank in range(group.nodes))
    for connection in peers.values():
        connection.sendall(json.dumps({"addresses": addresses}).encode() + b"\n")
    return Rendezvous(addresses, peers)


def _join(group: Group, endpoint: tuple[str, int], until: float, stack: contextlib.ExitStack) -> Rendezvous:
    """Another machine's: says where its process will be, and learns where the others are."""
    while True:
        try:
            connection = stack.enter_context(socket.create_connection(endpoint, READ_SECONDS))
            break
        except OSError:  # machine 0 is not there yet
            if time.monotonic() > until:
                raise TimeoutError from None
            time.sleep(0.2)
    connection.sendall(json.dumps({"rank": group.node_rank, "port": _free_port()}).encode() + b"\n")
    said = _read_line(connection, max(0.01, until - time.monotonic()))
    if said is None:
        raise TimeoutError
    return Rendezvous(tuple(map(str, said["addresses"])), {0: connection})


def _read_line(connection: socket.socket, seconds: float = READ_SECONDS) -> dict[str, Any] | None:
    """The next line; None where the other end went away, is silent, or says what is no object."""
    connection.settimeout(seconds)
    line = b""
    with contextlib.suppress(OSError, ValueError):
        while not line.endswith(b"\n") and len(line) < LINE:
            byte = connection.recv(1)  # not more: what follows is the next line
            if not byte:
                return None
            line += byte
        said = json.loads(line)
        if isinstance(said, dict):
            return said
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
