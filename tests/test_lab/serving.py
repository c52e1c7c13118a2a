"""The lab's server in a thread of the test's process."""
import http.client
import socket
import threading
from contextlib import contextmanager

import uvicorn


@contextmanager
def serving(app, **settings):
    """Serve an app on a free port of this machine's loopback, or of ``host``; yields the port."""
    with socket.create_server((settings.pop('host', '127.0.0.1'), 0)) as sock:
        server = uvicorn.Server(uvicorn.Config(app, log_level='error', lifespan='off', ws='none', **settings))
        thread = threading.Thread(target=server.run, args=([sock], ))
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def running(app):
    """Serve an app; yields what sends it a request: (method, path, body, headers) → (status, headers, body)."""
    with serving(app) as port:

        def ask(method, path, body=None, headers={}):
            connection = http.client.HTTPConnection('127.0.0.1', port, timeout=20)
            try:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                return response.status, response.headers, response.read()
            finally:
                connection.close()

        yield ask
