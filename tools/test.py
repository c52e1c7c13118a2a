#!/usr/bin/env python
"""``mmone test``, as a file."""
from mmone.cli import main

if __name__ == '__main__':
    raise SystemExit(main(command='test', prog='test.py'))
