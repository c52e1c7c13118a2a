#!/usr/bin/env python
"""Predict images or videos with a classifier, detector or segmentor, and draw the predictions."""
import argparse

EPILOG = """\
INPUT is an image, a folder of images, a glob ('photos/*.jpg') or a video. OUT gets the drawn
pictures, by the names of their images, and predictions.json: {"model": …, "weights": …,
"predictions": [one record an input]}. A record has "input" (and "frame" of a video) and

  classification  "class", "label", "score", and "top5": [[class, score], …]
  detection       "boxes": [{"class", "label", "score", "box": [x1, y1, x2, y2]}, …], best first
  segmentation    "classes": {class: fraction of the pixels}
  undecodable     "error"

Exit status: 0, 1 if an input could not be decoded, 2 if nothing could be done.

examples:
  tools/predict.py photo.jpg --model mobileone-s0_8xb32_in1k --weights mobileone_s0.pth.tar
  tools/predict.py photos --model CONFIG --weights work_dirs/x/epoch_20_deploy.pth --out-dir out
"""


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EPILOG)
    parser.add_argument('inputs', nargs='+', metavar='INPUT', help='image, folder, glob or video')
    parser.add_argument('--model', required=True, metavar='NAME|CONFIG',
                        help='name in the model zoo, or config file')
    parser.add_argument('--weights', metavar='CHECKPOINT',
                        help='any source, either form (default: those published for the name)')
    parser.add_argument('--out-dir', default='predictions', metavar='DIR',
                        help='folder for pictures and predictions.json (default: %(default)s)')
    parser.add_argument('--device', help='e.g. cpu or cuda:1 (default: a GPU where there is one)')
    parser.add_argument('--batch-size', type=int, default=8, metavar='N', help='default: %(default)s')
    parser.add_argument('--score-thr', type=float, default=0.3, metavar='X',
                        help='boxes below it are not drawn (default: %(default)s)')
    parser.add_argument('--no-draw', action='store_true', help='write predictions.json only')
    parser.add_argument('--branches', action='store_true',
                        help='predict with the branches, as the model was trained')
    parser.add_argument('--trust', action='store_true',
                        help='allow a checkpoint that can run code when it is loaded')
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        parser.error(f'--batch-size must be at least 1, got {args.batch_size}')
    return args


def main(argv=None):
    args = parse_args(argv)
    from mmone.cli.boundary import error_boundary
    with error_boundary():
        from mmone.cli.predict import run
        failed = run(**vars(args))
    return 1 if failed else 0


if __name__ == '__main__':
    raise SystemExit(main())
