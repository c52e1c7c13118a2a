"""The lab's page in a real browser: Chromium without a window."""
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from PIL import Image

from mmone.apis import get_model
from mmone.datasets.shapes import make_sample
from mmone.errors import InputError
from mmone.export import export_model
from mmone.lab import protocol
from mmone.lab.served import Served, find_served
from mmone.lab.store import Model, Store
from mmone.runtime import Runtime, images
from mmone.runtime.images import TRANSFORMS, resize
from tests.kit import environment
from tests.test_export.conftest import NAMES, benchmark, small

pytest.importorskip('uvicorn')
pytest.importorskip('starlette')
sync_api = pytest.importorskip('playwright.sync_api')
from mmone.lab import ort_web, server  # noqa: E402
from tests.test_lab.serving import serving  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
# A GPU that is played by the processor.
SOFTWARE_GPU = ('--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader', '--enable-features=Vulkan',
                '--use-vulkan=swiftshader', '--use-angle=swiftshader')
pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(CHROMIUM is None, reason='there is no Chromium: apt install chromium')]


@pytest.fixture(scope='module', autouse=True)
def runtime():
    try:
        ort_web.set_up()
    except InputError as error:
        pytest.skip(error.message)


@pytest.fixture(scope='module', autouse=True)
def hasty():
    """The protocol with hardly any warming up, and no second attempts: no time is asserted here."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in dict(WARM_UP_SECONDS=0, WINDOW=1, ATTEMPTS=1, REST=0.001).items():
            patch.setattr(protocol, name, value)
        yield


def make(task, path):
    """Export a small model of a task, with random weights whose answers differ."""
    cfg = small(NAMES[task])
    torch.manual_seed(0)
    weights = path.with_suffix('.pth')
    benchmark().random_checkpoint(cfg, weights)
    checkpoint = torch.load(weights, weights_only=True)
    if task == 'classification':
        checkpoint['state_dict']['head.fc.weight'] *= 30
        torch.save(checkpoint, weights)
    export_model(get_model(cfg, str(weights), 'cpu'), path, shape=None if task == 'detection' else (96, 96))
    return find_served(str(path))


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    """A small exported model of each task."""
    folder = tmp_path_factory.mktemp('models')
    return {task: make(task, folder / f'{task}.onnx') for task in NAMES}


@pytest.fixture(scope='module')
def playwright():
    with sync_api.sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope='module')
def open_page(playwright):
    """What opens a page in a browser of its own; what that complains of is in ``page.complaints``."""

    @contextmanager
    def open_page(address, *flags, **settings):
        sandbox = ['--no-sandbox'] if os.getuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*sandbox, *flags])
        try:
            page = browser.new_page(**settings)
            page.complaints = []
            page.on('console', lambda message: message.type == 'error' and page.complaints.append(message.text))
            page.on('pageerror', lambda error: page.complaints.append(str(error)))
            page.on('requestfailed', lambda request: page.complaints.append(request.url))
            page.set_default_timeout(120_000)
            page.goto(address)
            page.wait_for_selector('#start:enabled')
            yield page
        finally:
            browser.close()

    return open_page


@pytest.fixture(scope='module')
def served(models, tmp_path_factory):
    out = tmp_path_factory.mktemp('lab') / 'lab.db'
    with serving(server.make_app(list(models.values()), out)) as port:
        yield out, f'http://127.0.0.1:{port}/'


@pytest.fixture(scope='module')
def page(served, open_page):
    with open_page(served[1]) as page:
        yield page


def measure(page, runs):
    """Measure all models; returns {title: value} of the bars."""
    page.fill('[name=runs]', str(runs))
    page.click('#start')
    page.wait_for_selector('#sent:not(:empty)')
    return {bar.query_selector('span').inner_text(): bar.query_selector('.value').inner_text()
            for bar in page.query_selector_all('#bars li')}


def test_measurements_arrive(models, open_page, tmp_path):
    """Of an exported file, and of the networks of S0 and of SSDLite with it, as the lab measures them."""
    networks = [find_served(name, tmp_path) for name in ('mobileone-s0', NAMES['detection'])]
    served = [models['classification'], *networks]
    with serving(server.make_app(served, tmp_path / 'lab.db')) as port, open_page(f'http://127.0.0.1:{port}/') as page:
        bars = measure(page, 3)
        assert page.evaluate('crossOriginIsolated')
        cores = page.evaluate('navigator.hardwareConcurrency')
        assert page.inner_text('#sent') == "3 measurements sent to the lab's file."
        assert f'WebAssembly with SIMD and {min(4, cores)} thread' in page.inner_text('#backend')
        assert page.complaints == []
    with Store(tmp_path / 'lab.db') as store:
        rows = {row.model.name: row for row in store.measurements()}
    assert set(rows) == {one.model.name for one in served}
    assert set(bars) == {'classification.onnx', 'mobileone-s0', NAMES['detection']}
    assert rows['mobileone-s0'].model.parameters == 2_078_504
    for one in served:
        row = rows[one.model.name]
        assert row.model == one.model
        assert (row.machine.kind, row.machine.cores) == ('browser', cores)
        assert (row.setting.runtime, row.setting.device) == ('onnxruntime-web', 'wasm')
        assert row.setting.threads == min(4, cores)
        assert (row.setting.height, row.setting.width) == one.shape
        assert row.latency.runs + row.latency.discarded == 3
        shown = float(bars[one.model.name.partition('@')[0]].split()[0])
        assert shown == pytest.approx(row.latency.median, rel=0.01, abs=0.006)


def test_model_that_cannot_be_computed(models, open_page, tmp_path):
    """It is said of that one; the others are measured."""
    (tmp_path / 'broken.onnx').write_bytes(b'no network')
    broken = Served(Model('broken <b>', 'file', 'classification'), tmp_path / 'broken.onnx', 'float32', (32, 32))
    app = server.make_app([broken, models['segmentation']], tmp_path / 'lab.db')
    with serving(app) as port, open_page(f'http://127.0.0.1:{port}/') as page:
        bars = measure(page, 2)
        assert bars['broken <b>'] == 'failed' and bars['segmentation.onnx'].endswith(' ms')
        assert page.inner_text('#bars .note >> nth=0')
    with Store(tmp_path / 'lab.db') as store:
        assert [row.model.name for row in store.measurements()] == [models['segmentation'].model.name]


def picture(number, width, height, kind='PNG', orientation=1):
    """A picture's file."""
    sample = make_sample(5, number, 256).image
    exif = Image.Exif()
    exif[0x112] = orientation
    file = io.BytesIO()
    Image.fromarray(sample).resize((width, height)).save(file, kind, exif=exif)
    return file.getvalue()


