"""Topic classifier: embedding bag and a linear layer."""

import torch
from torch import nn

torch.manual_seed(0)
VOCAB, TOPICS = 50, 4


class TopicModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.EmbeddingBag(VOCAB, 16)
        self.out = nn.Linear(16, TOPICS)

    def forward(self, tokens):
        return self.out(self.embed(tokens))


def main():
    docs = torch.randint(VOCAB, (60, 9))
    topics = docs[:, 0] % TOPICS
    model, loss_fn = TopicModel(), nn.NLLLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for epoch in range(3):
        for tokens, topic in zip(docs.split(20), topics.split(20)):
            optimizer.zero_grad()
            loss = loss_fn(model(tokens), topic)  # cause: BB303
            loss.backward()
            optimizer.step()
        print(epoch, f"{loss.item():.4f}")


main()
