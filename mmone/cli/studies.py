"""What ``mmone lab`` does with this machine: the study, the ablations, and the report of both."""
import sys
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from .bench import shown
from .parser import Parser, positive


def _add_study(parser: Parser) -> None:
    parser.add_argument('--models', nargs='+', metavar='NAME',
                        help='networks, by the names that mmone bench takes (default: all of the study)')
    _add_measuring(parser)


def _study(args: Namespace) -> int:
    """Measure MobileOne and its peers on this machine, and write the report."""
    from mmone.lab.peers import PEERS
    return _measure(args, args.models or PEERS)


def _ablation(args: Namespace) -> int:
    """Measure what activations and blocks cost in a 30-layer network, and write the report."""
    from mmone.lab.ablation import NETWORKS
    return _measure(args, NETWORKS)


def _add_measuring(parser: Parser) -> None:
    parser.add_argument('--runtime', nargs='+', metavar='NAME', help='as of mmone bench (default: onnxruntime)')
    parser.add_argument('--threads', nargs='+', type=positive, default=[1], metavar='N',
                        help='each is measured (default: 1)')
    parser.add_argument('--batch', type=positive, default=1, metavar='N', help='images at once (default: 1)')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu', help='default: cpu')
    parser.add_argument('--runs', type=positive, default=100, metavar='N', help='of each network (default: 100)')
    _add_report(parser)


def _add_report(parser: Parser) -> None:
    parser.add_argument('--out', type=Path, default=Path('lab.db'), metavar='FILE',
                        help="the lab's file, with the measurements of all machines (default: %(default)s)")
    parser.add_argument('--report', type=Path, default=Path('lab-report'), metavar='DIR',
                        help='folder of the report, which replaces an earlier one (default: %(default)s)')


def _measure(args: Namespace, names: Iterable[str]) -> int:
    from mmone.lab.measure import measure, plan
    from mmone.lab.report import check_folder
    from mmone.lab.store import Store
    from mmone.lab.subjects import find_subject
    check_folder(args.report)
    tasks = plan([find_subject(name) for name in names], args.runtime, args.threads, args.batch, device=args.device)
    with Store(args.out) as store:
        try:
            with shown() as listen:
                failures = measure(tasks, store, args.runs, listen=listen)
        except KeyboardInterrupt:
            print(f'interrupted: what was measured is in {args.out}, and the same command goes on with the rest',
                  file=sys.stderr)
            return 130
    for failure in failures:
        print(f'not measured: {failure.task}: {failure.reason}', file=sys.stderr)
    _report(args)
    return 1 if failures else 0


def _report(args: Namespace) -> None:
    """Write the report of everything that the lab's file has, without measuring."""
    from mmone.errors import InputError
    from mmone.lab.report import write_report
    from mmone.lab.store import Store
    if not args.out.is_file():
        raise InputError(f'there are no measurements: {args.out} does not exist')
    with Store(args.out) as store:
        path = write_report(store.measurements(), args.report)
    print(f'report in {path} and {path.with_suffix(".html")}')


# As in mmone.cli.lab: what adds the arguments, what runs, and examples.
ACTIONS = {
    'study': (_add_study, _study, """\
Each measurement is kept at once; the same command after an interruption goes on with the rest, and where
nothing is missing it writes the report only.

examples:
  mmone lab study
  mmone lab study --runtime onnxruntime openvino torch --threads 1 2
  mmone lab study --models mobileone-s0 mobilenetv2_100 mobilenetv3_large_100 --report report
"""),
    'ablation': (_add_measuring, _ablation, """\
examples:
  mmone lab ablation --runtime onnxruntime openvino torch
"""),
    'report': (_add_report, _report, """\
examples:
  mmone lab report --out lab.db --report lab-report
"""),
}
