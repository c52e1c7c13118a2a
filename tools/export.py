#!/usr/bin/env python
"""``mmone export``, as a file."""
from mmone.cli import main

if __name__ == '__main__':
    raise SystemExit(main(command='export', prog='export.py'))
