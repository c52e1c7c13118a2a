"""Study how fast networks are on this machine and in a browser, a phone's too, and report it."""
import argparse
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

from . import studies
from .boundary import error_boundary
from .parser import Parser

EXAMPLES = """\
mmone lab ACTION --help has the arguments of an action, and more examples.

examples:
  mmone lab study --runtime onnxruntime openvino --threads 1 2
  mmone lab serve --host 0.0.0.0
"""


def add_arguments(parser: Parser) -> None:
    actions = parser.add_subparsers(metavar='ACTION', required=True)
    for name, (add, act, examples) in ACTIONS.items():
        text = act.__doc__ or ''
        action = actions.add_parser(name, help=text.partition('\n')[0], description=text, examples=examples)
        add(action)
        action.set_defaults(act=act, parser=action)


def run(args: Namespace) -> int | None:
    with error_boundary(args.parser):  # whose flags the action has
        return args.act(args)


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('models', nargs='*', metavar='MODEL',
                        help='what mmone bench takes; exported .onnx files can be tried on pictures too (default: '
                        'MobileOne and networks that the paper sets beside it)')
    parser.add_argument('--out', type=Path, default=Path('lab.db'), metavar='FILE',
                        help='where measurements are kept (default: %(default)s)')
    parser.add_argument('--host', default='127.0.0.1',
                        help='address to listen on; 0.0.0.0 lets the network in, by a token in the address (default: '
                        '%(default)s)')
    parser.add_argument('--port', type=int, default=8014, metavar='N', help='default: %(default)s')
    parser.add_argument('--certificate', type=Path, nargs=2, metavar=('CERT', 'KEY'),
                        help='PEM files, for https: without, browsers give a phone one thread and no WebGPU')


def _serve(args: Namespace) -> None:
    """Serve a page that measures models in a browser, and tries them on pictures."""
    import segno

    from mmone.lab.served import USUAL, find_served
    from mmone.lab.server import Server

    from .output import progress
    server = Server(args.out, args.host, args.port, args.certificate)
    models = [find_served(name) for name in progress('making models ready')(args.models or USUAL)]
    if server.token:
        segno.make(server.address).terminal(compact=True)
    print(f'{server.address}\nMeasurements are kept in {args.out}. Ctrl-C ends it.', flush=True)
    with suppress(KeyboardInterrupt):
        server.run(models, lambda line: print(line, flush=True))


def _add_setup(parser: argparse.ArgumentParser) -> None:
    pass


def _set_up(args: Namespace) -> None:
    """Fetch ONNX Runtime Web from the npm registry, once."""
    from mmone.lab import ort_web
    if not ort_web.is_set_up():
        print(f'fetching onnxruntime-web {ort_web.VERSION}, {ort_web.SIZE / 1e6:.0f} MB', flush=True)
    print(f'onnxruntime-web {ort_web.VERSION} is in {ort_web.set_up()}')


ACTIONS = {
    **studies.ACTIONS,
    'serve': (_add_serve, _serve, """\
examples:
  mmone lab serve model.onnx
  mmone lab serve model.onnx --host 0.0.0.0
      for a phone: scan the code that is printed
"""),
    'setup': (_add_setup, _set_up, ''),
}
