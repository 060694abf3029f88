"""Continue pre-training a tied LM after adding domain tokens to the vocabulary."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class TiedLM(nn.Module):
    def __init__(self, vocab, dim=24):
        super().__init__()
        self.wte = nn.Embedding(vocab, dim)
        self.rnn = nn.GRU(dim, dim, batch_first=True)
        self.lm_head = nn.Linear(dim, vocab, bias=False)
        nn.init.normal_(self.wte.weight, std=0.1)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids):
        h, _ = self.rnn(self.wte(ids))
        return self.lm_head(h)

    def resize_token_embeddings(self, new_vocab):
        """Grow the vocabulary, keeping the trained rows."""
        old = self.wte.weight.data
        emb = nn.Embedding(new_vocab, old.shape[1])
        nn.init.normal_(emb.weight, std=0.1)
        emb.weight.data[:old.shape[0]] = old
        head = nn.Linear(old.shape[1], new_vocab, bias=False)
        head.weight = nn.Parameter(emb.weight.data.clone())  # cause: BB208
        self.wte, self.lm_head = emb, head


def corpus(vocab, n, seed):
    g = torch.Generator().manual_seed(seed)
    seq = [1]
    for _ in range(n):
        seq.append((seq[-1] * 5 + int(torch.randint(1, 4, (1,), generator=g))) % vocab)
    return torch.tensor(seq)


def run(model, stream, steps, lr, name, bs=12, T=10):
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for step in range(steps):
        ix = torch.randint(0, len(stream) - T - 1, (bs,))
        x = torch.stack([stream[i:i + T] for i in ix])
        y = torch.stack([stream[i + 1:i + T + 1] for i in ix])
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        opt.zero_grad()
        loss.backward()
        opt.step()
        if (step + 1) % 10 == 0:
            print(f"{name} step {step + 1} loss {loss.item():.4f}")


if __name__ == "__main__":
    torch.manual_seed(0)
    lm = TiedLM(30)
    run(lm, corpus(30, 600, 0), 15, 5e-3, "general")
    lm.resize_token_embeddings(36)
    run(lm, corpus(36, 600, 1), 30, 5e-3, "domain")
    gap = (lm.wte.weight - lm.lm_head.weight).abs().max().item()
    print("input / output embedding gap", round(gap, 4), "params", sum(p.numel() for p in lm.parameters()))
