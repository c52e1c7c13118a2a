"""The page that a browser measures with: what is served, and what is taken in.

Only what is in a table made at the start is served. On an address that others reach, a request without the token gets
404, whatever it asks for. All that can be written is rows of the lab's file.
"""
import errno
import hmac
import ipaddress
import os
import secrets
import socket
import sqlite3
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmone.errors import InputError
from mmone.version import __version__

from . import ort_web, protocol
from .results import read_results
from .served import Served, by_name
from .store import Measurement, Store

PAGE = Path(__file__).parent / 'page'
# By suffix, not by the system's table: a script of another type is not executed.
TYPES = {'.html': 'text/html', '.css': 'text/css', '.js': 'text/javascript', '.mjs': 'text/javascript',
         '.svg': 'image/svg+xml', '.wasm': 'application/wasm', '.onnx': 'application/octet-stream'}
HEADERS = {
    # With the opener's policy below: what isolates a page, so that it may have threads and a precise clock.
    'cross-origin-embedder-policy': 'require-corp', 'cross-origin-resource-policy': 'same-origin',
    'content-security-policy': "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
                               "connect-src 'self'; style-src 'self'; img-src 'self' blob:; base-uri 'none'; "
                               "form-action 'none'; frame-ancestors 'none'",
    'x-content-type-options': 'nosniff', 'referrer-policy': 'no-referrer',  # the address has the token in it
}
MOST_BYTES, MOST_SECONDS = 1 << 16, 10.0  # of a request's body
POSTS_A_MINUTE, MOST_MACHINES = 30, 100
OPENER = {'cross-origin-opener-policy': 'same-origin'}  # which browsers complain of at an address that is not secure
LOOPBACK = ('localhost', '127.0.0.1', '::1')
_KEEP = 'private, max-age=31536000, immutable'  # of what has its version or its content in its address


def make_app(models: Sequence[Served], out: str | Path, token: str | None = None, hosts: Sequence[str] = (),
             say: Callable[[str], None] = lambda line: None) -> ASGIApp:
    """The application.

    Args:
        models (Sequence[Served]): What the page offers.
        out (str | Path): The lab's file.
        token (str, optional): Without which, as the first part of an address, nothing is served.
        hosts (Sequence[str]): The names by which it may be asked, where there is no token: another site's page that
            has its name resolved to this machine is kept out by it. Defaults to any.
        say (Callable): Is given a line for each measurement that is kept.
    """
    table, told = _table(models)
    desk = _Desk(models, out, say)

    async def send_file(request: Request) -> Response:
        entry = table.get(request.path_params['path'] or 'index.html')
        if entry is None or not entry[0].is_file():
            raise HTTPException(404)
        path, caching = entry
        return FileResponse(path, media_type=TYPES[path.suffix], headers={'cache-control': caching})

    async def send_list(request: Request) -> Response:
        return JSONResponse(told, headers={'cache-control': 'no-store'})

    return _Door(Starlette(routes=[
        Route('/lab.json', send_list), Route('/results', desk.take, methods=['POST']), Route('/{path:path}', send_file),
    ]), token, hosts)


def _table(models: Sequence[Served]) -> tuple[dict[str, tuple[Path, str]], dict]:
    """Address → file and how long it may be kept, for all that is served; and the list of models for the page."""
    table = {path.name: (path, 'no-cache') for path in PAGE.iterdir() if path.suffix in TYPES}
    runtime = f'ort-{ort_web.VERSION}/'
    table.update({runtime + name: (ort_web.runtime_folder() / name, _KEEP) for name in ort_web.FILES})
    entries = [served.told() for served in by_name(models).values()]
    table.update({entry['address']: (served.path, _KEEP) for entry, served in zip(entries, models)})
    return table, dict(runtime=runtime, version=ort_web.VERSION, mmone=__version__, constants=_constants(),
                       models=entries)


