"""Trains a small ViT on tickets with Lightning.

pip install lightning
python docs/examples/with_lightning.py dataltt-demo/train.zarr
"""

from __future__ import annotations

import sys

import dataltt
import lightning
import timm
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader


class TicketModule(lightning.LightningModule):
    def __init__(self, data) -> None:
        super().__init__()
        m = data.manifest
        vit = timm.create_model(
            "vit_tiny_patch16_224",
            img_size=m.image_px,
            patch_size=m.patch_px,
            in_chans=len(m.view.mean),
            num_classes=10,
        )
        self.data, self.net = data, dataltt.prune(vit)

    def train_dataloader(self) -> DataLoader:
        # Each rank has its own share already: Lightning adds no sampler to a data set that is iterated.
        return DataLoader(self.data, batch_size=None, num_workers=2)

    def on_train_epoch_start(self) -> None:
        self.data.set_epoch(self.current_epoch)

    def training_step(self, batch, _: int) -> Tensor:
        loss = F.cross_entropy(self.net(self.data.normalize(batch.images), batch.keep_indices), batch.labels)
        self.log("loss", loss, batch_size=len(batch.labels))
        return loss

    def on_train_epoch_end(self) -> None:
        print(f"epoch {self.current_epoch}: loss {self.trainer.callback_metrics['loss']:.3f}")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main(tickets: str, epochs: int = 2) -> None:
    module = TicketModule(dataltt.dataset(tickets=tickets, batch_size=16))
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    lightning.Trainer(max_epochs=epochs, **options).fit(module)
    torch.save(module.net.state_dict(), "with_lightning.pt")  # of a plain ViT


if __name__ == "__main__":
    main(sys.argv[1])
