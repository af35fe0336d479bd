"""The rendezvous of several machines' launchers: each learns the others' addresses, and of a failure at once.

For frameworks without a launcher of their own. Machine 0 listens. A machine joins by sending one line of JSON and gets
one line back. The next line on a connection tells how a machine's process ended.
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

MAX_LINE_BYTES = 1 << 16

READ_SECONDS = 10
"""How long a peer may take to send its line."""

LOST = Exit(1, {
    "kind": "ConnectionError",
    "message": {"message": "lost the connection to its machine", "extraInfo": {"py_callstack": ""}},
})  # fmt: skip
"""Stands for the exit of a process whose machine no longer answers."""


@dataclass
class Rendezvous:
    """The connections between the machines of a training.

    Attributes:
        addresses: "host:port" of every machine's process, by rank; empty for a single machine.
        peers: connections by the peer's rank: machine 0 has one to every other machine, the others have one to it.
    """

    addresses: tuple[str, ...] = ()
    peers: dict[int, socket.socket] = field(default_factory=dict)

    def send(self, rank: int, exited: Exit) -> None:
        """Sends to all peers how the process of that rank ended; machine 0 also forwards what it received."""
        line = json.dumps({"rank": rank, "code": exited.code, "error": dict(exited.error)}).encode() + b"\n"
        for peer in self.peers.values():
            with contextlib.suppress(OSError):  # the peer has ended too
                peer.sendall(line)

    def failures(self, seconds: float) -> dict[int, Exit]:
        """Failures of other machines' processes by rank, waiting at most `seconds` for one."""
        if not self.peers:
            time.sleep(seconds)
            return {}
        found = {}
        for connection in select.select(list(self.peers.values()), [], [], seconds)[0]:
            peer = next(rank for rank, known in self.peers.items() if known is connection)
            message = _read_line(connection)
            if message is None or not isinstance(message.get("rank"), int) or not isinstance(message.get("code"), int):
                found[peer] = LOST
            elif message["code"] != 0:
                found[message["rank"]] = Exit(message["code"], dict(message.get("error", {})))
            del self.peers[peer]
            connection.close()
        return found


@contextlib.contextmanager
def meet(group: Group) -> Iterator[Rendezvous]:
    """Connects the machines of a group, and closes the connections at the end.

    Raises:
        StageFailed: a machine did not connect in time.
    """
    if not group.address:
        yield Rendezvous()
        return
    with contextlib.ExitStack() as stack:
        until = time.monotonic() + _process_group.JOIN_SECONDS
        host, _, port = _process_group.endpoint(group).partition(":")
        try:
            if group.node_rank == 0:
                rendezvous = _host(group, host, int(port), until, stack)
            else:
                rendezvous = _join(group, (host, int(port)), until, stack)
        except TimeoutError as error:
            raise _process_group.rendezvous_failed(group) from error
        yield rendezvous


def _host(group: Group, host: str, port: int, until: float, stack: contextlib.ExitStack) -> Rendezvous:
    """Machine 0: waits until all machines have connected, then sends each the addresses."""
    known, peers = {0: f"{host}:{_free_port()}"}, {}
    server = stack.enter_context(socket.create_server(("", port)))
    while len(known) < group.nodes:
        server.settimeout(max(0.01, until - time.monotonic()))
        connection, (address, *_) = server.accept()
        stack.callback(connection.close)
        request = _read_line(connection) or {}
        rank, their_port = request.get("rank"), request.get("port")
        if not isinstance(rank, int) or not 0 < rank < group.nodes or rank in peers or not isinstance(their_port, int):
            connection.close()  # not a machine of this group
            continue
        known[rank], peers[rank] = f"{address}:{their_port}", connection
    addresses = tuple(known[rank] for rank in range(group.nodes))
    for connection in peers.values():
        connection.sendall(json.dumps({"addresses": addresses}).encode() + b"\n")
    return Rendezvous(addresses, peers)


def _join(group: Group, endpoint: tuple[str, int], until: float, stack: contextlib.ExitStack) -> Rendezvous:
    """Any other machine: sends the port of its process to machine 0 and gets all addresses."""
    while True:
        try:
            connection = stack.enter_context(socket.create_connection(endpoint, READ_SECONDS))
            break
        except OSError:  # machine 0 does not listen yet
            if time.monotonic() > until:
                raise TimeoutError from None
            time.sleep(0.2)
    connection.sendall(json.dumps({"rank": group.node_rank, "port": _free_port()}).encode() + b"\n")
    reply = _read_line(connection, max(0.01, until - time.monotonic()))
    if reply is None:
        raise TimeoutError
    return Rendezvous(tuple(map(str, reply["addresses"])), {0: connection})


def _read_line(connection: socket.socket, seconds: float = READ_SECONDS) -> dict[str, Any] | None:
    """The next line as a JSON object; None if the peer closed the connection, timed out or sent anything else."""
    connection.settimeout(seconds)
    line = b""
    with contextlib.suppress(OSError, ValueError):
        while not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES:
            byte = connection.recv(1)  # one at a time, so as not to read into the next line
            if not byte:
                return None
            line += byte
        value = json.loads(line)
        if isinstance(value, dict):
            return value
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
