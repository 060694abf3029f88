"""Transfer learning: train the new head and the last stage only."""
import copy
import torch
import torch.nn as nn
import torch.optim as optim
from torch.utils.data import DataLoader, TensorDataset


class TinyResNet(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Linear(24, 32), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Linear(32, 32), nn.ReLU())
        self.layer3 = nn.Sequential(nn.Linear(32, 32), nn.ReLU())
        self.fc = nn.Linear(32, num_classes)

    def forward(self, x):
        return self.fc(self.layer3(self.layer2(self.layer1(x))))


def initialize_model(num_classes):
    torch.manual_seed(0)
    model_ft = TinyResNet()
    for param in model_ft.parameters():
        param.requires_grad = False
    for param in model_ft.layer3.parameters():
        param.require_grad = True  # cause: BB207
    model_ft.fc = nn.Linear(model_ft.fc.in_features, num_classes)
    return model_ft


def toy(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 24, generator=g)
    y = (x[:, 0] - x[:, 1] > 0).long() + 2 * (x[:, 2] + x[:, 3] > 0).long()
    return TensorDataset(x, y)


def train_model(model, dataloaders, criterion, optimizer, num_epochs=3):
    best_wts, best_acc = copy.deepcopy(model.state_dict()), 0.0
    for epoch in range(num_epochs):
        print(f"Epoch {epoch}/{num_epochs - 1}")
        for phase in ["train", "val"]:
            model.train() if phase == "train" else model.eval()
            running_loss, running_corrects = 0.0, 0
            for inputs, labels in dataloaders[phase]:
                optimizer.zero_grad()
                with torch.set_grad_enabled(phase == "train"):
                    outputs = model(inputs)
                    loss = criterion(outputs, labels)
                    if phase == "train":
                        loss.backward()
                        optimizer.step()
                running_loss += loss.item() * inputs.size(0)
                running_corrects += torch.sum(outputs.argmax(1) == labels).item()
            n = len(dataloaders[phase].dataset)
            print(f"  {phase} Loss: {running_loss / n:.4f} Acc: {running_corrects / n:.4f}")
            if phase == "val" and running_corrects / n > best_acc:
                best_acc = running_corrects / n
                best_wts = copy.deepcopy(model.state_dict())
    model.load_state_dict(best_wts)
    return model


if __name__ == "__main__":
    model_ft = initialize_model(4)
    loaders = {"train": DataLoader(toy(320, 1), 32, shuffle=True), "val": DataLoader(toy(100, 2), 50)}
    optimizer_ft = optim.Adam(model_ft.parameters(), lr=1e-2)
    train_model(model_ft, loaders, nn.CrossEntropyLoss(), optimizer_ft)
