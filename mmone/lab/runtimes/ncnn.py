"""ncnn, of the same ONNX file, which pnnx converts first."""
import shutil
import tempfile
from pathlib import Path

from mmone.errors import InputError
from mmone.pnnx import convert
from mmone.runtime.ncnn import open_net, read_param, run

from ..cache import Prepared
from ..store import Setting
from ..subject import Subject
from . import Runner, clocked


def open_model(subject: Subject, prepared: Prepared, setting: Setting) -> Runner:
    images = prepared.images()
    if len(images) > 1:
        raise InputError('ncnn computes an image at a time: measure it with batch 1', parameter='batch')
    with tempfile.TemporaryDirectory() as folder:  # pnnx writes beside what it reads
        source = shutil.copy(prepared.onnx, Path(folder, 'model.onnx'))
        param, _ = convert(Path(source), images.shape)
        layers, _ = read_param(param.read_text(encoding='ascii'))
        net = open_net(param, layers, setting.threads)
    given = next(layer.outputs[0] for layer in layers if layer.kind == 'Input')
    outputs = [f'out{number}' for number in range(len(prepared.expected()))]
    return clocked(lambda: [answer[None] for answer in run(net, images[0], outputs, given)])
