#!/usr/bin/env python
"""``mmone shapes``, as a file."""
from mmone.cli import main

if __name__ == '__main__':
    raise SystemExit(main(command='shapes', prog='make_shapes'))
