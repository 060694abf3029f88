"""JupyterLab as a child of this process: started, found, and ended with everything it started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

STARTUP_SECONDS = 120.0
GRACE_SECONDS = 0.3  # what a server has to end by itself before it is killed; Ctrl-C must be done within a second


class ServerError(OSError):
    """JupyterLab does not start here."""

    exit_code = 3


@dataclass(frozen=True)
class Server:
    """A running JupyterLab. ``info`` is what it wrote about itself: address, port, token."""

    process: subprocess.Popen[bytes]
    info: dict[str, Any]

    def url_of(self, path: str) -> str:
        """Return the address that opens a file, given as a path under the server's folder, with the token."""
        token = f"?token={self.info['token']}" if self.info["token"] else ""
        return f"{self.info['url']}lab/tree/{quote(path)}{token}"

    def wait(self) -> None:
        """Wait until the server ends by itself, as it does after File, Shut Down."""
        while self.process.poll() is None:
            time.sleep(0.1)  # Popen.wait would keep Ctrl-C waiting on Windows


@contextlib.contextmanager
def jupyterlab(folder: Path, port: int | None) -> Iterator[Server]:
    """Start JupyterLab on ``folder`` and wait until it answers; on the way out, end it and all that it started.

    It keeps its defaults: a token, and this machine only. Raises :class:`ServerError`.
    """
    _refuse_taken(port)
    with tempfile.TemporaryDirectory(prefix="blackbelt-") as scratch, _stoppable():
        log = Path(scratch, "jupyterlab.log")
        process = _launch(folder, port, log)
        try:
            yield Server(process, _wait_until_ready(process, log))
        finally:
            _end(process)


def _launch(folder: Path, port: int | None, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--ServerApp.root_dir={folder}"]
    if port is not None:
        command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # in a container there is nobody else
    environment = {
        **os.environ,
        "JUPYTER_PREFER_ENV_PATH": "1",
    }  # the kernel of this environment, not a user's of that name
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # A group of its own: a Ctrl-C in the terminal reaches us alone, and the server does not ask "Shut down?".
            start_new_session=os.name != "nt",
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )


def _refuse_taken(port: int | None) -> None:
    if port is None:
        return
    with socket.socket() as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: a port just left is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServerError(
                f"port {port} cannot be used ({error.strerror}); expected a free one; try another, or leave out --port"
            ) from None


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerError(_why(f"JupyterLab ended at once, with exit code {process.returncode}", log))
        info = _read_info(process)
        if info is not None and _answers(info):
            return info
        time.sleep(0.05)
    raise ServerError(_why(f"JupyterLab did not answer within {STARTUP_SECONDS:.0f} s", log))


def _read_info(process: subprocess.Popen[bytes]) -> dict[str, Any] | None:
    """What the server wrote about itself. On Windows it is a child of the process we started, which is a launcher."""
    for path in _info_files(process):
        with contextlib.suppress(OSError, ValueError):  # not there yet, or half written
            info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return info
    return None


def _info_files(process: subprocess.Popen[bytes]) -> list[Path]:
    from jupyter_core.paths import jupyter_runtime_dir

    return [Path(jupyter_runtime_dir(), f"jpserver-{one.pid}.json") for one in _family(process)]


def _answers(info: dict[str, Any]) -> bool:
    try:
        with socket.create_connection((info["hostname"], info["port"]), timeout=1):
            return True
    except OSError:
        return False


def _why(what: str, log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    last = f": {lines[-1].strip()}" if lines else ""
    return f"{what}{last}; `{Path(sys.executable).name} -m jupyterlab` shows all that it says"


def _family(process: subprocess.Popen[bytes]) -> list[Any]:
    """The server and all that it started: kernels, terminals, and what these started."""
    import psutil

    try:
        server = psutil.Process(process.pid)
        return [server, *server.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and its family, and remove what a killed server leaves in Jupyter's runtime folder."""
    import psutil

    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave half of them behind
    try:
        family, files = _family(process), _info_files(process)
        process.terminate()
        _, alive = psutil.wait_procs(family, timeout=GRACE_SECONDS)
        for one in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(alive, timeout=GRACE_SECONDS)
        process.wait()
        for path in files:
            path.unlink(missing_ok=True)
            path.with_name(f"{path.stem}-open.html").unlink(missing_ok=True)
    finally:
        signal.signal(signal.SIGINT, handler)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Make Ctrl-C, a closed terminal and a polite kill end the block with KeyboardInterrupt, so that we can tidy up."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
