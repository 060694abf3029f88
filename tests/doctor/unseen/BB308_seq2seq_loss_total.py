"""Character-level seq2seq (reverse a string); loss summed over the decoding steps."""
import random
import torch
import torch.nn as nn

random.seed(0)
torch.manual_seed(0)
VOCAB, HID, LEN, SOS = 12, 32, 5, 0


class EncoderRNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, HID)
        self.gru = nn.GRU(HID, HID, batch_first=True)

    def forward(self, x):
        return self.gru(self.embedding(x))[1]


class DecoderRNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, HID)
        self.gru = nn.GRU(HID, HID, batch_first=True)
        self.out = nn.Linear(HID, VOCAB)

    def forward(self, tok, h):
        o, h = self.gru(self.embedding(tok).unsqueeze(1), h)
        return self.out(o.squeeze(1)), h


def batch(n):
    x = torch.randint(1, VOCAB, (n, LEN))
    return x, x.flip(1)


def train_step(src, tgt, encoder, decoder, enc_opt, dec_opt, criterion, tf_ratio=0.8):
    enc_opt.zero_grad()
    dec_opt.zero_grad()
    h = encoder(src)
    tok = torch.full((len(src),), SOS)
    total = 0.0
    teacher = random.random() < tf_ratio
    for t in range(LEN):
        logits, h = decoder(tok, h)
        total += criterion(logits, tgt[:, t]).item()
        tok = tgt[:, t] if teacher else logits.argmax(1)
    loss = torch.tensor(total / LEN, requires_grad=True)  # cause: BB308
    loss.backward()
    enc_opt.step()
    dec_opt.step()
    return loss.item()


@torch.no_grad()
def evaluate(encoder, decoder, n=100):
    encoder.eval(), decoder.eval()
    src, tgt = batch(n)
    h, tok, good = encoder(src), torch.full((n,), SOS), 0
    for t in range(LEN):
        logits, h = decoder(tok, h)
        tok = logits.argmax(1)
        good += (tok == tgt[:, t]).sum().item()
    encoder.train(), decoder.train()
    return good / (n * LEN)


def train_iters(n_iters=45, print_every=15):
    encoder, decoder = EncoderRNN(), DecoderRNN()
    enc_opt = torch.optim.Adam(encoder.parameters(), lr=5e-3)
    dec_opt = torch.optim.Adam(decoder.parameters(), lr=5e-3)
    criterion = nn.CrossEntropyLoss()
    acc = 0.0
    for it in range(1, n_iters + 1):
        acc += train_step(*batch(32), encoder, decoder, enc_opt, dec_opt, criterion)
        if it % print_every == 0:
            print(f"({it} {it / n_iters:.0%}) loss {acc / print_every:.4f} char acc {evaluate(encoder, decoder):.3f}")
            acc = 0.0


train_iters()
