#!/usr/bin/env python
"""``mmone convert``, as a file."""
from mmone.cli import main

if __name__ == '__main__':
    raise SystemExit(main(command='convert', prog='convert.py'))