# What the page's modules answer to a picture, in full.
ANSWER = '''async ([name, bytes]) => {
  const lab = await (await fetch('lab.json')).json();
  const model = lab.models.find(model => model.name === name);
  const {decode} = await import('./picture.js');
  const {image} = await decode(new Blob([new Uint8Array(bytes)]), model.meta);
  if (!self.tested) {
    self.tested = new Worker('worker.js', {type: 'module'});
    tested.postMessage({task: 'start', runtime: lab.runtime, backend: 'wasm', threads: 1});
  }
  tested.postMessage({task: 'predict', model, image});
  const {answer, text} = await new Promise(resolve => { tested.onmessage = ({data}) => resolve(data); });
  return text ?? {...answer, mask: answer.mask && Array.from(answer.mask)};
}'''


@pytest.mark.parametrize('task', NAMES)
def test_answers_are_those_of_runtime(page, models, tmp_path, task, monkeypatch):
    """Of one without OpenCV, whose resizing differs by a level here and there: masks of random weights show it."""
    monkeypatch.setattr(images, '_opencv', lambda: None)
    content = picture(1, 233, 301, orientation=6)  # turned, it is a landscape
    path = tmp_path / 'picture.png'
    path.write_bytes(content)
    expected = Runtime(models[task].path).predict(path)
    found = page.evaluate(ANSWER, [models[task].model.name, list(content)])
    if task == 'classification':
        assert [one['name'] for one in found['positive']] == [expected['class']]
        order = np.argsort(-expected['scores'])[:5]
        np.testing.assert_allclose([one['score'] for one in found['best']], expected['scores'][order], rtol=1e-3)
    elif task == 'detection':
        assert len(found['boxes']) == len(expected['boxes']) > 3
        for one, other in zip(found['boxes'][:3], expected['boxes']):
            assert one['name'] == other['class']
            assert one['score'] == pytest.approx(other['score'], abs=1e-3)
            assert one['box'] == pytest.approx(other['box'], abs=0.1)
    else:
        mask = np.reshape(found['mask'], expected['labels'].shape)
        assert (mask == expected['labels']).mean() > 0.999
        assert {one['name']: one['part'] for one in found['classes']} == pytest.approx(expected['classes'], abs=0.001)


