"""What the lab's server lets out and in, asked as browsers ask and as those who want more than that do."""
import json
import socket
import sys
import time
from datetime import datetime, timezone

import pytest

from mmone import libraries
from mmone.errors import InputError
from mmone.lab.served import Served
from mmone.lab.store import Model, Store
from tests.kit import command, free_port

pytest.importorskip('uvicorn')
pytest.importorskip('starlette')
from mmone.lab import ort_web, server  # noqa: E402
from mmone.lab.results import read_results  # noqa: E402
from tests.test_lab.serving import running  # noqa: E402

TOKEN = 'a-token_of-22-letters'
MACHINE = dict(id='0' * 32, browser='Firefox', version='140', system='Android 15', device='Pixel 7',
               processor='Adreno (TM) 730', cores=8, memory=8)
ROW = dict(model='net', device='wasm', threads=4, runs=9, discarded=1, median=12.5, p10=12, p90=13.25, minimum=11.5,
           steady=True, seconds=60.5)


def results(**changes):
    """A body as the page sends it; keys of the machine, or of the one row, changed."""
    machine = {key: changes.get(key, value) for key, value in MACHINE.items()}
    row = {key: changes.get(key, value) for key, value in ROW.items()}
    return json.dumps(dict(machine=machine, measurements=[row])).encode()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache with ONNX Runtime Web in it, as far as a server is concerned."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    ort_web.runtime_folder().mkdir(parents=True)
    for name in ort_web.FILES:
        (ort_web.runtime_folder() / name).write_text(name)
    return tmp_path / 'cache'


@pytest.fixture
def models(tmp_path):
    path = tmp_path / 'net.onnx'
    path.write_bytes(b'a network')
    return [Served(Model('net', 'mmone', 'mobileone', 10, 20), path, 'float32', (32, 48))]


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'lab.db'


@pytest.fixture
def ask(models, out):
    with running(server.make_app(models, out)) as ask:
        yield ask


def post(ask, body, path='/results', **headers):
    return ask('POST', path, body, {'content-type': 'application/json', **headers})


def kept(out):
    with Store(out) as store:
        return store.measurements()


# Out


def test_page_is_served_isolated_and_by_the_right_types(ask):
    told = json.loads(ask('GET', '/lab.json')[2])
    model, = told['models']
    assert (model['name'], model['input']) == ('net', dict(dtype='float32', shape=[1, 3, 32, 48]))
    for path, kind, text in (('/', 'text/html', b'<title>mmone lab'), ('/app.js', 'text/javascript', b'import'),
                             ('/style.css', 'text/css', b':root'), ('/icon.svg', 'image/svg+xml', b'<svg'),
                             (f'/{told["runtime"]}ort.wasm.bundle.min.mjs', 'text/javascript', b'ort.wasm'),
                             (f'/{told["runtime"]}ort-wasm-simd-threaded.wasm', 'application/wasm', b'ort-wasm'),
                             (f'/{model["address"]}', 'application/octet-stream', b'a network')):
        status, headers, body = ask('GET', path)
        assert (status, headers.get_content_type()) == (200, kind), path
        assert text in body
        assert headers['cross-origin-opener-policy'] == 'same-origin'
        assert headers['cross-origin-embedder-policy'] == 'require-corp'
        assert headers['x-content-type-options'] == 'nosniff'
        assert headers['referrer-policy'] == 'no-referrer'
        assert "default-src 'none'" in headers['content-security-policy']


def test_nothing_else_is_served(ask):
    for path in ('/../server.py', '/page/../../server.py', '/%2e%2e/server.py', '/..%2fserver.py', '/..%5cserver.py',
                 '//etc/passwd', '/%2fetc/passwd', '/models/../../../../../../etc/passwd', '/models/net.onnx',
                 '/lab.db', '/server.py', '/page/app.js', '/app.js%00.html', '/app.js/', '/index.html/../lab.db',
                 f'/ort-{ort_web.VERSION}/../../server.py', '/%c3%a9', '/%ff%fe', '/.', '/models/', '/results/x'):
        status, headers, body = ask('GET', path)
        assert (status, body) == (404, b'Not Found'), path
        assert headers['cross-origin-embedder-policy'] == 'require-corp'
    assert b'<title>mmone lab' in ask('GET', '/?path=/etc/passwd')[2]


