"""The status endpoint over HTTP: who may ask for what.

Owns the check of the token. Anybody may ask the probes, which tell only the state. The page and the
metrics name namespaces. They are for requests from this machine, or with the token. `http_port`
owns the bounds.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Callable, Mapping
from pathlib import Path

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from ..messages import Text
from ..printable import printable
from .http_port import HttpSite

#: Bytes that are read of the token file.
TOKEN_LIMIT = 4096

_HEADERS = {
    b"server": b"redisproxy",
    b"cache-control": b"no-store",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}


class TokenError(ValueError):
    """The token file has no usable token. The text says why."""


def read_token(path: Path) -> bytes:
    """Returns the token in a file, without surrounding white space. Raises TokenError."""
    try:
        with path.open("rb") as file:
            token = file.read(TOKEN_LIMIT).strip()
    except OSError as error:
        raise TokenError(f"{path} cannot be read: {error.strerror}") from None
    if not token:
        raise TokenError(f"{path} is empty; it must have a token")
    return token


class TokenCheck:
    """Decides who may see names of namespaces. token_file: None allows only requests from this
    machine.
    """

    def __init__(self, token_file: Path | None) -> None:
        self._token_file = token_file

    def refusal(self, request: Request) -> tuple[int, str] | None:
        """Returns (status, text) if the request is refused, else None."""
        if self._token_file is None:
            if is_here(request.getHost()) and _names_this_machine(request.getRequestHostname()):
                return None
            return http.FORBIDDEN, "only requests to 127.0.0.1 are answered, unless --status-token-file is set"
        try:
            # The file is read each time, because a mounted secret changes under the same name.
            token = read_token(self._token_file)
        except TokenError as error:
            return http.SERVICE_UNAVAILABLE, f"the proxy has no token to compare with: {error}"
        if hmac.compare_digest(_given_token(request), token):
            return None
        return http.UNAUTHORIZED, "send the token, as a bearer token or as the password of any user"


def is_here(address: IAddress) -> bool:
    """Whether only this machine can connect to the address."""
    if isinstance(address, IPv4Address | IPv6Address):
        host = ipaddress.ip_address(address.host.partition("%")[0])
        # At a socket for both families, 127.0.0.1 is ::ffff:127.0.0.1. Before 3.13, Python does not
        # take that for loopback.
        mapped = host.ipv4_mapped if isinstance(host, ipaddress.IPv6Address) else None
        return (mapped or host).is_loopback
    return True  # a Unix socket, which has file permissions


def _names_this_machine(host: bytes) -> bool:
    """Whether a Host header names this machine.

    A page of another site can make a browser send requests here, but with that site's name.
    """
    name = host.decode("ascii", "replace").strip("[]").lower()
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name in ("", "localhost")


def _given_token(request: Request) -> bytes:
    scheme, _, value = (request.getHeader(b"authorization") or b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


#: Status, content type, and body. The body may come later.
_Content = tuple[int, str, bytes | Deferred[bytes]]


class _Answer(Resource):
    """One path. answer: called with the request."""

    def __init__(self, answer: Callable[[Request], _Content], token_check: TokenCheck | None = None) -> None:
        super().__init__()
        self._answer = answer
        self._token_check = token_check

    def getChild(self, path: bytes, request: Request) -> Resource:
        return _NOWHERE

    def render_GET(self, request: Request) -> bytes | int:
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        refusal = self._token_check and self._token_check.refusal(request)
        content: _Content
        if refusal:
            if refusal[0] == http.UNAUTHORIZED:
                request.responseHeaders.setRawHeaders(b"www-authenticate", [b"Bearer", b'Basic realm="redisproxy"'])
            content = refusal[0], _TEXT, f"{printable(refusal[1])}\n".encode()
        else:
            content = self._answer(request)
        status, content_type, text = content
        request.setResponseCode(status)
        request.setHeader(b"content-type", content_type.encode())
        if isinstance(text, bytes):
            return text
        _write_later(text, request)
        return NOT_DONE_YET


def _write_later(text: Deferred[bytes], request: Request) -> None:
    """Answers with a body when it is ready. If the client leaves before, the body is not
    finished.
    """
    departed = False

    def leave(_: Failure) -> None:
        nonlocal departed
        departed = True
        text.cancel()

    def finish(written: bytes) -> None:
        request.setHeader(b"content-length", b"%d" % len(written))
        if request.method != b"HEAD":
            request.write(written)
        request.finish()

    def failed(failure: Failure) -> None:
        if not departed:
            request.processingFailed(failure)

    request.notifyFinish().addErrback(leave)
    text.addCallbacks(finish, failed)


_TEXT, _HTML = "text/plain; charset=utf-8", "text/html; charset=utf-8"
_NOWHERE = _Answer(lambda _: (http.NOT_FOUND, _TEXT, b"there are /, /metrics, /livez, /readyz, /runbooks\n"))
_NOWHERE.isLeaf = True


class _Root(Resource):
    """Serves the page at / only. Any unknown path is a short 404."""

    def __init__(self, page: Resource) -> None:
        super().__init__()
        self._page = page

    def getChild(self, path: bytes, request: Request) -> Resource:
        return self._page if path == b"" and not request.postpath else _NOWHERE


def site(
    page: Callable[[], Deferred[bytes]],
    headers: dict[bytes, bytes],
    metrics: Callable[[str], tuple[str, Deferred[bytes]]],
    unready: Callable[[], Text | None],
    token_check: TokenCheck,
    runbooks: Mapping[str, bytes],
    runbooks_list: Callable[[], Deferred[bytes]],
    clock: IReactorTime,
) -> HttpSite:
    """Returns a factory for HTTP connections.

    page: makes the HTML of the status page.
    headers: further headers for it.
    metrics: returns (content type, text) for an Accept header.
    unready: returns why no client should connect; None if the proxy is ready.
    token_check: for the page, the metrics and the runbooks.
    runbooks: Markdown, by name.
    runbooks_list: makes the HTML of the list of runbooks.
    clock: for time limits.
    """

    def html(make: Callable[[], Deferred[bytes]]) -> Callable[[Request], _Content]:
        def show(request: Request) -> _Content:
            for name, value in headers.items():
                request.setHeader(name, value)
            return http.OK, _HTML, make()

        return show

    def readyz(_: Request) -> _Content:
        reason = unready()
        return http.SERVICE_UNAVAILABLE if reason else http.OK, _TEXT, f"{reason or 'ok'}\n".encode()

    def expose(request: Request) -> _Content:
        return http.OK, *metrics((request.getHeader(b"accept") or b"").decode("ascii", "replace"))

    def runbook(text: bytes) -> Callable[[Request], _Content]:
        return lambda _: (http.OK, _TEXT, text)

    root = _Root(_Answer(html(page), token_check))
    root.putChild(b"metrics", _Answer(expose, token_check))
    root.putChild(b"livez", _Answer(lambda _: (http.OK, _TEXT, b"ok\n")))
    root.putChild(b"readyz", _Answer(readyz))
    books = _Answer(html(runbooks_list), token_check)
    for name, text in runbooks.items():
        books.putChild(name.encode(), _Answer(runbook(text), token_check))
    root.putChild(b"runbooks", books)
    return HttpSite(root, clock, probes=(b"/livez", b"/readyz"))