def test_lossy_picture_is_of_the_same_class(page, models, tmp_path):
    content = picture(1, 301, 233, 'JPEG')
    (tmp_path / 'picture.jpg').write_bytes(content)
    expected = Runtime(models['classification'].path).predict(tmp_path / 'picture.jpg')
    found = page.evaluate(ANSWER, [models['classification'].model.name, list(content)])
    assert found['best'][0]['name'] == expected['class']
    assert found['best'][0]['score'] == pytest.approx(expected['score'], abs=0.05)


@pytest.mark.parametrize('task', NAMES)
def test_picture_is_shown(page, models, tmp_path, task):
    path = tmp_path / 'picture.png'
    path.write_bytes(picture(2, 200, 150))
    page.select_option('#model', models[task].model.name)
    page.set_input_files('#file', path)
    page.wait_for_function('([title]) => document.getElementById("seeing").textContent.startsWith(`${title}: `)',
                           arg=[f'{task}.onnx'])
    expected = Runtime(models[task].path).predict(path)
    answer = page.inner_text('#answer')
    if task == 'classification':
        assert page.inner_text('#answer .is >> nth=0') == expected['class']
        assert expected['class'] in page.get_attribute('#view', 'aria-label')
    elif task == 'detection':
        boxes = [box for box in expected['boxes'] if box['score'] >= 0.3]
        assert boxes and boxes[0]['class'] in answer
    else:
        assert max(expected['classes'], key=expected['classes'].get) in answer
    shown = page.evaluate('''() => { const {data} = view.getContext('2d').getImageData(0, 0, view.width, view.height);
                             return new Set(data).size; }''')
    assert shown > 20
    assert page.complaints == []


def test_file_that_is_no_picture(page, tmp_path):
    (tmp_path / 'picture.png').write_bytes(b'no picture')
    page.set_input_files('#file', tmp_path / 'picture.png')
    page.wait_for_selector('#seeing:has-text("cannot read")')
    assert page.is_hidden('#seen')


def steps_to_try():
    """Resizing by each kernel, smaller, larger and to be fitted, and cropping."""
    for backend, more in (('pillow', ('box', 'hamming')), ('cv2', ())):
        for name in ('nearest', 'bilinear', 'bicubic', 'area', 'lanczos', *more):
            for scale, keep in (((19, 31), False), ((80, 20), False), ((30, 50), True)):
                yield dict(type='Resize', scale=scale, keep_ratio=keep, interpolation=name, backend=backend)
    for edge in ('short', 'long', 'width', 'height'):
        yield dict(type='ResizeEdge', scale=33, edge=edge, backend='pillow')
    for size in ((20, 20), (37, 90), (21, 22), (24, 23)):
        yield dict(type='CenterCrop', crop_size=size)


