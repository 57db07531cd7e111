"""Folders served to a browser on this machine, while a test runs."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path


@contextlib.contextmanager
def served(folders: Mapping[str, Path]) -> Iterator[str]:
    """Serve folders on a free port of 127.0.0.1; gives the address, without a slash at its end.

    Args:
        folders: First part of the path ("" for all others) -> folder.
    """

    class Handler(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            first, _, rest = path.partition("?")[0].lstrip("/").partition("/")
            folder, rest = (folders[first], rest) if first in folders else (folders[""], f"{first}/{rest}".rstrip("/"))
            return str(folder / rest)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
