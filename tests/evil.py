"""Files that were made to run a command, or to break what reads them, when they are opened."""
import json
import os
import pickle
import struct
import tarfile
import zipfile

import torch


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command, )


class Saves(torch.nn.Module):
    """A program that writes a file when it is computed; TorchScript has an operator for it."""

    def __init__(self, path):
        super().__init__()
        self.path: str = path

    def forward(self, images: torch.Tensor):
        torch.save(images, self.path)
        return images


def text_of(marker):
    """A config that runs a command when it is executed."""
    return f'import os\nos.system("touch {marker}")\nmodel = dict(backbone=dict(type="mmone.MobileOne"))\n'


def checkpoints(folder, marker, state_dict):
    """A file of each kind that must be refused, with what its message must have in it; by kind."""
    whole = dict(state_dict=state_dict, meta=Evil(f'touch {marker}'))
    made = {}

    def path(name, words='posix.system'):
        made[name] = (folder / f'{name}.pth', words)
        return folder / f'{name}.pth'

    torch.save(whole, path('archive'))
    torch.save(whole, path('archive4'), pickle_protocol=4)
    torch.save(whole, path('old'), _use_new_zipfile_serialization=False)
    for protocol in range(6):
        path(f'pickle{protocol}').write_bytes(pickle.dumps(dict(state_dict={}, meta=whole['meta']), protocol))
    torch.jit.script(Saves(str(marker))).save(str(path('program', 'TorchScript')))
    with zipfile.ZipFile(path('bomb', 'would unpack to'), 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('archive/data.pkl', bytes(10_000_000))
    with zipfile.ZipFile(path('outside', 'without weights'), 'w') as archive:
        archive.writestr('../../outside.txt', 'x')
    with tarfile.open(path('tar', 'a tar archive'), 'w') as archive:
        archive.add(__file__)
    for name, header in (('long', b''), ('huge', {'a': dict(dtype='F32', shape=[1 << 40], data_offsets=[0, 1 << 42])}),
                         ('beyond', {'a': dict(dtype='F32', shape=[4], data_offsets=[-16, 0])}),
                         ('nested', b'[' * 100_000)):
        header = header if isinstance(header, bytes) else json.dumps(header).encode()
        made[name] = (folder / f'{name}.safetensors', 'no safetensors file')
        length = 1 << 62 if name == 'long' else len(header)
        made[name][0].write_bytes(struct.pack('<Q', length) + header)
    return made
