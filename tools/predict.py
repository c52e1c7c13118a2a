#!/usr/bin/env python
"""``mmone predict``, as a file."""
from mmone.cli import main

if __name__ == '__main__':
    raise SystemExit(main(command='predict', prog='predict.py'))
