"""Export a model in INT8, calibrated on some images without labels."""
from argparse import Namespace

from mmone.formats import FORMATS

from .parser import Parser

EXAMPLES = """\
Some hundred images like those that the model will see suffice; labels are not needed. Up to 50 of them are
held out: the file gets its name when it decides on those as the model in float does. It needs no special
instructions of a processor: nothing saturates on those without VNNI.

examples:
  mmone quantize CONFIG CHECKPOINT --out model.onnx --images photos/
  mmone quantize CONFIG CHECKPOINT --out model.xml --images photos/ --agreement 0.96
  mmone quantize CONFIG CHECKPOINT --out model.onnx --images photos/ --keep decode_head.conv_seg
  mmone quantize CONFIG CHECKPOINT --out model.onnx --images photos/ --latency 0.8

afterwards, as with any exported file:
  mmone test CONFIG model.onnx
  mmone predict photo.jpg --model model.onnx
"""


def add_arguments(parser: Parser) -> None:
    parser.add_config()
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='checkpoint in either form, in float')
    parser.add_argument('--out', required=True, metavar='PATH', help='file to write: .onnx, .xml, .param or .tflite')
    parser.add_argument('--images', required=True, metavar='DIR', help='images to calibrate and to compare on')
    parser.add_argument('--count', type=int, default=100, metavar='N',
                        help='how many to calibrate on, at most (default: %(default)s)')
    parser.add_argument('--format', choices=FORMATS, help='default: by the end of PATH')
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'),
                        help="height and width of the input (default: the config's test images)")
    parser.add_argument('--dynamic', default='', metavar='batch', help='leave the batch free')
    parser.add_argument('--logits', action='store_true',
                        help='give the logits too (classification and segmentation)')
    choice = parser.add_argument_group('what stays in float')
    choice.add_argument('--agreement', type=float, default=0.9, metavar='SHARE',
                        help='of the decisions on images held out, the share that must be those of the model in float: '
                        'best classes, boxes or pixels (default: %(default)s)')
    choice.add_argument('--most-kept', type=int, default=8, metavar='N',
                        help='how many layers, the most sensitive first, may stay in float to get there '
                        '(default: %(default)s)')
    choice.add_argument('--keep', nargs='+', default=[], metavar='LAYER',
                        help='layers that stay in float, by their names or parts of those')
    choice.add_argument('--latency', type=float, metavar='SHARE',
                        help='keep as many layers in float, the most sensitive first, as the file still takes at most '
                        "this share of the float one's time, in the same runtime on this machine")
    method = parser.add_argument_group('how')
    method.add_argument('--ranges', default='min-max', choices=('min-max', 'percentile', 'mse'),
                        help='ranges of activations (default: %(default)s)')
    method.add_argument('--rounding', default='compensated', choices=('compensated', 'nearest'),
                        help='of weights (default: %(default)s)')
    method.add_argument('--exponent', type=float, default=0.5, metavar='E',
                        help='how far a dense layer takes over the differences between the ranges of its inputs: 0, '
                        'not at all, to 1, all (default: %(default)s)')
    method.add_argument('--seed', type=int, default=0, help='of what is drawn (default: %(default)s)')
    parser.add_force('replace PATH if it exists')
    parser.add_trust()


def run(args: Namespace) -> None:
    from mmone.apis import get_model
    from mmone.config import load_config
    from mmone.errors import InputError
    from mmone.export import export_model
    from mmone.export.quantize import Int8
    from mmone.runtime import is_exported

    from .output import progress
    if is_exported(args.checkpoint):
        raise InputError(f'{args.checkpoint} is an exported model: expected the checkpoint that it is of')
    int8 = Int8(args.images, args.count, args.agreement, args.keep, args.most_kept, args.latency, args.ranges,
                args.rounding, args.exponent, seed=args.seed,
                progress=lambda items, text: progress(text, len(items))(items))
    int8.check()
    model = get_model(load_config(args.config, args.cfg_options), args.checkpoint, 'cpu', trust=args.trust)
    print(export_model(
        model, args.out, args.format, shape=args.shape and tuple(args.shape),
        dynamic=tuple(filter(None, args.dynamic.split(','))), logits=args.logits, source=args.checkpoint,
        overwrite=args.force, int8=int8))
