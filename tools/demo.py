#!/usr/bin/env python
"""``mmone demo``, as a file."""
from mmone.cli import main

if __name__ == '__main__':
    raise SystemExit(main(command='demo', prog='demo.py'))
