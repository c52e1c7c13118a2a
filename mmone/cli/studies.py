"""What ``mmone lab`` does with this machine: the study, the ablations, and the report of both."""
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from .bench import add_file, add_measuring, measured
from .parser import Parser


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
    add_measuring(parser)
    _add_folder(parser)


def _add_report(parser: Parser) -> None:
    add_file(parser)
    _add_folder(parser)


def _add_folder(parser: Parser) -> None:
    parser.add_argument('--report', type=Path, default=Path('lab-report'), metavar='DIR',
                        help='folder of the report, which replaces an earlier one (default: %(default)s)')


def _measure(args: Namespace, names: Iterable[str]) -> int:
    from mmone.lab.document import check_folder
    check_folder(args.report)
    return measured(args, names, lambda store, tasks: _write(store, args.report))


def _report(args: Namespace) -> None:
    """Write the report of everything that the lab's file has, without measuring."""
    from mmone.errors import InputError
    from mmone.lab.store import Store
    if not args.out.is_file():
        raise InputError(f'there are no measurements: {args.out} does not exist')
    with Store(args.out) as store:
        _write(store, args.report)


def _write(store, folder: Path) -> None:
    from mmone.lab.report import write_report
    path = write_report(store.measurements(), folder)
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
