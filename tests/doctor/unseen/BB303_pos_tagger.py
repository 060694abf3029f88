"""BiLSTM part-of-speech tagger in the style of the old PyTorch tutorial."""
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim

torch.manual_seed(1)
VOCAB, TAGSET, EMBEDDING_DIM, HIDDEN_DIM = 30, 5, 16, 24


def prepare_corpus(n_sent, length, seed):
    g = torch.Generator().manual_seed(seed)
    sents = torch.randint(0, VOCAB, (n_sent, length), generator=g)
    prev = torch.cat([torch.zeros(n_sent, 1, dtype=torch.long), sents[:, :-1]], 1)
    return sents, (sents % 3 + (prev % 2) * 2) % TAGSET


class LSTMTagger(nn.Module):
    def __init__(self):
        super(LSTMTagger, self).__init__()
        self.word_embeddings = nn.Embedding(VOCAB, EMBEDDING_DIM)
        self.lstm = nn.LSTM(EMBEDDING_DIM, HIDDEN_DIM // 2, bidirectional=True, batch_first=True)
        self.hidden2tag = nn.Linear(HIDDEN_DIM, TAGSET)

    def forward(self, sentence):
        lstm_out, _ = self.lstm(self.word_embeddings(sentence))
        tag_space = self.hidden2tag(lstm_out)
        tag_scores = F.softmax(tag_space, dim=-1)
        return tag_scores


model = LSTMTagger()
loss_function = nn.NLLLoss()
optimizer = optim.Adam(model.parameters(), lr=1e-2)
train_x, train_y = prepare_corpus(240, 9, 0)
dev_x, dev_y = prepare_corpus(60, 9, 1)

for epoch in range(3):
    model.train()
    order = torch.randperm(len(train_x))
    total = 0.0
    for i in range(0, len(order), 16):
        idx = order[i:i + 16]
        model.zero_grad()
        tag_scores = model(train_x[idx])
        loss = loss_function(tag_scores.reshape(-1, TAGSET), train_y[idx].reshape(-1))  # cause: BB303
        loss.backward()
        optimizer.step()
        total += loss.item()
    model.eval()
    with torch.no_grad():
        acc = (model(dev_x).argmax(-1) == dev_y).float().mean().item()
    print("epoch", epoch, "loss", round(total, 4), "dev acc", round(acc, 4))
