#!/usr/bin/env python
"""Run the tests of the C code with AddressSanitizer and UndefinedBehaviorSanitizer, and many random inputs.

    python tests/sanitize.py [ARGUMENT OF PYTEST ...]

The module is built to ``build/sanitize`` and put where the tests look for it; the package's own is left alone. An
access outside of its memory, or what the C standard leaves undefined, ends the process with a report.
"""
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / 'build' / 'sanitize'
MODULE = BUILD / 'mmone' / '_ext.abi3.so'
FLAGS = '-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g'
# Without those that start processes, which do not get this build.
TESTS = ['tests/test_csrc/test_ext.py', 'tests/test_csrc/test_fuzz.py',
         *(f'tests/test_models/test_blocks/test_{name}.py' for name in ('branch_statistics', 'compiled', 'inputs')),
         'tests/test_models/test_blocks/test_fused_branches.py', '-k', 'not torch_compile and not processes']
EXAMPLES = '1000'
INSIDE = 'MMONE_SANITIZED'


def build() -> None:
    MODULE.unlink(missing_ok=True)
    subprocess.run([sys.executable, 'setup.py', '--quiet', 'build_ext', '--force', '--build-lib', BUILD, '--build-temp',
                    BUILD / 'temp'], cwd=ROOT, env={**os.environ, 'CFLAGS': FLAGS, 'LDFLAGS': FLAGS}, check=True)
    if not MODULE.exists():
        sys.exit(f'sanitize: {MODULE} was not built: see the lines above')


def library(name: str) -> str:
    """Where the compiler has a library of its own."""
    found = subprocess.run([os.environ.get('CC', 'gcc'), f'-print-file-name={name}'], check=True, capture_output=True,
                           text=True).stdout.strip()
    if not Path(found).is_absolute():
        sys.exit(f'sanitize: the compiler has no {name}')
    return os.path.realpath(found)


def environment() -> dict[str, str]:
    return {
        **os.environ,
        # First of all, and C++'s with it: AddressSanitizer must find the functions that throw when it starts.
        'LD_PRELOAD': f'{library("libasan.so")}:{library("libstdc++.so")}',
        # Python and PyTorch keep what they allocate until they end.
        'ASAN_OPTIONS': 'detect_leaks=0:detect_stack_use_after_return=1',
        'UBSAN_OPTIONS': 'print_stacktrace=1',
        'MMONE_FUZZ': os.environ.get('MMONE_FUZZ', EXAMPLES),
        INSIDE: '1',
    }


def test(arguments: list[str]) -> int:
    import pytest
    import torch  # noqa: F401  brings OpenMP, which the module does not load itself

    spec = importlib.util.spec_from_file_location('mmone._ext', MODULE)
    sys.modules['mmone._ext'] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    print(f'sanitize: {module.__file__}')
    return pytest.main(arguments or TESTS)


def main() -> None:
    if INSIDE in os.environ:
        os.chdir(ROOT)
        sys.path.insert(0, str(ROOT))
        sys.exit(test(sys.argv[1:]))
    build()
    os.execve(sys.executable, [sys.executable, __file__, *sys.argv[1:]], environment())


if __name__ == '__main__':
    main()
