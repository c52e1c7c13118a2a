from .io import read_checkpoint, write_checkpoint
from .sources import SOURCES, recognise, rename, to_mmone

__all__ = ['SOURCES', 'read_checkpoint', 'recognise', 'rename', 'to_mmone', 'write_checkpoint']
