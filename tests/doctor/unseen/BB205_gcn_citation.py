# two-layer GCN on a planted-partition graph (transductive, full batch)
import argparse
import torch
import torch.nn as nn
import torch.nn.functional as F


def planted_graph(n_per=30, k=3, p_in=0.25, p_out=0.02, d=12, seed=0):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(k).repeat_interleave(n_per)
    prob = torch.where(y[:, None] == y[None, :], p_in, p_out)
    a = (torch.rand(len(y), len(y), generator=g) < prob).float().triu(1)
    a = a + a.t() + torch.eye(len(y))
    deg = a.sum(1).rsqrt()
    x = torch.randn(len(y), d, generator=g) + F.one_hot(y, d).float() * 0.7
    perm = torch.randperm(len(y), generator=g)
    return x, deg[:, None] * a * deg[None, :], y, perm[:30], perm[30:60], perm[60:]


class GraphConv(nn.Module):
    def __init__(self, d_in, d_out):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_in, d_out))
        self.bias = nn.Parameter(torch.zeros(d_out))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x, adj):
        return adj @ (x @ self.weight) + self.bias


class GCN(nn.Module):
    def __init__(self, d, hidden, k, dropout):
        super().__init__()
        self.gc1, self.gc2 = GraphConv(d, hidden), GraphConv(hidden, k)
        self.dropout = dropout
        self.cache = None

    def forward(self, x, adj):
        h = F.relu(self.gc1(x, adj))
        self.cache = h.data  # cause: BB205
        h = F.dropout(self.cache, self.dropout, training=self.training)
        return self.gc2(h, adj)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--hidden", type=int, default=16)
    p.add_argument("--dropout", type=float, default=0.3)
    p.add_argument("--lr", type=float, default=0.02)
    p.add_argument("--epochs", type=int, default=40)
    args = p.parse_args()
    torch.manual_seed(0)
    x, adj, y, idx_train, idx_val, idx_test = planted_graph()
    model = GCN(x.shape[1], args.hidden, 3, args.dropout)
    opt = torch.optim.Adam(model.parameters(), lr=args.lr, weight_decay=5e-4)
    for epoch in range(args.epochs):
        model.train()
        opt.zero_grad()
        out = model(x, adj)
        loss = F.cross_entropy(out[idx_train], y[idx_train])
        loss.backward()
        opt.step()
        if (epoch + 1) % 10 == 0:
            model.eval()
            with torch.no_grad():
                pred = model(x, adj).argmax(1)
            print(f"Epoch {epoch + 1:03d} loss {loss.item():.4f} val {(pred[idx_val] == y[idx_val]).float().mean():.3f}")
    print(f"test {(pred[idx_test] == y[idx_test]).float().mean():.3f}")


if __name__ == "__main__":
    main()
