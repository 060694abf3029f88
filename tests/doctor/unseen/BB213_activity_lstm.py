"""Human activity recognition from wrist sensors, LSTM classifier."""
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SEQ_LEN, N_SENSORS, HIDDEN, CLASSES = 20, 6, 24, 4


def load_split(n, seed):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, CLASSES, (n,), generator=g)
    t = torch.arange(SEQ_LEN).float()
    phase = torch.rand(n, 1, N_SENSORS, generator=g) * 6.28
    freq = (0.3 + 0.3 * y.float()).view(-1, 1, 1)
    x = torch.sin(freq * t.view(1, -1, 1) + phase) + 0.3 * torch.randn(n, SEQ_LEN, N_SENSORS, generator=g)
    return TensorDataset(x, y)


class LSTMClassifier(nn.Module):
    def __init__(self, input_dim, hidden_dim, layer_dim, output_dim):
        super().__init__()
        self.hidden_dim = hidden_dim
        self.rnn = nn.LSTM(input_dim, hidden_dim, layer_dim)  # cause: BB213
        self.fc = nn.Linear(hidden_dim, output_dim)

    def forward(self, x):
        # x: (batch, seq, sensors)
        out, _ = self.rnn(x)
        return self.fc(out[:, -1, :])


def epoch_pass(model, loader, criterion, opt=None):
    model.train(opt is not None)
    loss_sum = acc_sum = n = 0
    for x, y in loader:
        x, y = x.to(device), y.to(device)
        with torch.set_grad_enabled(opt is not None):
            logits = model(x)
            loss = criterion(logits, y)
        if opt is not None:
            opt.zero_grad()
            loss.backward()
            opt.step()
        loss_sum += loss.item() * y.size(0)
        acc_sum += (logits.argmax(1) == y).sum().item()
        n += y.size(0)
    return loss_sum / n, acc_sum / n


torch.manual_seed(0)
trn_dl = DataLoader(load_split(256, 0), batch_size=32, shuffle=True)
val_dl = DataLoader(load_split(96, 1), batch_size=32)
model = LSTMClassifier(N_SENSORS, HIDDEN, 2, CLASSES).to(device)
criterion = nn.CrossEntropyLoss()
opt = optim.RMSprop(model.parameters(), lr=3e-3)
print("Start model training")
for epoch in range(1, 4):
    tl, ta = epoch_pass(model, trn_dl, criterion, opt)
    vl, va = epoch_pass(model, val_dl, criterion)
    print(f"Epoch: {epoch:3d}. Loss: {tl:.4f} ({ta:.2%}). Val loss {vl:.4f} acc {va:.2%}")
