"""CTC: log-softmax in the model, time-major output, zero_infinity, bidirectional GRU with time first on purpose."""
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(0)
BLANK, V = 0, 5


class Acoustic(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(6, 32, bidirectional=True)     # (T, B, F)
        self.fc = nn.Linear(64, V)

    def forward(self, x):
        h, _ = self.rnn(x)
        return F.log_softmax(self.fc(h), dim=-1)


proto = torch.randn(V, 6)


def batch(n, g):
    xs, ys, tl = [], [], []
    for _ in range(n):
        L = int(torch.randint(2, 5, (1,), generator=g))
        y = torch.randint(1, V, (L,), generator=g)
        frames = torch.cat([proto[c].expand(3, 6) for c in y] + [proto[0].expand(15 - 3 * L, 6)])
        xs.append(frames + 0.3 * torch.randn(15, 6, generator=g))
        ys.append(y)
        tl.append(L)
    return torch.stack(xs, 1), torch.cat(ys), torch.full((n,), 15), torch.tensor(tl)


def greedy(logp):
    out = []
    for seq in logp.argmax(-1).t():
        c = torch.unique_consecutive(seq)
        out.append(c[c != BLANK])
    return out


model = Acoustic()
ctc = nn.CTCLoss(blank=BLANK, zero_infinity=True)
opt = torch.optim.Adam(model.parameters(), lr=1e-2)
g = torch.Generator().manual_seed(0)
xv, yv, _, tv = batch(60, torch.Generator().manual_seed(1))
for step in range(1, 41):
    model.train()
    x, y, il, tl = batch(16, g)
    loss = ctc(model(x), y, il, tl)
    opt.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    opt.step()
    if step % 10 == 0:
        model.eval()
        with torch.no_grad():
            hyp = greedy(model(xv))
        exact = sum(torch.equal(h, r) for h, r in zip(hyp, yv.split(tv.tolist())))
        print(f"step {step} ctc {loss.item():.4f} exact {exact / 60:.2f}")
