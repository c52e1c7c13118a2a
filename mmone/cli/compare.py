"""Compare models on one test set: how sure the differences are, what each costs, where they disagree."""
import sys
from argparse import Namespace
from pathlib import Path

from .bench import shown
from .output import aligned
from .parser import Parser, config_file, positive

EXAMPLES = """\
MODEL is CONFIG=CHECKPOINT; a name of the model zoo, or of a library's as mmdet::NAME, which has published
weights, or has others as NAME=CHECKPOINT; or an exported file. All are of one task and of the same classes, are
deployed, and get the same images, which each prepares by its own config.

DIR gets report/ (report.md with pictures, and report.html with everything in it), predictions/ and lab.db: what
is there is not computed again, and the same command after an interruption goes on with the rest.

Exit status: 0, 2 if nothing could be compared, 130 if interrupted.

examples:
  mmone compare a.py=a.pth b.py=b.pth
  mmone compare a.py=epoch_60.pth a.onnx a_int8.onnx --out int8
  mmone compare mobileone-s0_8xb32_in1k mmpretrain::mobilenet-v2_8xb32_in1k --data imagenet.py
"""


def add_arguments(parser: Parser) -> None:
    parser.add_argument('models', nargs='+', metavar='MODEL', help='two or more')
    parser.add_argument('--data', metavar='CONFIG', type=config_file,
                        help="config of the test set (default: the first model's)")
    parser.add_cfg_options('override entries of that config, e.g. test_dataloader.dataset.data_root=DIR')
    parser.add_argument('--out', type=Path, default=Path('comparison'), metavar='DIR', help='default: %(default)s')
    parser.add_argument('--pictures', type=positive, default=6, metavar='N',
                        help='of how many images, those on which they disagree most (default: %(default)s)')
    parser.add_argument('--runs', type=positive, default=100, metavar='N',
                        help='of each model, to measure its latency (default: %(default)s)')
    parser.add_argument('--no-latency', action='store_true', help='do not measure it')
    parser.add_trust()


def run(args: Namespace) -> int:
    from mmone.experiments.comparison import compare
    from mmone.experiments.comparison.report import table, verdict, write
    try:
        with shown() as listen:
            found = compare(args.models, args.data, args.out, args.cfg_options, not args.no_latency, args.runs,
                            args.trust, listen)
        report = write(found, args.out, args.pictures)
    except KeyboardInterrupt:
        print(f'interrupted: what was computed is in {args.out}, and the same command goes on with the rest',
              file=sys.stderr)
        return 130
    head, *rows = table(found)
    print(aligned([[name.removesuffix('>') for name in head], *rows]))
    for pair in found.pairs:
        print(verdict(pair, len(found.test_set)))
    print(f'report in {report} and {report.with_suffix(".html")}')
    return 0
