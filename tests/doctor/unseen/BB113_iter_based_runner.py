"""Iteration-based runner (mmcv-like): training is counted in iterations, a validation flow every N iterations."""
import logging
import sys

import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset

logging.basicConfig(stream=sys.stdout, format="%(levelname)s - %(message)s", level=logging.INFO)


class PoseSequences(Dataset):
    CLASSES = ("walk", "run", "jump", "sit", "fall")

    def __init__(self, n, seed, joints=10, frames=6):
        proto = torch.randn(len(self.CLASSES), joints * frames, generator=torch.Generator().manual_seed(50))
        g = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(0, len(self.CLASSES), (n,), generator=g)
        self.keypoints = 0.35 * proto[self.labels] + torch.randn(n, joints * frames, generator=g)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, idx):
        return dict(keypoint=self.keypoints[idx], gt_label=self.labels[idx])


class Recognizer(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(in_channels, 64), nn.LayerNorm(64), nn.ReLU())
        self.cls_head = nn.Linear(64, num_classes)

    def forward(self, keypoint, gt_label=None):
        scores = self.cls_head(self.backbone(keypoint))
        if gt_label is None:
            return scores
        return dict(loss=nn.functional.cross_entropy(scores, gt_label), num_samples=len(gt_label))


class IterBasedRunner:
    def __init__(self, model, optimizer, max_iters, log_interval=10, val_interval=20):
        self.model, self.optimizer = model, optimizer
        self.max_iters, self.log_interval, self.val_interval = max_iters, log_interval, val_interval
        self.iter = 0

    def run(self, data_loader, val_loader):
        while self.iter < self.max_iters:
            self.model.train()
            data = next(iter(data_loader))  # cause: BB113
            outputs = self.model(**data)
            self.optimizer.zero_grad()
            outputs["loss"].backward()
            self.optimizer.step()
            self.iter += 1
            if self.iter % self.log_interval == 0:
                logging.info("Iter [%d/%d] loss: %.4f", self.iter, self.max_iters, outputs["loss"].item())
            if self.iter % self.val_interval == 0:
                logging.info("Iter(val) [%d] top1_acc: %.4f", self.iter, self.val(val_loader))

    @torch.no_grad()
    def val(self, val_loader):
        self.model.eval()
        hit = 0
        for batch in val_loader:
            hit += (self.model(batch["keypoint"]).argmax(1) == batch["gt_label"]).sum().item()
        return hit / len(val_loader.dataset)


if __name__ == "__main__":
    torch.manual_seed(0)
    train_loader = DataLoader(PoseSequences(480, 0), batch_size=16)  # the annotation file is written in random order
    val_loader = DataLoader(PoseSequences(150, 1), batch_size=50)
    model = Recognizer(60, 5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    IterBasedRunner(model, optimizer, max_iters=60).run(train_loader, val_loader)
