"""Next-word bag model on a streamed corpus (text shards are generated on the fly)."""
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

VOCAB, CTX = 40, 4


class CorpusStream(IterableDataset):
    """Streams shards one after the other and cuts them into (context, next word)."""

    def __init__(self, n_shards=6, shard_len=120):
        super().__init__()
        self.n_shards = n_shards
        self.shard_len = shard_len

    def read_shard(self, sid):
        g = torch.Generator().manual_seed(1000 + sid)
        toks = [int(torch.randint(0, VOCAB, (1,), generator=g))]
        jumps = torch.randint(1, 4, (self.shard_len,), generator=g).tolist()
        for j in jumps:
            toks.append((toks[-1] * 3 + j) % VOCAB)
        return toks

    def __iter__(self):
        for sid in range(self.n_shards):  # cause: BB103
            toks = self.read_shard(sid)
            for i in range(0, len(toks) - CTX - 1, 2):
                yield torch.tensor(toks[i:i + CTX]), torch.tensor(toks[i + CTX])


class CBOW(nn.Module):
    def __init__(self, dim=24):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, dim)
        self.proj = nn.Linear(dim * CTX, VOCAB)

    def forward(self, ctx):
        return self.proj(self.emb(ctx).flatten(1))


def train(epochs=2, bs=32):
    torch.manual_seed(3)
    loader = DataLoader(CorpusStream(), batch_size=bs, num_workers=2)
    model = CBOW()
    opt = torch.optim.Adam(model.parameters(), lr=5e-3)
    loss_fn = nn.CrossEntropyLoss()
    seen = 0
    for epoch in range(epochs):
        model.train()
        tot, cnt = 0.0, 0
        for ctx, nxt in loader:
            logits = model(ctx)
            loss = loss_fn(logits, nxt)
            opt.zero_grad()
            loss.backward()
            opt.step()
            tot += loss.item() * len(nxt)
            cnt += len(nxt)
        seen += cnt
        print(f"epoch {epoch} ppl {torch.tensor(tot / cnt).exp():.2f} examples {cnt}")
    print("examples seen:", seen)


if __name__ == "__main__":
    train()
