#!/usr/bin/env python3
"""A C++ compiler (``CXX``) that parses PyTorch's headers once for all sources of mmcv.

Each of mmcv's 77 sources includes ``pytorch_cpp_helper.hpp``, whose headers take nearly all of their compile
time. The first call precompiles it, with the flags that it was called with, which are those of all. Where the
compiler does not take that, sources are compiled as they are. mmcv asks for C++17; where PyTorch's headers need C++20,
that is what they get. The compiler is ``c++``, or MMONE_CXX.
"""
import fcntl
import os
import subprocess
import sys
from pathlib import Path


def find(header: str, args: list[str]) -> Path | None:
    folders = [Path(arg[2:]) for arg in args if arg.startswith('-I')]
    return next((found for folder in folders if (found := folder / header).exists()), None)


def standard(args: list[str]) -> list[str]:
    """The flag that PyTorch's headers need after mmcv's own."""
    header = find('ATen/ATen.h', args)
    return ['-std=c++20'] if header and '#error C++20' in header.read_text() else []


def precompiled(compiler: list[str], args: list[str]) -> Path | None:
    """The header that is precompiled beside itself, made by whoever comes first; None if it cannot be."""
    header = find('pytorch_cpp_helper.hpp', args)
    if header is None:
        return None
    compiled, failed = header.with_suffix('.hpp.gch'), header.with_suffix('.hpp.failed')
    with open(header) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not compiled.exists() and not failed.exists():
            partial = header.with_suffix('.hpp.partial')
            # Flags alone: not -c SOURCE, -o OBJECT, -MMD, -MF FILE.
            flags = [arg for before, arg in zip(['', *args], args)
                     if arg not in ('-c', '-o', '-MF', '-MMD') and before not in ('-c', '-o', '-MF')]
            done = subprocess.run([*compiler, *flags, '-x', 'c++-header', header, '-o', partial],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if done.returncode == 0:
                os.replace(partial, compiled)
            else:
                failed.touch()
    return header if compiled.exists() else None


def main() -> None:
    compiler, args = os.environ.get('MMONE_CXX', 'c++').split(), sys.argv[1:]
    args += standard(args)
    header = precompiled(compiler, args) if '-c' in args else None
    os.execvp(compiler[0], [*compiler, *(['-include', str(header)] if header else []), *args])


if __name__ == '__main__':
    main()