def test_images_are_prepared_as_runtime_does(page):
    """Pillow's resizing to the bit, lines before columns as before Pillow 13; OpenCV's to one of 255 levels."""
    image, steps = np.random.default_rng(0).integers(0, 256, (47, 61, 3), np.uint8), list(steps_to_try())
    found = page.evaluate('''async ([data, height, width, steps]) => {
      const {toInput} = await import('./images.js');
      const input = {dtype: 'uint8', mean: [0, 0, 0], std: [1, 1, 1]};
      return steps.map(step => {
        const image = toInput({data: Uint8Array.from(data), height, width}, {pipeline: [step], input});
        return [image.height, image.width, Array.from(image.data)];
      });
    }''', [image.ravel().tolist(), *image.shape[:2], steps])
    for step, (height, width, data) in zip(steps, found):
        expected, exact = TRANSFORMS[step['type']](image, step), step.get('backend') != 'cv2'
        if step.get('backend') == 'pillow':
            kind = step.get('interpolation', 'bilinear')
            lines = resize(image, (47, expected.shape[1]), kind, 'pillow')
            expected = resize(lines, expected.shape[:2], kind, 'pillow')
        assert (height, width) == expected.shape[:2], step
        apart = np.abs(np.reshape(data, (3, height, width)).transpose(1, 2, 0) - expected.astype(int)).max()
        assert apart <= (0 if exact else 1), step


def test_normalized_images(page):
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    found = page.evaluate('''async ([data, mean, std]) => {
      const {toInput} = await import('./images.js');
      const meta = {pipeline: [], input: {dtype: 'float32', mean, std}, reading: {to_float32: true}};
      return Array.from(toInput({data: Uint8Array.from(data), height: 8, width: 9}, meta).data);
    }''', [image.ravel().tolist(), mean, std])
    expected = (image - np.float32(mean)) / np.float32(std)
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1).ravel(), rtol=1e-6)


def test_times_are_summarized_as_the_lab_does(page):
    generator = np.random.default_rng(0)
    series = [np.exp(generator.normal(2, spread, count)).tolist()
              for spread in (0, 0.01, 0.1, 1) for count in (1, 2, 7, 50)]
    series.append([1.0] * 70 + [3.0] * 30)  # more slow runs than outliers can be
    found = page.evaluate('''async series => {
      const [{summarize, chunks}, lab] = [await import('./protocol.js'), await (await fetch('lab.json')).json()];
      return [series.map(times => summarize(times, lab.constants)),
              [1, 9, 10, 57, 100].map(runs => chunks(runs, lab.constants))];
    }''', series)
    for times, summary in zip(series, found[0]):
        expected = protocol.summarize(times, '')
        assert {name: getattr(expected, name) for name in summary} == pytest.approx(summary)
    assert found[1] == [protocol.chunks(runs) for runs in (1, 9, 10, 57, 100)]


@pytest.mark.parametrize('agent, expected', [
    ('Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 '
     'Mobile/15E148 Safari/604.1', ('Safari', '17', 'iOS 17.5', 'iPhone')),
    ('Mozilla/5.0 (iPad; CPU OS 16_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/120.0.6099.119 '
     'Mobile/15E148 Safari/604.1', ('Chrome', '120', 'iOS 16.6', 'iPad')),
    ('Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Mobile Safari/537.36',
     ('Chrome', '130', 'Android 10', '')),
    ('Mozilla/5.0 (Linux; Android 14; SM-S918B) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/26.0 '
     'Chrome/122.0.0.0 Mobile Safari/537.36', ('Samsung Internet', '26', 'Android 14', 'SM-S918B')),
    ('Mozilla/5.0 (Android 14; Mobile; rv:140.0) Gecko/140.0 Firefox/140.0', ('Firefox', '140', 'Android 14', '')),
    ('Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 '
     'Safari/605.1.15', ('Safari', '18', 'Macintosh Intel Mac OS X 10_15_7', '')),
    ('Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36 '
     'Edg/131.0.0.0', ('Edge', '131', 'Windows NT 10.0 Win64', '')),
    ('Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0',
     ('Firefox', '128', 'X11 Linux x86_64', '')),
    ('something else', (None, None, '', '')),
])
def test_what_browsers_call_themselves(page, agent, expected):
    found = page.evaluate('async agent => (await import("./device.js")).fromAgent(agent)', agent)
    assert tuple(found.get(key) for key in ('browser', 'version', 'system', 'device')) == expected


