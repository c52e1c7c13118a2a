"""Fetching what computes in a browser, from a registry of the test's own."""
import base64
import hashlib
import io
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mmone.errors import InputError
from mmone.lab import ort_web
from tests.kit import command, free_port


class Registry(ThreadingHTTPServer):

    def handle_error(self, *args):  # of a client that has seen enough
        pass


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry with an archive of small files, which is pinned; yields the archive's path and the requests made."""
    folder = tmp_path / 'registry' / 'onnxruntime-web' / '-'
    folder.mkdir(parents=True)
    archive = folder / f'onnxruntime-web-{ort_web.VERSION}.tgz'
    with tarfile.open(archive, 'w:gz') as tar:
        for name in (*(f'package/dist/{name}' for name in ort_web.FILES), 'package/dist/ort.js', '../../outside'):
            content = name.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    content = archive.read_bytes()
    monkeypatch.setattr(ort_web, 'SIZE', len(content))
    monkeypatch.setattr(ort_web, 'INTEGRITY', 'sha512-' + base64.b64encode(hashlib.sha512(content).digest()).decode())
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    requests = []

    class Handler(SimpleHTTPRequestHandler):

        def log_message(self, *args):
            requests.append(self.path)

    with Registry(('127.0.0.1', 0), partial(Handler, directory=tmp_path / 'registry')) as server:
        monkeypatch.setenv('npm_config_registry', f'http://127.0.0.1:{server.server_port}/')
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield archive, requests
        server.shutdown()
        thread.join()


def left(tmp_path):
    return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*')
                  if path.is_file() and 'registry' not in path.parts)


def test_needed_files_are_kept_and_fetched_once(registry, tmp_path, capsys):
    assert command('lab', 'setup') == 0
    folder = ort_web.runtime_folder()
    assert left(tmp_path) == sorted(f'cache/mmone/{folder.name}/{name}' for name in ort_web.FILES)
    assert (folder / ort_web.FILES[0]).read_text() == f'package/dist/{ort_web.FILES[0]}'
    assert command('lab', 'setup') == 0
    assert len(registry[1]) == 1
    assert capsys.readouterr().out.count('fetching') == 1


@pytest.mark.parametrize('change', [lambda content: content[:-1] + b'x', lambda content: content + b'x' * 10_000_000,
                                    lambda content: content[:100], lambda content: b''])
def test_another_archive_is_refused(registry, tmp_path, capsys, change):
    archive, _ = registry
    archive.write_bytes(change(archive.read_bytes()))
    with pytest.raises(SystemExit) as exit:
        command('lab', 'setup')
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert 'is not onnxruntime-web' in error and 'SHA-512' in error and error.count('\n') == 1
    assert left(tmp_path) == []


def test_registry_that_has_it_not(registry, tmp_path):
    registry[0].unlink()
    with pytest.raises(InputError, match=r'cannot be downloaded \(HTTP Error 404'):
        ort_web.set_up()
    assert left(tmp_path) == []


def test_registry_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setenv('npm_config_registry', f'http://127.0.0.1:{free_port()}')
    with pytest.raises(InputError, match='cannot be downloaded .*npm_config_registry'):
        ort_web.set_up()


@pytest.mark.parametrize('address', ['file:///etc', '/etc', 'ftp://127.0.0.1'])
def test_registry_that_is_none(monkeypatch, tmp_path, address):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setenv('npm_config_registry', address)
    with pytest.raises(InputError, match='expected an address'):
        ort_web.set_up()


def test_cache_that_cannot_be_written(registry, monkeypatch, tmp_path):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    with pytest.raises(InputError, match='cannot be kept in .*XDG_CACHE_HOME'):
        ort_web.set_up()


def test_two_at_once(registry):
    threads = [threading.Thread(target=ort_web.set_up) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ort_web.is_set_up()


def test_npm_says_which_registry(monkeypatch, tmp_path):
    monkeypatch.delenv('npm_config_registry', raising=False)
    monkeypatch.delenv('NPM_CONFIG_REGISTRY', raising=False)
    npm = tmp_path / 'npm'
    npm.write_text('#!/bin/sh\n[ "$*" = "config get registry" ] && echo https://npm.example/path/\n')
    npm.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path))
    assert ort_web.registry() == 'https://npm.example/path'
    npm.unlink()
    assert ort_web.registry() == 'https://registry.npmjs.org'
