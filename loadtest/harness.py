"""Helpers of the load tests: free ports, child processes, CPU time of a process tree.

All processes listen on loopback and run in a temporary folder that is removed at the end.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = {
    "nginx": "nginx-light",
    "haproxy": "haproxy",
    "wrk": "wrk",
    "h2load": "nghttp2-client",
    "taskset": "util-linux",
    "chrt": "util-linux",
}


def need(*tools):
    """Exits with the command that installs the missing tools, if there are any."""
    # Debian keeps nginx and HAProxy in /usr/sbin, which not every user has in PATH.
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = sorted({PACKAGES[tool] for tool in tools if not shutil.which(tool)})
    if missing:
        sys.exit("missing: apt-get install --no-install-recommends " + " ".join(missing))


def free_ports(count):
    """Ports on which nothing listens at the moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def binary(path, name="weighbridge"):
    """The path of a release binary: `path`, or else the binary that cargo builds."""
    path = pathlib.Path(
        path or pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / name
    )
    if not path.exists():
        sys.exit(f"{path} is missing: cargo build --release --locked")
    return path.resolve()


class Stage:
    """A temporary folder and the processes started in it; both end with the context."""

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="weighbridge-"))
        self.children = []
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        return self

    def __exit__(self, *_):
        for child in reversed(self.children):
            stop(child)
        shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, name, text):
        """Writes a file into the folder and returns its path."""
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def start(self, name, command, ports=()):
        """Starts a process with its output in NAME.log and waits until it listens."""
        log = open(self.folder / f"{name}.log", "wb")
        child = subprocess.Popen(
            [str(part) for part in command], stdout=log, stderr=log, cwd=self.folder
        )
        self.children.append(child)
        for port in ports:
            self.wait_for(name, child, port)
        return child

    def start_with_pipes(self, command):
        """Starts a process with text pipes as standard input and output."""
        child = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.children.append(child)
        return child

    def wait_for(self, name, child, port):
        """Waits until a port accepts connections; exits with the log if the process does not."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and child.poll() is None:
            time.sleep(0.05)
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                continue
            # Another process may have taken the port: it counts only while the child is alive.
            if child.poll() is None:
                return
        log = (self.folder / f"{name}.log").read_text(errors="replace")
        sys.exit(f"{name} does not listen on {port}:\n{log[-2000:]}")


def stop(child, sign=signal.SIGTERM):
    """Ends a child process; kills it if it has not ended after ten seconds."""
    if child.poll() is None:
        child.send_signal(sign)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
    return child.wait()


def tree(pid):
    """The ids of a process and its descendants."""
    pids = [pid]
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            pids += tree(int(child))
    return pids


def cpu_ns(pid):
    """CPU time of all threads of a process tree in nanoseconds."""
    stats = (
        stat for p in tree(pid) for stat in pathlib.Path(f"/proc/{p}/task").glob("*/schedstat")
    )
    return sum(int(stat.read_text().split()[0]) for stat in stats)


def fetch(url, timeout=5):
    """The response body of a GET."""
    with urllib.request.urlopen(url, timeout=timeout) as response:
        return response.read().decode()


def save(path, data):
    """Writes results as JSON if a path is given."""
    if path:
        pathlib.Path(path).write_text(json.dumps(data, indent=1) + "\n")
