"""Export a classifier, detector or segmentor to a file that runs without PyTorch."""
from argparse import Namespace

from mmone.formats import FORMATS, SUFFIXES

from .parser import Parser

EXAMPLES = """\
The file takes RGB images (N, 3, H, W), uint8, and gives the final answer: scores; boxes and labels
after NMS; or a label map. It is compared with PyTorch on real images before it gets its name.

examples:
  mmone export CONFIG CHECKPOINT --out model.onnx
  mmone export CONFIG CHECKPOINT --out model.xml --dynamic batch
  mmone export CONFIG CHECKPOINT --out Model.mlpackage --half
  mmone export CONFIG CHECKPOINT --out model.onnx --shape 384 512 --logits

afterwards:
  mmone test CONFIG model.onnx
  mmone predict photo.jpg --model model.onnx
"""


def add_arguments(parser: Parser) -> None:
    parser.add_config()
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='checkpoint in either form')
    parser.add_argument('--out', required=True, metavar='PATH', help='file to write')
    parser.add_argument('--format', choices=FORMATS,
                        help=f'default: by the end of PATH, {", ".join(SUFFIXES)}')
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'),
                        help="height and width of the input (default: the config's test images')")
    parser.add_argument('--dynamic', default='', metavar='batch,hw',
                        help='leave the batch, or height and width, or both free')
    parser.add_argument('--half', action='store_true', help='float16 weights and network')
    parser.add_argument('--weights', choices=('int8', 'palette'),
                        help='of Core ML: store the weights in 8 bits, or as a palette of 64 values; a smaller file, '
                        'not a faster one')
    parser.add_argument('--raw', action='store_true',
                        help='take normalized float32 images instead of uint8')
    parser.add_argument('--logits', action='store_true',
                        help='give the logits too (classification and segmentation)')
    parser.add_argument('--images', metavar='DIR',
                        help="images to compare on (default: the config's test data where they are, "
                        'else generated ones)')
    parser.add_force('replace PATH if it exists')
    parser.add_trust()


def run(args: Namespace) -> None:
    from mmone.apis import get_model
    from mmone.config import load_config
    from mmone.export import export_model
    model = get_model(load_config(args.config, args.cfg_options), args.checkpoint, 'cpu', trust=args.trust)
    print(export_model(
        model, args.out, args.format, shape=args.shape and tuple(args.shape),
        dynamic=tuple(filter(None, args.dynamic.split(','))), half=args.half, raw=args.raw, logits=args.logits,
        images=args.images, source=args.checkpoint, overwrite=args.force, weights=args.weights))