def _constants() -> dict[str, float]:
    """The protocol's, by which the page measures as the lab does."""
    names = ('RUNS', 'ROUNDS', 'WINDOW', 'STABLE', 'WARM_UP_SECONDS', 'DEVIATIONS', 'CLOCK', 'SPREAD', 'OUTLIERS',
             'ATTEMPTS', 'REST')
    return {name.lower(): getattr(protocol, name) for name in names}


class _Door:
    """Lets in whoever has the token, or asks by the right name, and puts the headers on whatever comes out."""

    def __init__(self, app: ASGIApp, token: str | None, hosts: Sequence[str]):
        self._app, self._token, self._hosts = app, token, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            return await self._app(scope, receive, send)
        host = _host_of(scope)
        secure = scope['scheme'] == 'https' or host in LOOPBACK

        async def send_with_headers(message: Message) -> None:
            if message['type'] == 'http.response.start':
                MutableHeaders(scope=message).update(HEADERS | (OPENER if secure else {}))
            await send(message)

        if self._token is not None:
            given = scope['path'].split('/')[1] if '/' in scope['path'] else ''
            inside = hmac.compare_digest(given.encode(), self._token.encode())
            scope = dict(scope, root_path=f'/{self._token}')
        else:
            inside = not self._hosts or host in self._hosts
        await (self._app if inside else PlainTextResponse('Not Found', 404))(scope, receive, send_with_headers)


def _host_of(scope: Scope) -> str | None:
    given = dict(scope['headers']).get(b'host', b'').decode('latin-1')
    try:
        return urlsplit(f'//{given}').hostname
    except ValueError:
        return None


class _Desk:
    """Where measurements come in."""

    def __init__(self, models: Sequence[Served], out: str | Path, say: Callable[[str], None]):
        self._models, self._out, self._say = by_name(models), out, say
        self._machines: set[str] = set()
        self._allowance, self._asked = float(POSTS_A_MINUTE), time.monotonic()

    async def take(self, request: Request) -> Response:
        self._count()
        if request.headers.get('content-type', '').partition(';')[0].strip() != 'application/json':
            raise HTTPException(415, 'expected application/json')  # which no page of another site may send unasked
        body = await _read(request)
        try:
            rows = read_results(body, self._models)
        except InputError as error:
            raise HTTPException(400, error.message) from None
        self._machines.add(rows[0].machine.key)
        if len(self._machines) > MOST_MACHINES:
            self._machines.discard(rows[0].machine.key)
            raise HTTPException(429, f'there are measurements of {MOST_MACHINES} machines: start the server again')
        await run_in_threadpool(self._keep, rows)
        return JSONResponse(dict(kept=len(rows)))

    def _count(self) -> None:
        """Refuse a request that comes too soon after others."""
        now = time.monotonic()
        self._allowance = min(POSTS_A_MINUTE, self._allowance + (now - self._asked) * POSTS_A_MINUTE / 60)
        self._asked = now
        if self._allowance < 1:
            raise HTTPException(429, 'too many requests: wait a minute', headers={'retry-after': '60'})
        self._allowance -= 1

    def _keep(self, rows: Sequence[Measurement]) -> None:
        try:
            with Store(self._out) as store:
                for row in rows:
                    store.add(row)
                    self._say(_line(row))
        except (InputError, sqlite3.Error) as error:
            self._say(f'measurements were lost: {error}')
            raise HTTPException(507, 'the lab\'s file cannot be written: see the terminal') from None


def _line(row: Measurement) -> str:
    setting = row.setting
    threads = f', {setting.threads} thread{"s" * (setting.threads > 1)}' if setting.threads else ''
    return (f'{row.machine.name}: {row.model.name} {row.latency.median:.1f} ms ({setting.device}{threads})'
            + ('' if row.latency.steady else ', unsteady'))


