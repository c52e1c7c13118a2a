#!/usr/bin/env python
"""Export a classifier, detector or segmentor to a file that runs without PyTorch."""
from arguments import Parser

EXAMPLES = """\
The file takes RGB images (N, 3, H, W), uint8, and gives the final answer: scores; boxes and labels
after NMS; or a label map. It is compared with PyTorch on real images before it gets its name.

examples:
  tools/export.py CONFIG CHECKPOINT --out model.onnx
  tools/export.py CONFIG CHECKPOINT --out model.xml --dynamic batch
  tools/export.py CONFIG CHECKPOINT --out Model.mlpackage --half
  tools/export.py CONFIG CHECKPOINT --out model.onnx --shape 384 512 --logits

afterwards:
  tools/test.py CONFIG model.onnx
  tools/predict.py photo.jpg --model model.onnx
"""
FORMATS = ('onnx', 'openvino', 'coreml', 'torchscript', 'pt2')


def parse_args(argv=None):
    parser = Parser(__doc__, EXAMPLES)
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='checkpoint in either form')
    parser.add_argument('--out', required=True, metavar='PATH', help='file to write')
    parser.add_argument('--format', choices=FORMATS,
                        help='default: by the end of PATH, .onnx, .xml, .mlpackage, .pt or .pt2')
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'),
                        help="height and width of the input (default: the config's test images')")
    parser.add_argument('--dynamic', default='', metavar='batch,hw',
                        help='leave the batch, or height and width, or both free')
    parser.add_argument('--half', action='store_true', help='float16 weights and network')
    parser.add_argument('--raw', action='store_true',
                        help='take normalized float32 images instead of uint8')
    parser.add_argument('--logits', action='store_true',
                        help='give the logits too (classification and segmentation)')
    parser.add_argument('--images', metavar='DIR',
                        help="images to compare on (default: the config's test data where they are, "
                        'else generated ones)')
    parser.add_argument('--force', action='store_true', help='replace PATH if it exists')
    parser.add_argument(
        '--trust', action='store_true', help='allow a checkpoint that can run code when it is loaded')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from mmone.cli.boundary import error_boundary
    with error_boundary():
        from mmone.config import load_config
        from mmone.export.export import export_model
        print(export_model(
            load_config(args.config, args.cfg_options), args.checkpoint, args.out, args.format,
            shape=args.shape and tuple(args.shape), dynamic=tuple(filter(None, args.dynamic.split(','))),
            half=args.half, raw=args.raw, logits=args.logits, images=args.images,
            overwrite=args.force, trust=args.trust))


if __name__ == '__main__':
    main()
