#!/usr/bin/env python
"""``mmone config``, as a file."""
from mmone.cli import main

if __name__ == '__main__':
    raise SystemExit(main(command='config', prog='print_config.py'))