def test_file_that_is_gone_is_not_found(ask, models):
    address = json.loads(ask('GET', '/lab.json')[2])['models'][0]['address']
    models[0].path.unlink()
    assert ask('GET', f'/{address}')[0] == 404


def test_without_token_nothing_is_served(models, out):
    with running(server.make_app(models, out, TOKEN)) as ask:
        for prefix in ('', '/', '/wrong', f'/{TOKEN}x', f'/{TOKEN[:-1]}', f'/{TOKEN.upper()}', f'/x/{TOKEN}',
                       f'//{TOKEN}', '/%00', f'/?token={TOKEN}&x='):
            for method, path, body in (('GET', '/', None), ('GET', '/index.html', None), ('GET', '/lab.json', None),
                                       ('POST', '/results', results()), ('OPTIONS', '/', None)):
                status, _, body = ask(method, prefix + path, body, {'content-type': 'application/json'})
                assert (status, body) == (404, b'Not Found'), (method, prefix + path)
        # And the one with it is as the others are not.
        assert json.loads(ask('GET', f'/{TOKEN}/lab.json')[2])['models']
        assert ask('GET', f'/{TOKEN}/')[0] == 200
        assert kept(out) == []
        assert post(ask, results(), f'/{TOKEN}/results')[0] == 200
    assert len(kept(out)) == 1


def test_other_names_of_this_machine_are_not_answered(models, out):
    """Those that another site has resolved to it."""
    with running(server.make_app(models, out, hosts=('localhost', '127.0.0.1', '::1'))) as ask:
        for host in ('localhost:80', '127.0.0.1', 'LOCALHOST', '[::1]:1'):
            assert ask('GET', '/lab.json', headers={'host': host})[0] == 200
        for host in ('evil.example', 'localhost.evil.example', '', '[', '127.0.0.1@evil.example:80'):
            assert ask('GET', '/lab.json', headers={'host': host})[0] == 404
            assert post(ask, results(), host=host)[0] == 404


# In


def test_measurements_are_kept_under_what_the_server_knows(ask, out):
    assert json.loads(post(ask, results())[2]) == dict(kept=1)
    row, = kept(out)
    assert (row.machine.name, row.machine.kind) == ('Pixel 7, Firefox', 'browser')
    assert (row.machine.cores, row.machine.memory) == (8, 8 * 2**30)
    assert row.machine.versions['Firefox'] == '140'
    assert row.model == Model('net', 'mmone', 'mobileone', 10, 20)
    assert (row.setting.runtime, row.setting.device, row.setting.threads) == ('onnxruntime-web', 'wasm', 4)
    assert (row.setting.height, row.setting.width) == (32, 48)
    assert (row.latency.median, row.latency.runs, row.latency.steady) == (12.5, 9, True)
    ago = datetime.now(timezone.utc) - datetime.fromisoformat(row.latency.started)
    assert 60 <= ago.total_seconds() < 90
    # The same browser in a newer version is the same machine, and its newer measurement is in place of the older.
    post(ask, results(version='141', median=12.25))
    row, = kept(out)
    assert (row.machine.versions['Firefox'], row.latency.median) == ('141', 12.25)
    post(ask, results(browser='Chrome'))
    assert len({row.machine.key for row in kept(out)}) == 2


