#!/usr/bin/env python
"""``mmone reparameterize``, as a file."""
from mmone.cli import main

if __name__ == '__main__':
    raise SystemExit(main(command='reparameterize', prog='reparameterize.py'))
