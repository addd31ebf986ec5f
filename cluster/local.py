"""Several Ray nodes on this machine: to try a job on a cluster without having one.

    python cluster/local.py --nodes 3 -- python jobs/sweep.py RECIPE.yaml --storage /tmp/runs
    sudo python cluster/local.py --nodes 3 --namespaces -- ray job submit --working-dir . -- \
        python jobs/mine.py --storage /tmp/runs

Every node is a raylet of its own with its own loopback address (127.0.0.2 and on), or, with
``--namespaces``, a host of its own: a network namespace on a bridge that nothing else is connected
to. Joining needs a token that is made anew for each cluster. The command runs on the head node, and
its exit status is this program's; the cluster ends with it.
"""

import argparse
import contextlib
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

_START_SECONDS = 120.0
# A node that does not answer is given up after seconds, not half a minute.
_IMPATIENT = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "5",
}
_RAY = ("-m", "ray.scripts.scripts")


@dataclass
class Node:
    """One raylet, and on the head node the control store and the dashboard too."""

    name: str
    address: str
    process: subprocess.Popen[bytes]
    log: Path


class LocalCluster:
    """A head node and any number of others on this machine; a context manager.

    ``namespaces`` gives every node a network namespace of its own, which takes root on Linux.
    Raises RuntimeError when a node does not start, with its log.
    """

    def __init__(self, cpus: int = 1, *, namespaces: bool = False) -> None:
        self._cpus = cpus
        self._folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # sockets: a short path
        self._network = _Network(self._folder.name) if namespaces else None
        self._undo = contextlib.ExitStack()
        self._port, self._dashboard_port, self._client_port = _free(3)
        self.nodes: list[Node] = []
        (self._folder / "token").write_text(secrets.token_hex(32))
        (self._folder / "token").chmod(0o600)
        # Ray hands the path of its interpreter to a shell as it stands: this one has no spaces.
        (self._folder / "env").symlink_to(sys.prefix)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, self._folder, ignore_errors=True)
            if self._network:
                undo.enter_context(self._network)
            undo.callback(self._stop)
            self.start_node()
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    @property
    def environment(self) -> dict[str, str]:
        """What a command on the head node has in its environment."""
        own = os.environ | _IMPATIENT
        own |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self._folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{self._folder / 'env' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        }
        own.pop("RAY_ADDRESS", None)
        if self.nodes:
            own["RAY_ADDRESS"] = f"{self.head}:{self._port}"
            own["RAY_API_SERVER_ADDRESS"] = f"http://{self.head}:{self._dashboard_port}"
        if self._network:
            own["GLOO_SOCKET_IFNAME"] = own["NCCL_SOCKET_IFNAME"] = "eth0"
        else:
            own["GLOO_SOCKET_IFNAME"] = "lo"
        return own

    @property
    def head(self) -> str:
        """The address of the head node."""
        return self.nodes[0].address

    def start_node(self, *, hide: Path | None = None) -> Node:
        """Start one more node and wait until it has joined.

        ``hide`` is a folder that this node sees as an empty one of its own, as a node does that a
        share is not mounted on; takes root.
        """
        number = len(self.nodes)
        name = f"node{number}"
        address = self._network.add(name) if self._network else f"127.0.0.{number + 2}"
        role = (
            ["--head", f"--port={self._port}", f"--dashboard-host={address}",
             f"--dashboard-port={self._dashboard_port}",
             f"--ray-client-server-port={self._client_port}",
             f"--temp-dir={self._folder / 'ray'}"]
            if not self.nodes
            else [f"--address={self.head}:{self._port}"]
        )  # fmt: skip
        command = [*self._python, *_RAY, "start", "--block", f"--node-ip-address={address}",
                   f"--num-cpus={self._cpus}", "--num-gpus=0", *self._ports(), *role]  # fmt: skip
        if hide is not None:
            mount = f"mount -t tmpfs none {shlex.quote(str(hide))} && exec {shlex.join(command)}"
            command = ["unshare", "--mount", "sh", "-c", mount]
        log = self._folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self._on(name, command),
                env=self.environment,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        node = Node(name, address, process, log)
        self.nodes.append(node)
        self._await(node)
        return node

    def run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command on the head node, and wait for it."""
        own: dict[str, Any] = {"env": self.environment, "text": True, "check": False} | options
        return subprocess.run(self._on("node0", command), **own)

    def popen(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command on the head node."""
        own: dict[str, Any] = {"env": self.environment, "text": True} | options
        return subprocess.Popen(self._on("node0", command), **own)

    def kill(self, node: Node) -> None:
        """End all of a node at once, as when its machine loses power."""
        for pid in reversed(_family(node.process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.process.wait()

    def cut(self, node: Node) -> None:
        """Pull a node's network cable; takes namespaces."""
        assert self._network is not None
        self._network.cut(node.name)

    def restore(self, node: Node) -> None:
        """Plug it in again."""
        assert self._network is not None
        self._network.restore(node.name)

    @property
    def _python(self) -> list[str]:
        return [str(self._folder / "env" / "bin" / "python")]

    def _on(self, name: str, command: Sequence[str]) -> list[str]:
        return self._network.on(name, command) if self._network else list(command)

    def _ports(self) -> list[str]:
        """Ports that would be the same on every node of this machine."""
        names = ("node-manager-port", "object-manager-port", "dashboard-agent-listen-port",
                 "dashboard-agent-grpc-port", "runtime-env-agent-port",
                 "metrics-export-port")  # fmt: skip
        return [f"--{name}={port}" for name, port in zip(names, _free(len(names)), strict=True)]

    def _await(self, node: Node) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while "Ray runtime started" not in node.log.read_text():
            if node.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{node.name} did not start:\n{node.log.read_text()}")
            time.sleep(0.1)

    def _stop(self) -> None:
        for node in reversed(self.nodes):
            if node.process.poll() is None:
                self.kill(node)


class _Network:
    """Namespaces on one bridge, which lies in a namespace of its own; nothing leads outside."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._made: list[str] = []

    def __enter__(self) -> Self:
        self._make("switch")
        self._in("switch", "link", "add", "br0", "type", "bridge")
        self._in("switch", "link", "set", "br0", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._made:
            _ip("netns", "delete", name)

    def add(self, name: str) -> str:
        """Make a namespace and connect it; return its address."""
        number = len(self._made)
        self._make(name)
        switch = self._made[0]
        _ip("link", "add", "eth0", "netns", f"{self._prefix}-{name}", "type", "veth",
            "peer", "name", name, "netns", switch)  # fmt: skip
        self._in("switch", "link", "set", name, "master", "br0", "up")
        address = f"10.77.0.{number}"
        self._in(name, "address", "add", f"{address}/24", "dev", "eth0")
        self._in(name, "link", "set", "eth0", "up")
        return address

    def on(self, name: str, command: Sequence[str]) -> list[str]:
        """Return the command that runs another one in a namespace."""
        return ["ip", "netns", "exec", f"{self._prefix}-{name}", *command]

    def cut(self, name: str) -> None:
        self._in("switch", "link", "set", name, "down")

    def restore(self, name: str) -> None:
        self._in("switch", "link", "set", name, "up")

    def _make(self, name: str) -> None:
        _ip("netns", "add", f"{self._prefix}-{name}")
        self._made.append(f"{self._prefix}-{name}")
        self._in(name, "link", "set", "lo", "up")

    def _in(self, name: str, *command: str) -> None:
        _ip("-netns", f"{self._prefix}-{name}", *command)


def can_use_namespaces() -> bool:
    """Return whether this user may make network namespaces here."""
    name = f"probe-{os.getpid()}"
    try:
        _ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError):
        return False
    _ip("netns", "delete", name)
    return True


def _ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True, capture_output=True)


def _family(pid: int) -> list[int]:
    """Return a process and what it and its children started, parents first."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for children in Path(f"/proc/{parent}/task").glob("*/children"):
                found += map(int, children.read_text().split())
    return found


def _free(count: int) -> list[int]:
    ports = []
    with contextlib.ExitStack() as held:  # all at once, or one port could come twice
        for _ in range(count):
            probe = held.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    return ports


def main() -> int:
    """Start a cluster, run the command on it, and return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--nodes", type=int, default=2, help="how many, the head node among them")
    add("--cpus", type=int, default=1, help="of each node")
    add("--namespaces", action="store_true", help="a network namespace for each node (root)")
    add("command", nargs="+", help="what to run on the head node, after --")
    options = parser.parse_args()
    if options.namespaces and not can_use_namespaces():
        parser.error("--namespaces takes root on Linux, and the ip command")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the nodes end with this program
    with LocalCluster(options.cpus, namespaces=options.namespaces) as cluster:
        for _ in range(options.nodes - 1):
            cluster.start_node()
        addresses = ", ".join(node.address for node in cluster.nodes)
        print(f"{len(cluster.nodes)} nodes: {addresses}", file=sys.stderr)
        return cluster.run(*options.command).returncode


if __name__ == "__main__":
    raise SystemExit(main())