BAD = {
    'empty': b'', 'no json': b'{', 'not utf-8': b'\xff\xfe{}', 'a list': b'[]', 'a number': b'1', 'null': b'null',
    'nested': b'[' * 60_000, 'nested objects': b'{"a":' * 10_000, 'long number': b'1' * 60_000,
    'no machine': json.dumps(dict(measurements=[ROW])).encode(),
    'more keys': json.dumps(dict(machine=MACHINE, measurements=[ROW], table='models')).encode(),
    'more keys of a row': json.dumps(dict(machine=MACHINE, measurements=[dict(ROW, source='x')])).encode(),
    'more keys of the machine': json.dumps(dict(machine=dict(MACHINE, kind='computer'), measurements=[ROW])).encode(),
    'less keys of a row': json.dumps(dict(machine=MACHINE, measurements=[dict(model='net')])).encode(),
    'no rows': json.dumps(dict(machine=MACHINE, measurements=[])).encode(),
    'rows by name': json.dumps(dict(machine=MACHINE, measurements=dict(a=ROW))).encode(),
    'too many rows': json.dumps(dict(machine=MACHINE, measurements=[ROW] * 101)).encode(),
    'one bad row of two': json.dumps(dict(machine=MACHINE, measurements=[ROW, dict(ROW, median='12')])).encode(),
    'nan': results().replace(b'12.5', b'NaN'), 'infinity': results().replace(b'12.5', b'Infinity'),
    'beyond a float': results().replace(b'12.5', b'1e999'), 'huge integer': results().replace(b'12.5', b'9' * 400),
    'unknown model': results(model='mobileone-s9'), 'model by number': results(model=0),
    'model by list': results(model=['net']), 'no time': results(minimum=0, p10=0, median=0, p90=0),
    'negative': results(minimum=-1), 'as text': results(median='12.5'), 'as truth': results(threads=True),
    'steady as number': results(steady=1), 'fraction of a run': results(runs=1.5), 'no runs': results(runs=0),
    'unordered': results(p10=13, p90=12), 'minimum above': results(minimum=12.4),
    'many threads': results(threads=10**6), 'other device': results(device='cuda'),
    'device by list': results(device=[]), 'from the future': results(seconds=-1), 'from long ago': results(seconds=1e9),
    'script': results(device='<script>alert(1)</script>'), 'attribute': results(browser='x" onload="alert(1)'),
    'markdown': results(system='[x](javascript:1)|`y`'), 'escape': results(processor='\x1b[2J'),
    'new line': results(device='a\nb'), 'nul': results(device='a\0b'), 'half a pair': results(device='\ud800'),
    'right to left': results(device='a\u202eb'), 'long': results(device='x' * 201), 'no browser': results(browser=' '),
    'sql': results(device="'; DROP TABLE machines; --"), 'id': results(id='../' * 10 + 'xx'),
    'long id': results(id='0' * 33),
    'id of other digits': results(id='٣' * 32), 'no id': results(id=None),
    'cores': results(cores=0), 'memory': results(memory=-8),
    'memory of text': results(memory='8'),
}


@pytest.mark.parametrize('name', BAD)
def test_whatever_else_is_sent_is_refused(models, name):
    with pytest.raises(InputError) as error:
        read_results(BAD[name], server.by_name(models))
    assert len(str(error.value)) < 200 and '<script' not in str(error.value)


def test_refused_by_a_line(ask, out):
    for name in ('no json', 'nested', 'nan', 'script', 'one bad row of two', 'unknown model'):
        status, headers, body = post(ask, BAD[name])
        assert (status, headers.get_content_type()) == (400, 'text/plain')
        assert 0 < len(body.splitlines()) <= 1 and b'Traceback' not in body
    assert kept(out) == []


def test_large_bodies_are_not_read(ask, out):
    large = results() + b' ' * server.MOST_BYTES
    assert post(ask, large)[0] == 413
    assert post(ask, iter([large[i:i + 10_000] for i in range(0, len(large), 10_000)]))[0] == 413  # of no stated length
    for length in ('999999999999', '9' * 50):
        assert post(ask, None, **{'content-length': length})[0] in (400, 413)
    assert kept(out) == []


def test_body_that_does_not_come_is_not_waited_for(ask, monkeypatch):
    monkeypatch.setattr(server, 'MOST_SECONDS', 0.3)
    assert ask('POST', '/results', b'{', {'content-type': 'application/json', 'content-length': '100'})[0] == 408


def test_other_sites_pages_send_nothing(ask, out):
    """They may send these types unasked; for JSON a browser asks first, and is given no leave."""
    for kind in ('', 'text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x'):
        assert ask('POST', '/results', results(), {'content-type': kind})[0] == 415
    status, headers, _ = ask('OPTIONS', '/results', headers={
        'origin': 'http://evil.example', 'access-control-request-method': 'POST'})
    assert status == 405 and not [name for name in headers if name.lower().startswith('access-control')]
    assert kept(out) == []


def test_flood_of_requests(ask, out):
    statuses = [post(ask, results())[0] for _ in range(server.POSTS_A_MINUTE + 10)]
    assert statuses[:server.POSTS_A_MINUTE] == [200] * server.POSTS_A_MINUTE
    assert 429 in statuses and statuses[-1] == 429
    assert ask('GET', '/lab.json')[0] == 200
    assert len(kept(out)) == 1


