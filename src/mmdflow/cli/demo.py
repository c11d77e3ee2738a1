"""`demo`: the live page, served on this machine's loopback or written as a static folder."""

from __future__ import annotations

import errno
import shutil
import webbrowser
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mmdflow._files import new_folder, shipped_models
from mmdflow.cli._options import Parser

#: The page's files, and the model that it samples with the files that it reads of it.
PAGE = Path(__file__).parents[1] / "web"
MODEL = "digits"
MODEL_FILES = ("config.json", "model.safetensors", "target_means.safetensors")
_LOOPBACK = "127.0.0.1"


def demo_command(arguments: list[str]) -> None:
    """Serve the live page and open it, or write it."""
    parser = Parser(
        "demo", "Open the live page in a browser: particles flow, and the digits model samples. No network."
    )
    parser.add_argument("--port", type=int, default=0, help="of the loopback address; 0, the default, takes a free one")
    parser.add_argument("--no-browser", action="store_true", help="serve only; print the address")
    parser.add_argument(
        "-o", "--output", type=str, help="write the page as a static folder for any web host, and serve nothing"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that is there already")
    options = parser.parse(arguments)
    if options.output is not None:
        write_page(Path(options.output), overwrite=options.overwrite)
        print(f"written: {options.output}; it needs a web server, such as: python -m http.server -d {options.output}")
        return
    with serve(options.port) as server:
        url = f"http://{_LOOPBACK}:{server.server_port}/"
        print(f"live at  {url}  (Ctrl-C ends it)", flush=True)
        if not options.no_browser and not webbrowser.open(url):
            print("no browser was found: open the address by hand", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("\nended")


def serve(port: int) -> ThreadingHTTPServer:
    """Return a server of the page on the loopback, on a port or, for 0, a free one; close it after use.

    Raises:
        InputError: for a port that there is not, or that cannot be had.
    """
    from mmdflow.errors import InputError

    if not 0 <= port <= 65535:
        raise InputError(f"port = {port}: must be from 0 to 65535")
    try:
        return ThreadingHTTPServer((_LOOPBACK, port), partial(_Handler, directory=str(PAGE)))
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror or error})"
        raise InputError(f"port = {port}: {why}; give another, or leave --port out for a free one") from error


def write_page(folder: Path, *, overwrite: bool = False) -> None:
    """Write the page and its model as a static folder.

    Raises:
        InputError: if the folder is in use and `overwrite` is false, or cannot be written.
    """
    with new_folder(folder, overwrite=overwrite) as aside:
        shutil.copytree(PAGE, aside, dirs_exist_ok=True)
        (aside / "model").mkdir()
        for name in MODEL_FILES:
            shutil.copyfile(shipped_models()[MODEL] / name, aside / "model" / name)


class _Handler(SimpleHTTPRequestHandler):
    """Serves the page's folder, and under /model/ the files of the shipped model; says nothing."""

    protocol_version = "HTTP/1.1"
    #: Some systems' own tables call scripts text/plain, which browsers refuse to run.
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".svg": "image/svg+xml",
        ".json": "application/json",
    }

    def translate_path(self, path: str) -> str:
        """Return the file behind a path; the parent class keeps it inside its folder."""
        name = path.partition("?")[0].removeprefix("/model/")
        if path.startswith("/model/") and name in MODEL_FILES:
            return str(shipped_models()[MODEL] / name)
        return super().translate_path(path)

    def list_directory(self, path: Any) -> None:
        """Refuse to list folders."""
        self.send_error(404)

    def end_headers(self) -> None:
        """Let the browser ask again each time: the package may have changed."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the terminal quiet."""
