"""Converts a program of ``torch.export`` to ``.tflite``, in the converter's own environment: imports nothing of mmone.

usage: litert_convert.py PROGRAM OUT DTYPE N C H W
"""
import sys


def main(source: str, out: str, dtype: str, *shape: str) -> None:
    import litert_torch
    import torch

    class Program(torch.nn.Module):
        """The converter calls eval() on what it is given, which a program has not."""

        def __init__(self):
            super().__init__()
            self.program = torch.export.load(source).module()

        def forward(self, images):
            return self.program(images)

    example = torch.zeros(*map(int, shape), dtype=getattr(torch, dtype))
    litert_torch.convert(Program(), (example, )).export(out)


if __name__ == '__main__':
    main(*sys.argv[1:])
