"""What computes a format: (path, threads, providers) -> the text of its metadata, and images -> outputs."""
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mmone.errors import InputError

# What an exported file says of itself is one JSON string under this key.
KEY = 'mmone'


def _open_onnx(path: Path, threads: int | None, providers: Sequence[str]) -> tuple[str, Callable]:
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # no warnings
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    outputs = [output.name for output in session.get_outputs()]

    def compute(images):
        return dict(zip(outputs, session.run(outputs, {'images': images})))

    return session.get_modelmeta().custom_metadata_map.get(KEY), compute


def _open_openvino(path: Path, threads: int | None, providers: Sequence[str]) -> tuple[str, Callable]:
    import openvino
    core = openvino.Core()
    model = core.read_model(path)
    options = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': 'f32'}
    if threads:
        options['INFERENCE_NUM_THREADS'] = threads
    request = core.compile_model(model, 'CPU', options).create_infer_request()
    outputs = [output.get_any_name() for output in model.outputs]

    def compute(images):
        request.infer({'images': images}, share_inputs=True)
        return {name: request.get_tensor(name).data.copy() for name in outputs}

    return (model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None), compute


def _open_coreml(path: Path, threads: int | None, providers: Sequence[str]) -> tuple[str, Callable]:
    import platform

    import coremltools
    predicts = platform.system() == 'Darwin'
    model = coremltools.models.MLModel(str(path), skip_model_load=not predicts)

    def compute(images):
        if not predicts:
            raise InputError(f'{path}: Core ML computes on macOS only; here its structure can be '
                             'looked at, and the same model be exported to ONNX')
        from PIL import Image
        given = images
        if images.dtype == np.uint8:
            given = Image.fromarray(np.ascontiguousarray(images[0].transpose(1, 2, 0)))
        return model.predict({'images': given})

    return model.user_defined_metadata.get(KEY), compute


def _torch_compute(function: Callable, meta: str, threads: int | None) -> Callable:
    import torch
    if threads:
        torch.set_num_threads(threads)
    names = json.loads(meta)['outputs'] if meta else []

    def compute(images):
        with torch.inference_mode():
            try:
                outputs = function(torch.from_numpy(images))
            except AssertionError as error:  # torch.export's: what the example made it assume
                raise InputError(f'images {tuple(images.shape)} do not fit the exported program '
                                 f'({error}): export with --shape of a size nearer to theirs') from None
        return {name: output.numpy() for name, output in zip(names, outputs)}

    return compute


def _open_torchscript(path: Path, threads: int | None,
                      providers: Sequence[str]) -> tuple[str, Callable]:
    import torch
    import torchvision  # noqa: F401  registers torchvision::nms
    found = {KEY: ''}
    function = torch.jit.load(str(path), map_location='cpu', _extra_files=found)
    meta = found[KEY].decode() if isinstance(found[KEY], bytes) else found[KEY]
    return meta, _torch_compute(function, meta, threads)


def _open_pt2(path: Path, threads: int | None, providers: Sequence[str]) -> tuple[str, Callable]:
    import torch
    import torchvision  # noqa: F401  registers torchvision::nms
    found = {KEY: ''}
    function = torch.export.load(str(path), extra_files=found).module()
    return found[KEY], _torch_compute(function, found[KEY], threads)


BACKENDS = {
    '.onnx': (_open_onnx, 'onnxruntime'),
    '.xml': (_open_openvino, 'openvino'),
    '.mlpackage': (_open_coreml, 'coremltools'),
    '.pt': (_open_torchscript, 'torch torchvision'),
    '.pt2': (_open_pt2, 'torch torchvision'),
}
