#!/usr/bin/env python
"""``mmone train``, as a file."""
from mmone.cli import main

if __name__ == '__main__':
    raise SystemExit(main(command='train', prog='train.py'))
