"""Trains a small ViT on tickets, in plain PyTorch.

python docs/examples/plain_pytorch.py dataltt-demo/train.zarr
torchrun --nproc-per-node 2 docs/examples/plain_pytorch.py dataltt-demo/train.zarr
"""

from __future__ import annotations

import os
import sys

import dataltt
import timm
import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader


def main(tickets: str, epochs: int = 2) -> None:
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
    data = dataltt.dataset(tickets=tickets, batch_size=16)
    loader = DataLoader(data, batch_size=None, num_workers=2)
    m = data.manifest
    vit = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=m.image_px,
        patch_size=m.patch_px,
        in_chans=len(m.view.mean),
        num_classes=10,
    )
    net = dataltt.prune(vit)
    if torch.distributed.is_initialized():
        net = DistributedDataParallel(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for epoch in range(epochs):
        data.set_epoch(epoch)
        for batch in loader:
            loss = F.cross_entropy(net(data.normalize(batch.images), batch.keep_indices), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")
    torch.save(vit.state_dict(), "plain_pytorch.pt")  # of a plain ViT: net and vit share their parameters
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
