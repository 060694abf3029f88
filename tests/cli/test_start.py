"""`start` with a real JupyterLab: the printed address works, and Ctrl-C leaves nothing behind."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
import webbrowser
from pathlib import Path

import psutil
import pytest

from blackbelt.cli import _server, start
from blackbelt.dojo.catalog import lessons
from blackbelt.dojo.progress import open_progress
from blackbelt.dojo.workspace import lesson_path

HALF_A_MINUTE = 30


def read_url(process: subprocess.Popen[str]) -> urllib.parse.SplitResult:
    for line in process.stdout:
        if line.strip().startswith("http"):
            return urllib.parse.urlsplit(line.strip())
    raise AssertionError(process.stderr.read())


def ask(url: urllib.parse.SplitResult, path: str, body: dict[str, str] | None = None, token: str | None = None):
    """Ask the server as a browser with the token would."""
    known = urllib.parse.parse_qs(url.query)["token"][0] if token is None else token
    request = urllib.request.Request(
        f"http://{url.netloc}/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"token {known}"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=HALF_A_MINUTE) as answer:
        return json.load(answer)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda sent: sent.name)
def test_the_address_opens_the_lesson_and_a_signal_ends_everything(launch, sent):
    process = launch("start", "folds", "--no-browser")
    url = read_url(process)
    assert url.hostname in ("localhost", "127.0.0.1")
    assert url.path == "/lab/tree/1_paper/2_folds.ipynb"
    notebook = ask(url, "api/contents/1_paper/2_folds.ipynb")
    assert any(cell["source"] == "1 + 1" for cell in notebook["content"]["cells"])
    with pytest.raises(urllib.error.HTTPError, match="403"):
        ask(url, "api/contents", token="wrong")  # JupyterLab's own protection is on

    if sent is signal.SIGINT:
        ask(url, "api/kernels", body={"name": "python3"})  # a kernel has a session of its own: it must end too
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= (2 if sent is signal.SIGINT else 1)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=HALF_A_MINUTE)
    assert (process.returncode, errors) == (130, "Stopped.\n")
    assert [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
    from jupyter_core.paths import jupyter_runtime_dir

    assert not [path for one in family for path in Path(jupyter_runtime_dir()).glob(f"jpserver-{one.pid}*")]


def test_a_port_in_use_is_said(invoke):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = invoke("start", "1.2", "--no-browser", "--port", str(port))
    assert done.exit_code == 3
    assert done.stderr == (
        f"error: port {port} cannot be used (Address already in use); expected a free one; try another, "
        "or leave out --port\n"
    )


@pytest.mark.parametrize("port", ["0", "65536", "eighty"])
def test_a_port_that_is_none_is_said(invoke, port):
    done = invoke("start", "--port", port)
    assert done.exit_code == 2
    assert "--port" in done.stderr


def test_a_server_that_does_not_start_says_why(invoke, monkeypatch):
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "")
    command = ["-c", "import sys; print('starting'); sys.exit('no room for a server')"]
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda given, **options: real([given[0], *command], **options))
    done = invoke("start", "1.2", "--no-browser")
    assert done.exit_code == 3
    assert done.stderr.startswith("error: JupyterLab ended at once, with exit code 1: no room for a server; `python")
    assert "-m jupyterlab` shows all that it says" in done.stderr


def test_without_jupyterlab_it_says_how_to_get_it(invoke, monkeypatch):
    monkeypatch.setattr(start.importlib.util, "find_spec", lambda _: None)
    done = invoke("start")
    assert done.exit_code == 3
    assert "JupyterLab is not installed" in done.stderr and "try `uv pip install jupyterlab`" in done.stderr


def test_a_lesson_that_is_none(invoke):
    done = invoke("start", "fols")
    assert done.exit_code == 2
    assert "did you mean `folds`" in done.stderr


class FakeServer:
    """A server that has ended already."""

    def url_of(self, path):
        return _server.Server(None, {"url": "http://localhost:1/", "token": "secret"}).url_of(path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def wait(self):
        return None


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    addresses: list[str] = []
    monkeypatch.setattr(start, "jupyterlab", lambda *_: FakeServer())
    monkeypatch.setattr(webbrowser, "open", addresses.append)
    return addresses


def test_a_browser_opens_where_there_is_one(invoke, opened, monkeypatch):
    monkeypatch.setattr(start, "_has_browser", lambda: True)
    address = "http://localhost:1/lab/tree/1_paper/1_sheets.ipynb?token=secret"
    assert f"\n  {address}\n" in invoke("start", "sheets").stdout
    assert opened == [address]
    invoke("start", "sheets", "--no-browser")
    monkeypatch.setattr(start, "_has_browser", lambda: False)
    assert f"\n  {address}\n" in invoke("start", "sheets").stdout
    assert opened == [address]


@pytest.mark.parametrize(("solved", "name"), [([], "folds"), (["can_fold", "unfold"], "planks")])
def test_without_a_name_the_next_lesson_opens(invoke, opened, solved, name):
    assert opened == []
    with open_progress() as progress:
        for kata in solved:
            progress.record_attempt(kata, True, "")
    entry = next(entry for entry in lessons() if entry.name == name)
    assert f"Lesson {entry.number} {entry.title}: {lesson_path(entry)}" in invoke("start").stdout


def test_what_the_copy_has_to_tell_is_told(invoke, opened):
    assert opened == []
    entry = lessons()[0]
    lesson_path(entry).parent.mkdir(parents=True)
    lesson_path(entry).write_text("not a notebook", encoding="utf-8")
    done = invoke("start", "sheets")
    assert done.exit_code == 0
    assert "1_sheets.ipynb is not a notebook that can be read. It is kept as " in done.stderr


def test_a_window_needs_a_display(monkeypatch):
    monkeypatch.setattr(start.platform, "system", lambda: "Linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    assert not start._has_browser()
    monkeypatch.setenv("DISPLAY", ":0")
    assert start._has_browser()


def test_names_with_spaces_and_a_server_without_a_token():
    server = _server.Server(None, {"url": "http://localhost:1/", "token": ""})
    assert server.url_of("a b/c?.ipynb") == "http://localhost:1/lab/tree/a%20b/c%3F.ipynb"


def test_the_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), _server._stoppable():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