def test_flood_of_machines(ask, out, monkeypatch):
    monkeypatch.setattr(server, 'MOST_MACHINES', 3)
    statuses = [post(ask, results(id=f'{number:032x}'))[0] for number in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    assert post(ask, results(id=f'{1:032x}'))[0] == 200  # those that are known go on
    assert len(kept(out)) == 3


def test_file_that_cannot_be_written(models, tmp_path):
    said = []
    with running(server.make_app(models, tmp_path, say=said.append)) as ask:  # a folder
        status, _, body = post(ask, results())
    assert status == 507 and str(tmp_path).encode() not in body
    assert str(tmp_path) in said[0]


# Listening


def test_loopback_has_no_token_and_other_addresses_have(out):
    assert server.Server(out).address.startswith('http://127.0.0.1:')
    made = server.Server(out, '0.0.0.0')
    assert made.token and made.address.endswith(f'/{made.token}/') and '0.0.0.0' not in made.address
    assert made.token != server.Server(out, '0.0.0.0').token


def test_port_in_use(out, capsys):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as exit:
            command('lab', 'serve', '--port', port, '--out', out)
    assert exit.value.code == 2
    assert capsys.readouterr().err == (
        f'mmone lab serve: error: cannot listen on port {port} of 127.0.0.1: address already in use (--port)\n')


@pytest.mark.parametrize('arguments, said', [
    (('--port', '65536'), 'port 65536: expected 0 to 65535 (--port)'),
    (('--host', 'no such host'), "no address is known for 'no such host' (--host)"),
    (('--host', '192.0.2.77'), 'of 192.0.2.77: cannot assign requested address (--host)'),
    (('--certificate', 'no.pem', 'no.key'), 'the certificate no.pem with the key no.key cannot be used: '
     'no such file or directory (--certificate)'),
    (('--out', 'nowhere/lab.db'), 'nowhere/lab.db'),
])
def test_what_cannot_be_served(out, capsys, arguments, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        command('lab', 'serve', *(() if '--out' in arguments else ('--out', out)), '--port', free_port(), *arguments)
    error = capsys.readouterr().err
    assert exit.value.code == 2 and said in error and error.count('\n') == 1


def test_runtime_that_was_not_fetched(out, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'empty'))
    with pytest.raises(SystemExit) as exit:
        command('lab', 'serve', '--out', out)
    assert exit.value.code == 2
    assert capsys.readouterr().err == (
        f'mmone lab serve: error: onnxruntime-web {ort_web.VERSION}, which computes in the browser, was not fetched '
        'yet (mmone lab setup)\n')


@pytest.mark.parametrize('package', ['starlette', 'uvicorn', 'segno'])
def test_package_that_is_missing(package, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    for name in [name for name in sys.modules if name.partition('.')[0] == package or name == 'mmone.lab.server']:
        monkeypatch.setitem(sys.modules, name, None) if name == package else monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(libraries, '_is_there', lambda module, whole=True: module != package)
    with pytest.raises(SystemExit) as exit:
        command('lab', 'serve')
    assert exit.value.code == 2
    assert capsys.readouterr().err == (
        f'mmone lab serve: error: mmone needs {package}, not installed here: pip install "mmone[lab]"\n')


def test_models_that_no_browser_computes(out, capsys, tmp_path):
    with pytest.raises(SystemExit) as exit:
        command('lab', 'serve', '--out', out, '--port', 0, 'mobileone-s99')
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert 'mobileone-s4' in error and error.count('\n') == 1


def test_model_given_twice(models, out):
    with pytest.raises(InputError, match='net is there twice'):
        server.make_app(models * 2, out)


def test_time_to_wait_is_given_back(monkeypatch, models, out):
    """Who waits may send again."""
    now = [1000.0]
    monkeypatch.setattr(time, 'monotonic', lambda: now[0])
    desk = server._Desk(models, out, print)
    for _ in range(server.POSTS_A_MINUTE):
        desk._count()
    with pytest.raises(Exception, match='429'):
        desk._count()
    now[0] += 60
    for _ in range(server.POSTS_A_MINUTE):
        desk._count()
