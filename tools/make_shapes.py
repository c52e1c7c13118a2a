#!/usr/bin/env python
"""Generate images of coloured shapes with class folders, boxes and masks.

Running it again with the same arguments does nothing. A folder made with other arguments is
replaced with ``--force``; a folder that it did not make, never. The layout is described in
``mmone/datasets/shapes.py``.
"""
import argparse
import sys
from functools import partial
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import track

from mmone.datasets.shapes import make_dataset, make_preview


def parse_args() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        prog='make_shapes', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='folder to make')
    parser.add_argument('--images', type=int, required=True, help='number of images')
    parser.add_argument('--seed', type=int, default=0, help='default: 0')
    parser.add_argument('--size', type=int, default=128, help='side in pixels, default: 128')
    parser.add_argument(
        '--val-fraction', type=float, default=0.2, help='part for validation, default: 0.2')
    parser.add_argument(
        '--force', action='store_true', help='replace a data set made with other arguments')
    parser.add_argument(
        '--preview', type=Path, metavar='PNG', help='also draw a contact sheet of the first images')
    return parser, parser.parse_args()


def main() -> None:
    parser, args = parse_args()
    console = Console(stderr=True)
    bar = partial(track, description='shapes', console=console, disable=not console.is_terminal)
    try:
        made = make_dataset(args.out, args.images, args.seed, args.size, args.val_fraction,
                            args.force, bar)
        print(f'{args.images} images in {args.out}' if made else f'{args.out}: already there')
        if args.preview:
            sheet = make_preview(args.seed, min(args.images, 24), args.size)
            Image.fromarray(sheet).save(args.preview)
            print(f'contact sheet in {args.preview}')
    except (OSError, ValueError) as error:
        parser.exit(2, f'make_shapes: error: {error}\n')
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == '__main__':
    main()