async def _read(request: Request) -> bytes:
    """The body of a request, up to :data:`MOST_BYTES` and for :data:`MOST_SECONDS`."""
    stated = request.headers.get('content-length', '')
    if stated.isdecimal() and int(stated[:20]) > MOST_BYTES:
        raise HTTPException(413, f'expected at most {MOST_BYTES} bytes')
    body = bytearray()
    try:
        with anyio.fail_after(MOST_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise HTTPException(413, f'expected at most {MOST_BYTES} bytes')
    except (TimeoutError, ClientDisconnect):
        raise HTTPException(408, 'the body did not come') from None
    return bytes(body)


# Listening


class Server:
    """Takes its port when it is made, so that all that can go wrong has gone wrong before models are made ready.

    Args:
        out (str | Path): The lab's file.
        host (str): Name or address to listen on; any but this machine's own loopback gets a token.
        port (int): 0 for any that is free.
        certificate (Sequence[str | Path], optional): Files in PEM format, of the certificate with those that it is
            signed by, and of its private key.

    Attributes:
        address (str): What to open in a browser.
        token (str, optional): In the address, where others reach it.

    Raises:
        InputError: If onnxruntime-web was not fetched, the lab's file or the certificate cannot be used, or the port
            cannot be had.
    """

    def __init__(self, out: str | Path, host: str = '127.0.0.1', port: int = 0,
                 certificate: Sequence[str | Path] | None = None):
        if not ort_web.is_set_up():
            raise InputError(f'onnxruntime-web {ort_web.VERSION}, which computes in the browser, was not fetched yet',
                             parameter='set_up')
        Store(out).close()
        self._out, self._secured = out, _secured(certificate)
        self._socket = _bind(host, port)
        ip, port = self._socket.getsockname()[:2]
        loopback = ipaddress.ip_address(ip).is_loopback
        self.token = None if loopback else secrets.token_urlsafe(16)
        self._hosts = (*LOOPBACK, ip, host.lower()) if loopback else ()
        shown = _shown(host, ip)
        self.address = (f'http{"s" if certificate else ""}://{f"[{shown}]" if ":" in shown else shown}:{port}/'
                        + (f'{self.token}/' if self.token else ''))

    def run(self, models: Sequence[Served], say: Callable[[str], None] = lambda line: None) -> None:
        """Serve until it is interrupted; ``say`` is given a line for each measurement that is kept."""
        app = make_app(models, self._out, self.token, self._hosts, say)
        uvicorn.Server(uvicorn.Config(app, log_level='error', lifespan='off', ws='none', server_header=False,
                                      limit_concurrency=100, **self._secured)).run([self._socket])


def _bind(host: str, port: int) -> socket.socket:
    if not 0 <= port < 1 << 16:
        raise InputError(f'port {port}: expected 0 to 65535', parameter='port')
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise InputError(f'no address is known for {host!r}', parameter='host') from None
    try:
        return socket.create_server(place[:2], family=family)
    except OSError as error:
        wrong = 'host' if error.errno == errno.EADDRNOTAVAIL else 'port'
        raise InputError(f'cannot listen on port {port} of {host}: {os.strerror(error.errno or 0).lower()}',
                         parameter=wrong) from None


def _secured(certificate: Sequence[str | Path] | None) -> dict[str, Any]:
    """uvicorn's settings for a certificate.

    Raises:
        InputError: If it cannot be used.
    """
    if not certificate:
        return {}
    chain, key = map(str, certificate)
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(chain, key, password=lambda: '')
    except (OSError, ValueError) as error:  # ssl's errors are OSErrors
        reason = str(getattr(error, 'strerror', None) or error).lower()
        raise InputError(f'the certificate {chain} with the key {key} cannot be used: {reason}',
                         parameter='certificate') from None
    return dict(ssl_certfile=chain, ssl_keyfile=key)


def _shown(host: str, ip: str) -> str:
    """The host that is typed into a browser: of all addresses of this machine, the one that its network knows."""
    if not ipaddress.ip_address(ip).is_unspecified:
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(('192.0.2.1', 9))  # no packet is sent; the system picks the interface that leads outside
            return sock.getsockname()[0]
        except OSError:
            return socket.gethostname()
