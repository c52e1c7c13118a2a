"""LiteRT: computes ``.tflite``.

The metadata are an entry of the file's own list of metadata, which other readers leave alone. A detector's graph ends
in ``logits`` (anchors, classes) and ``deltas`` (anchors, 4), since LiteRT has no non-maximum suppression for any
detector; what is left to do is done here.
"""
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from .boxes import Decoder
from .guard import read_metadata
from .metadata import KEY


def open_model(path: Path, threads: int | None, providers: Sequence[str]) -> tuple[str | None, Callable]:
    """The text of a file's metadata, and a function from images to named outputs."""
    from ai_edge_litert.interpreter import Interpreter
    text = _text(path.read_bytes())
    meta = read_metadata(text, path)  # before LiteRT believes what it reads
    interpreter = Interpreter(str(path), num_threads=threads or os.cpu_count())
    compute = interpreter.get_signature_runner()
    given, = compute.get_input_details()
    # Its outputs are numbered, output_0 and so on.
    names = sorted(compute.get_output_details(), key=lambda name: int(name.rpartition('_')[2]))
    decode = Decoder(meta['boxes'], (meta['input']['height'], meta['input']['width'])) if meta.get('boxes') else None

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        found = compute(**{given: images})
        answers = [found[name] for name in names]
        if decode:
            return {name: value[None] for name, value in decode(*(answer[0] for answer in answers)).items()}
        return dict(zip(meta['outputs'], answers))

    return text, run


def _model(content: bytes):
    from ai_edge_litert import schema_py_generated as schema
    if content[4:8] != b'TFL3':
        raise ValueError('it is no .tflite')
    return schema.Model.GetRootAs(content, 0)


def _text(content: bytes) -> str | None:
    model = _model(content)
    for i in range(model.MetadataLength()):
        entry = model.Metadata(i)
        if entry.Name() == KEY.encode():
            return model.Buffers(entry.Buffer()).DataAsNumpy().tobytes().decode()
    return None


def to_objects(content: bytes):
    """A ``.tflite`` as objects that can be changed, ``ModelT`` of its schema."""
    from ai_edge_litert import schema_py_generated as schema
    model = schema.ModelT.InitFromObj(_model(content))
    for buffer in model.buffers:
        if buffer.offset > 1:  # of a large model's, which lie behind the objects
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def from_objects(model) -> bytes:
    """The ``.tflite`` of objects."""
    import flatbuffers
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b'TFL3')
    return bytes(builder.Output())


def add_metadata(content: bytes, meta: str) -> bytes:
    """A ``.tflite`` with the metadata."""
    from ai_edge_litert import schema_py_generated as schema
    model = to_objects(content)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(meta.encode(), np.uint8)
    model.buffers.append(buffer)
    entry.name, entry.buffer = KEY, len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    return from_objects(model)


def operator_kinds(model) -> list[str]:
    """LiteRT's names of the kinds of operators that a model has, as its operators number them."""
    from ai_edge_litert import schema_py_generated as schema
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    return [names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes]


def operators(path: Path) -> Counter:
    """How often each operator occurs in a ``.tflite``."""
    model = to_objects(path.read_bytes())
    kinds = operator_kinds(model)
    return Counter(kinds[operator.opcodeIndex] for operator in model.subgraphs[0].operators)
