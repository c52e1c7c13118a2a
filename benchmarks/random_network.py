#!/usr/bin/env python
"""Write a checkpoint for a classifier's config that nobody trained, to quantize it all the same.

Random weights, norms of different channels by --spread, the statistics of images of the config's training data, and,
unless --no-head, a head that is fitted to the labels of 1,280 of them: answers then depend on the image, as a trained
network's do.

example:
  benchmarks/random_network.py configs/classification/mobileone-s1_1xb64-60e_cifar10-small.py s1.pth
"""
import argparse

import torch
import torch.nn.functional as F

from mmone.config import build_model, default_scope, load_config
from mmone.convert import deployed_copy
from mmone.convert.calibrate import training_images, training_loader
from mmone.convert.expand import calibrate

BATCHES, FITTED = 8, 20


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('out')
    parser.add_argument('--spread', type=float, default=0.5, help='standard deviation of the logarithms of the '
                        "norms' weights (default: %(default)s)")
    parser.add_argument('--no-head', action='store_true', help='leave the head random')
    return parser.parse_args()


def fit_head(model, loader) -> None:
    """Ridge regression of the labels on the deployed network's features."""
    deployed, _ = deployed_copy(model)
    features, labels = [], []
    with torch.no_grad():
        for _, batch in zip(range(FITTED), loader):
            data = model.data_preprocessor(batch)
            features.append(deployed.extract_feat(data['inputs'])[-1])
            labels += [int(sample.gt_label) for sample in data['data_samples']]
    x, y = torch.cat(features).double(), 10 * F.one_hot(torch.tensor(labels)).double()
    mean, centred = x.mean(0), x - x.mean(0)
    penalty = centred.square().sum(0).mean() * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(centred.T @ centred + penalty, centred.T @ (y - y.mean(0)))
    model.head.fc.weight.data, model.head.fc.bias.data = weights.T.float(), (y.mean(0) - mean @ weights).float()


def main():
    args = parse_args()
    cfg = load_config(args.config)
    cfg.model.backbone.init_gamma = 1.0
    torch.manual_seed(0)
    model = build_model(cfg)
    with default_scope(cfg):
        model.init_weights()
    generator = torch.Generator().manual_seed(1)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.weight.data = torch.exp(args.spread * torch.randn(norm.weight.shape, generator=generator))
            norm.bias.data = 0.3 * torch.randn(norm.bias.shape, generator=generator)
    loader = training_loader(cfg)
    calibrate(model.backbone, training_images(cfg, loader, BATCHES))
    if not args.no_head:
        with default_scope(cfg):
            fit_head(model.eval(), loader)
    torch.save(dict(state_dict=model.state_dict()), args.out)


if __name__ == '__main__':
    main()
