"""Stores a ``.tflite`` with integers or float16, in the converter's own environment: imports nothing of mmone.

usage: litert_quantize.py FLOAT OUT PLAN

PLAN is JSON: the ``recipe`` of ai-edge-quantizer, and the ``ranges`` of tensors by name, each [low, high, dimensions].
"""
import json
import sys
from pathlib import Path


def main(source: str, out: str, plan: str) -> None:
    import numpy as np
    from ai_edge_quantizer.quantizer import Quantizer
    given = json.loads(Path(plan).read_text())
    ranges = {name: dict(min=np.full([1] * count, low, np.float32), max=np.full([1] * count, high, np.float32))
              for name, (low, high, count) in given['ranges'].items()}
    quantizer = Quantizer(source, given['recipe'])
    quantizer.quantize(ranges or None, enable_progress_bar=False, enable_progress_report=False).export_model(out)


if __name__ == '__main__':
    main(*sys.argv[1:])