def test_stopped(page, served):
    with Store(served[0]) as store:
        before = len(store.measurements())
    page.fill('[name=runs]', '5000')
    page.click('#start')
    page.wait_for_selector('#status:has-text("oading")')
    page.click('#stop')
    page.wait_for_selector('#status:has-text("Stopped")')
    assert page.is_enabled('#start') and page.is_hidden('#stop')
    with Store(served[0]) as store:
        assert len(store.measurements()) == before


@pytest.fixture(scope='module')
def certificate(tmp_path_factory):
    if shutil.which('openssl') is None:
        pytest.skip('there is no openssl to make a certificate with')
    folder = tmp_path_factory.mktemp('certificate')
    subprocess.run(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes',
                    '-days', '2', '-subj', '/CN=lab', '-keyout', folder / 'key.pem', '-out', folder / 'cert.pem'],
                   check=True, capture_output=True)
    return folder / 'cert.pem', folder / 'key.pem'


def address_on_network():
    shown = server._shown('0.0.0.0', '0.0.0.0')
    try:
        socket.create_connection((shown, 1), timeout=1)
    except ConnectionRefusedError:  # which somebody answered
        pass
    except OSError:
        pytest.skip('this machine has no network')
    if shown.startswith('127.'):
        pytest.skip('this machine has no network')
    return shown


@pytest.mark.parametrize('secure', [False, True], ids=['http', 'https'])
def test_on_the_network_a_certificate_gives_threads(models, certificate, open_page, tmp_path, secure):
    """Browsers isolate pages of secure addresses; others are measured too, with one thread, and say why."""
    host, token = address_on_network(), 'token'
    settings = server._secured(certificate) if secure else {}
    app = server.make_app([models['segmentation']], tmp_path / 'lab.db', token)
    with serving(app, host='0.0.0.0', **settings) as port:
        with open_page(f'http{"s" * secure}://{host}:{port}/{token}/', ignore_https_errors=True) as page:
            assert page.evaluate('crossOriginIsolated') == page.evaluate('isSecureContext') == secure
            assert page.is_visible('#isolation') != secure
            measure(page, 2)
            assert page.complaints == []
            threads = min(4, page.evaluate('navigator.hardwareConcurrency')) if secure else 1
    with Store(tmp_path / 'lab.db') as store:
        row, = store.measurements()
    assert row.setting.threads == threads


def test_computed_by_webgpu(models, open_page, tmp_path):
    """By the processor in a GPU's place, which takes long: a small network."""
    with serving(server.make_app([models['classification']], tmp_path / 'lab.db')) as port:
        with open_page(f'http://127.0.0.1:{port}/', *SOFTWARE_GPU) as page:
            if not page.query_selector('[name=backend] option[value=webgpu]'):
                pytest.skip('this Chromium has no WebGPU in software')
            page.select_option('[name=backend]', 'webgpu')
            measure(page, 2)
            assert 'WebGPU' in page.inner_text('#backend')
            assert page.complaints == []
    with Store(tmp_path / 'lab.db') as store:
        row, = store.measurements()
    assert (row.setting.device, row.setting.threads) == ('webgpu', 0)


def test_command(models, tmp_path):
    """The address and its code are printed, and Ctrl-C ends it."""
    with subprocess.Popen([sys.executable, '-m', 'mmone.cli', 'lab', 'serve', models['classification'].path, '--host',
                           '0.0.0.0', '--port', '0', '--out', tmp_path / 'lab.db'], env=environment(), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            printed = []
            while not printed or not printed[-1].startswith('http://'):
                printed.append(process.stdout.readline())
                assert process.poll() is None
            assert any('\u2588' in line for line in printed[:-1])
            address = urlsplit(printed[-1].strip())
            assert len(address.path) > 20
            with urlopen(f'http://127.0.0.1:{address.port}{address.path}lab.json') as response:
                told = json.load(response)
            assert [model['title'] for model in told['models']] == ['classification.onnx']
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0 and 'Traceback' not in error
