#!/usr/bin/env python
"""``mmone flops``, as a file."""
from mmone.cli import main

if __name__ == '__main__':
    raise SystemExit(main(command='flops', prog='get_flops.py'))
