"""A rule: weights of classes, where a sampler needs weights of samples."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st
from torch.utils.data import DataLoader, WeightedRandomSampler

from blackbelt.doctor import Rule
from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.value import Value
from blackbelt.katas.silent_failures.rules._trainings import MIDDLES, Examination


@kata(
    minutes=30,
    belt="black",
    hints=(
        "Which event brings you the loader, before its first batch? What do its `sampler` and its `dataset` tell you?",
        (
            "`epoch_begins(self, epoch)` has `epoch.loader`. The sampler draws indices below `len(sampler.weights)`; "
            "which of `len(loader.dataset)` samples are out of its reach?"
        ),
        (
            "Ask only if the sampler is a `WeightedRandomSampler`: a stream has no length. It may lie within "
            "`loader.batch_sampler`, as its `sampler`. Report at `self.run.made_at(loader)`."
        ),
    ),
    cases=st.sampled_from(list(MIDDLES)).map(lambda name: (Examination(name),)),
    edge_cases=lambda: {name: (Examination(name),) for name in MIDDLES},
    laws=[Value()],
)
def rule_for_weights(examine: Callable[[type[Rule]], list[str]]) -> list[str]:
    """A rule: weights of classes, where a sampler needs weights of samples.

    `WeightedRandomSampler(weights, num_samples)` draws indices from 0 to `len(weights) - 1`. Given one weight for each
    *class*, it draws the first few samples of the data set again and again, and nothing is thrown. Write a rule for
    every loader whose `WeightedRandomSampler` cannot reach all samples of the data set; it may be a `batch_sampler`
    that holds it. Report it where the loader was made.

    Return `examine(YourRule)`: it runs a training that you do not see under your rule, and returns the statements that
    your findings name. A dozen trainings are right or wrong in their own ways. A right one that is accused counts as
    much as a wrong one that is missed; a rule that fails has lost.

    ```python
    class Weights(Rule):
        code, title = "BB190", "weights of classes"

        def epoch_begins(self, epoch):
            yield self.finding("…", self.run.made_at(epoch.loader))


    rule_for_weights(examine)  # ["loader = DataLoader(data, batch_size=8, sampler=sampler)"]
    ```
    """

    class Weights(Rule):
        code, title = "BB190", "weights of classes for a sampler of samples"

        def epoch_begins(self, epoch):
            loader = epoch.loader
            sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)  # of single samples, wherever it is
            if isinstance(sampler, WeightedRandomSampler) and len(sampler.weights) < len(loader.dataset):
                yield self.finding(
                    f"{len(sampler.weights)} weights for {len(loader.dataset)} samples: the others are never drawn",
                    self.run.made_at(loader),
                    fix="WeightedRandomSampler(class_weights[labels], num_samples=len(dataset))",
                    evidence={"weights": len(sampler.weights), "samples": len(loader.dataset)},
                )

    return examine(Weights)


def _rule(judge, place=lambda rule, event: rule.run.made_at(event.loader), event="epoch_begins"):
    """Return a rule that reports whatever ``judge`` accuses."""

    def method(self, happening):
        return [self.finding("weights", place(self, happening))] if judge(happening.loader) else []

    return type("Weights", (Rule,), {"code": "BB190", "title": "weights", event: method})


def _sampler(loader):
    return getattr(loader.batch_sampler, "sampler", loader.sampler)


def _too_few(loader):
    return isinstance(_sampler(loader), WeightedRandomSampler) and len(_sampler(loader).weights) < len(loader.dataset)


@rule_for_weights.wrong(
    "It compares `len(sampler)`. That is how many indices are drawn in a pass, and any number of them is right: what "
    "counts is which can be drawn. Compare `len(sampler.weights)`."
)
def compares_the_number_drawn(examine):
    return examine(
        _rule(
            lambda loader: (
                isinstance(_sampler(loader), WeightedRandomSampler) and len(_sampler(loader)) != len(loader.dataset)
            )
        )
    )


@rule_for_weights.wrong(
    "It accuses whoever has a `WeightedRandomSampler`. Most have it right, and a rule that accuses them is switched "
    "off."
)
def accuses_all(examine):
    return examine(_rule(lambda loader: isinstance(_sampler(loader), WeightedRandomSampler)))


@rule_for_weights.wrong(
    "It compares the number of weights with a small number. A subset has other numbers of weights, and a data set may "
    "have two samples: the data set's length is the limit."
)
def few_weights(examine):
    return examine(
        _rule(lambda loader: isinstance(_sampler(loader), WeightedRandomSampler) and len(_sampler(loader).weights) < 10)
    )


@rule_for_weights.wrong(
    "It names the line that iterates. Nothing is wrong with it: the cause is where the loader was made, "
    "`self.run.made_at(loader)`."
)
def names_the_loop(examine):
    return examine(_rule(_too_few, place=lambda _, event: event.place))


@rule_for_weights.wrong(
    "It asks every loader for its length. A stream has none, the rule throws, and is switched off: ask for the kind "
    "of the sampler first."
)
def asks_a_stream(examine):
    return examine(_rule(lambda loader: len(getattr(_sampler(loader), "weights", range(10**6))) < len(loader.dataset)))


@rule_for_weights.wrong(
    "It asks where the sampler was made, and nobody has noted that: the finding has no line. Models, optimizers, "
    "schedulers and loaders have a place; report the loader's."
)
def names_the_sampler(examine):
    return examine(_rule(_too_few, place=lambda rule, event: rule.run.made_at(_sampler(event.loader))))


@rule_for_weights.wrong(
    "It looks at `loader.sampler` only. Where a loader was given a `batch_sampler`, that attribute is a stand-in which "
    "draws nothing; the sampler that does is `loader.batch_sampler.sampler`."
)
def overlooks_batch_samplers(examine):
    return examine(
        _rule(
            lambda loader: (
                isinstance(loader.sampler, WeightedRandomSampler) and len(loader.sampler.weights) < len(loader.dataset)
            )
        )
    )


@rule_for_weights.wrong("It never reports anything. No false alarm, and no use either.")
def silent(examine):
    return examine(_rule(lambda _: False))


@rule_for_weights.also_right
def at_the_first_batch(examine):
    return examine(_rule(_too_few, event="batch_loaded"))


@rule_for_weights.also_right
def when_it_is_made(examine):
    class Weights(Rule):
        code, title = "BB190", "weights"

        def created(self, event):
            if isinstance(event.thing, DataLoader) and _too_few(event.thing):
                yield self.finding("weights", event.place)

    return examine(Weights)
