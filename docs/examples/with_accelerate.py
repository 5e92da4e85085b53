"""Trains a small ViT on tickets with Hugging Face Accelerate.

pip install accelerate
accelerate launch docs/examples/with_accelerate.py dataltt-demo/train.zarr
"""

from __future__ import annotations

import sys

import dataltt
import timm
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.utils.data import DataLoader


def main(tickets: str, epochs: int = 2) -> None:
    accelerator = Accelerator()
    data = dataltt.dataset(tickets=tickets, batch_size=16)
    # Not prepared: Accelerate would deal the batches to processes once more, and each has its own share already.
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
    net, optimizer = accelerator.prepare(net, torch.optim.AdamW(net.parameters(), lr=1e-3))
    device = accelerator.device
    for epoch in range(epochs):
        data.set_epoch(epoch)
        for batch in loader:
            logits = net(data.normalize(batch.images.to(device)), batch.keep_indices.to(device))
            loss = F.cross_entropy(logits, batch.labels.to(device))
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        accelerator.print(f"epoch {epoch}: loss {loss.item():.3f}")
    accelerator.save(accelerator.unwrap_model(net).state_dict(), "with_accelerate.pt")  # of a plain ViT


if __name__ == "__main__":
    main(sys.argv[1])
