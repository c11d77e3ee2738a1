"""The live page: its numbers are the library's, it is small and asks no other host, and `mmdflow demo` serves or writes it."""

import http.client
import importlib
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import webbrowser
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from mmdflow._files import shipped_models
from mmdflow.cli import main
from mmdflow.cli.demo import MODEL_FILES, PAGE, serve

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
web_vectors = importlib.import_module("web_vectors")
sys.path.pop(0)

FILES = sorted(path for path in PAGE.rglob("*") if path.is_file())
MOST_BYTES = 3_000_000


def flattened(value, path=""):
    """Yield (path, leaf) of nested dicts and lists."""
    if isinstance(value, dict | list):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flattened(part, f"{path}/{name}")
    else:
        yield path, value


def test_shared_vectors_are_current():
    kept = dict(flattened(json.loads(web_vectors.PATH.read_text())))
    made = dict(flattened(web_vectors.vectors()))
    assert kept.keys() == made.keys(), "stale: run python tools/web_vectors.py"
    for path, value in made.items():
        expected = pytest.approx(value, rel=1e-8, abs=1e-8) if isinstance(value, float) else value
        assert kept[path] == expected, f"{path} is stale: run python tools/web_vectors.py"


def test_numbers_of_the_page_agree_with_the_library():
    """To 1e-5, in float64 and compiled: tests/web/numerics.test.mjs, which node runs."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the page's numbers are not tested")
    run = subprocess.run(
        [node, "--test", str(ROOT / "tests/web/numerics.test.mjs")], capture_output=True, text=True, timeout=300
    )
    failed = [line for line in run.stdout.splitlines() if re.match(r"\s*(not ok|error:)", line)]
    assert run.returncode == 0, "\n".join(failed) or run.stderr
    assert re.search(r"^# pass [1-9]", run.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("kernel", "field", "toy", "start"),
    [
        ("riesz", "mmd", "rings", "blob"),
        ("imq", "mmd", None, "square"),
        ("laplace", "mean-shift", "moons", "ring"),
        ("gaussian", "mmd", "eight-gaussians", "left"),
    ],
)
def test_program_of_the_page_runs(kernel, field, toy, start, tmp_path, monkeypatch):
    """What stands under "The same in Python" is a program of the library with the page's settings."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the page's programs are not tested")
    settings = {"kernel": kernel, "field": field, "width": 0.5, "step": 0.1, "momentum": 0.8, "noise": 0.2}
    run = {"toy": toy, "start": start, "count": 40, "steps": 3}
    module = (PAGE / "flow" / "python.js").as_uri()
    script = (
        f"import {{ pythonCode }} from {module!r}; console.log(pythonCode({json.dumps(settings)}, {json.dumps(run)}))"
    )
    code = subprocess.run(
        [node, "--input-type=module", "-e", script], capture_output=True, text=True, check=True
    ).stdout
    assert "step_size=0.1, momentum=0.8, num_steps=3, noise_injection=0.2" in code
    monkeypatch.chdir(tmp_path)
    (tmp_path / "target.csv").write_text("x,y\n0.1,0.2\n-0.3,0.5\n0.7,-0.9\n")
    names: dict[str, object] = {}
    exec(code, names)
    assert names["result"].particles.shape == (40, 2)
    assert names["target"].shape == ((40, 2) if toy else (3, 2))


def test_page_asks_no_other_host():
    for file in FILES:
        addresses = re.findall(r"(?:https?|wss?)://[^\s\"')]+", file.read_text())
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, f"{file.name}: {addresses}"
    assert "default-src 'self'" in (PAGE / "index.html").read_text()


def test_everything_that_the_page_names_is_there():
    html = (PAGE / "index.html").read_text()
    for name in re.findall(r"(?:src|href)=\"([^\"#]+)\"", html):
        assert (PAGE / name).is_file(), name
    ids = set(re.findall(r"\bid=\"([^\"]+)\"", html))
    for name in re.findall(r"\b(?:for|aria-controls|aria-labelledby)=\"([^\"]+)\"", html):
        assert name in ids, name
    for script in PAGE.rglob("*.js"):
        for name in re.findall(r"from \"(\.[^\"]+)\"|new URL\(\"(\.[^\"]+\.js)\"", script.read_text()):
            assert (script.parent / "".join(name)).is_file(), f"{script.name}: {name}"
        for name in re.findall(r"\$\(\"([^\"]+)\"\)", script.read_text()):
            assert name in ids, f"{script.name}: #{name}"


def test_written_page_is_small_and_whole(tmp_path, capsys):
    folder = tmp_path / "page"
    assert main(["demo", "-o", str(folder)]) == 0
    assert str(folder) in capsys.readouterr().out
    written = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    assert sum(path.stat().st_size for path in written.values()) < MOST_BYTES
    assert {path.relative_to(PAGE) for path in FILES} <= written.keys()
    for name in MODEL_FILES:
        assert written[Path("model") / name].read_bytes() == (shipped_models()["digits"] / name).read_bytes()
    assert main(["demo", "-o", str(folder)]) == 2
    assert "already in use" in capsys.readouterr().err
    assert main(["demo", "-o", str(folder), "--overwrite"]) == 0


@pytest.fixture
def server():
    with serve(0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server, path):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/main.js", "text/javascript; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
        ("/model/config.json", "application/json"),
    ],
)
def test_server_gives_the_page(server, path, kind):
    response, body = get(server, path)
    assert response.status == 200
    assert response.headers["Content-Type"] == kind
    assert len(body) == int(response.headers["Content-Length"]) > 0


@pytest.mark.parametrize("path", ["/flow/", "/model/", "/model/../../errors.py", "/../errors.py", "/%2e%2e/errors.py"])
def test_server_gives_nothing_else(server, path):
    assert get(server, path)[0].status == 404


def test_server_listens_on_the_loopback_alone(server):
    assert server.server_address[0] == "127.0.0.1"


def test_bad_ports_are_said(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["demo", "--no-browser", f"--port={port}"]) == 2
        assert f"port = {port}: is in use" in capsys.readouterr().err
    assert main(["demo", "--no-browser", "--port=70000"]) == 2
    assert "port = 70000: must be from 0 to 65535" in capsys.readouterr().err


def test_command_serves_opens_and_ends(monkeypatch, capsys):
    """The browser is opened at the address; Ctrl-C ends it well."""
    opened = []

    def interrupt(server):
        raise KeyboardInterrupt

    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url))
    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", interrupt)
    assert main(["demo"]) == 0
    out = capsys.readouterr().out
    assert opened[0].startswith("http://127.0.0.1:")
    assert opened[0] in out
    assert "open the address by hand" in out  # what stands in for the browser says that there is none
    assert main(["demo", "--no-browser"]) == 0
    assert len(opened) == 1
