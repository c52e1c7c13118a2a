#!/usr/bin/env python
"""``mmone browse``, as a file."""
from mmone.cli import main

if __name__ == '__main__':
    raise SystemExit(main(command='browse', prog='browse_dataset.py'))
