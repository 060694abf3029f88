"""Mean teacher, semi-supervised. The teacher copies BN buffers and runs in train mode on its own view, without gradient."""
import copy
import torch
import torch.nn as nn
import torch.nn.functional as F


def cnn():
    return nn.Sequential(nn.Conv1d(3, 12, 3, padding=1), nn.BatchNorm1d(12), nn.ReLU(), nn.Conv1d(12, 12, 3, padding=1),
                         nn.BatchNorm1d(12), nn.ReLU(), nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(24, 3))


def waves(n, g):
    y = torch.randint(0, 3, (n,), generator=g)
    t = torch.arange(16).float()
    ph = torch.rand(n, 3, 1, generator=g) * 6
    return torch.sin((0.4 + 0.4 * y.float()).view(-1, 1, 1) * t + ph), y


def augment(x, g):
    return x + 0.3 * torch.randn(x.shape, generator=g)


@torch.no_grad()
def update_teacher(teacher, student, step, decay=0.95):
    decay = min(1 - 1 / (step + 1), decay)
    for (name, t), s in zip(teacher.state_dict().items(), student.state_dict().values()):
        if t.dtype.is_floating_point:
            t.mul_(decay).add_(s, alpha=1 - decay)
        else:
            t.copy_(s)


def main():
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    xl, yl = waves(48, g)
    xu, _ = waves(256, g)
    xt, yt = waves(200, g)
    student = cnn()
    teacher = copy.deepcopy(student).requires_grad_(False)
    opt = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    for step in range(50):
        student.train()
        il = torch.randint(0, len(xl), (16,), generator=g)
        iu = torch.randint(0, len(xu), (32,), generator=g)
        logits = student(augment(xl[il], g))
        sup = F.cross_entropy(logits, yl[il])
        p_s = student(augment(xu[iu], g)).log_softmax(1)
        teacher.eval()
        with torch.no_grad():
            p_t = teacher(augment(xu[iu], g)).softmax(1)
        cons = F.kl_div(p_s, p_t, reduction="batchmean")
        loss = sup + min(step / 20, 1.0) * cons
        opt.zero_grad()
        loss.backward()
        opt.step()
        update_teacher(teacher, student, step)
        if step % 10 == 9:
            with torch.no_grad():
                acc = (teacher(xt).argmax(1) == yt).float().mean()
            print(f"step {step + 1} sup {sup.item():.3f} cons {cons.item():.4f} teacher acc {acc:.3f}")


if __name__ == "__main__":
    main()
