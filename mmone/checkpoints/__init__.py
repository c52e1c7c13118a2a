from .io import read_checkpoint, write_checkpoint
from .sources import convert, recognise, to_mmone

__all__ = ['convert', 'read_checkpoint', 'recognise', 'to_mmone', 'write_checkpoint']
