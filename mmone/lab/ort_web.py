"""ONNX Runtime Web: what computes in a browser, from the npm registry, kept in the user's cache.

It is pinned: an archive with another SHA-512 than the one below is refused. Only the files that the page loads are
kept. Nothing of it is fetched when the page is served.
"""
import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import time
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from mmone.errors import InputError
from mmone.files import InUse, publish, scratch_folder, user_cache

VERSION = '1.30.0'
INTEGRITY = 'sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=='
SIZE = 33_106_585  # bytes of the archive
# WebAssembly's entry, which has its loader in it, and WebGPU's, which a page loads only where there is a GPU for it.
FILES = ('ort.wasm.bundle.min.mjs', 'ort-wasm-simd-threaded.wasm',
         'ort.webgpu.min.mjs', 'ort-wasm-simd-threaded.asyncify.mjs', 'ort-wasm-simd-threaded.asyncify.wasm')


def runtime_folder() -> Path:
    """Where the files are, once they are fetched."""
    return user_cache() / f'onnxruntime-web-{VERSION}'


def is_set_up() -> bool:
    """Whether the files are there; the folder gets its name when they all are."""
    return runtime_folder().is_dir()


def set_up() -> Path:
    """Fetch the files, unless they are there; returns their folder.

    Raises:
        InputError: If they cannot be downloaded or kept, or are not what was pinned.
    """
    folder = runtime_folder()
    address = f'{registry()}/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz' if not is_set_up() else ''
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        while not is_set_up():
            try:
                _fetch(address, folder)
            except InUse:  # another process is fetching them
                time.sleep(0.5)
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = error if isinstance(error, HTTPError) else getattr(error, 'reason', error)
        raise InputError(f'{address} cannot be downloaded ({reason}): check the network, or set npm\'s registry to one '
                         'that can be reached (npm config set registry, or the variable npm_config_registry)') from None
    except OSError as error:
        raise InputError(f'onnxruntime-web cannot be kept in {folder} ({error.strerror}): set XDG_CACHE_HOME to a '
                         'folder that can be written') from None
    return folder


def _fetch(address: str, folder: Path) -> None:
    with scratch_folder(folder) as scratch:
        archive, made = scratch / 'archive.tgz', scratch / folder.name
        _download(address, archive)
        made.mkdir()
        _unpack(archive, made)
        publish(made, folder)


def registry() -> str:
    """The address of the npm registry, as npm is configured.

    Raises:
        InputError: If that is no address.
    """
    found = os.environ.get('npm_config_registry') or os.environ.get('NPM_CONFIG_REGISTRY') or _asked_of_npm()
    found = (found or 'https://registry.npmjs.org').rstrip('/')
    if not found.startswith(('https://', 'http://')):
        raise InputError(f'npm\'s registry is {found}: expected an address that begins with https:// or http://')
    return found


def _asked_of_npm() -> str | None:
    npm = shutil.which('npm')
    if npm is None:
        return None
    try:
        answer = subprocess.run([npm, 'config', 'get', 'registry'], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _download(address: str, path: Path) -> None:
    """Download the archive; what is longer than it, or has another digest, is refused."""
    digest, left = hashlib.sha512(), SIZE
    with urlopen(address, timeout=60) as response, open(path, 'wb') as file:
        while left >= 0 and (chunk := response.read(1 << 20)):
            digest.update(chunk)
            file.write(chunk)
            left -= len(chunk)
    if 'sha512-' + base64.b64encode(digest.digest()).decode() != INTEGRITY:
        raise InputError(f'{address} is not onnxruntime-web {VERSION} as it was published: its SHA-512 is another one')


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        for name in FILES:
            member = tar.extractfile(f'package/dist/{name}')
            assert member is not None  # the digest is that of an archive which has them
            with member, open(folder / name, 'wb') as file:
                shutil.copyfileobj(member, file)
