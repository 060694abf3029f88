"""BB107."""

from __future__ import annotations

import functools
from typing import ClassVar

from blackbelt.doctor.copies import in_copy
from blackbelt.doctor.events import Fetch
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.rules._stores import Store, stores, trial
from blackbelt.doctor.run import Run
from blackbelt.places import Place

LOOKED_AT = 3  # fetches of a data set


class DataSetWritten(Rule):
    """Fetching a sample changes the data set: a transform works in place on what is stored.

    `x = self.data[i]` copies nothing: it is a view of the storage, or the stored object itself. `x -= mean`,
    `x.div_(std)`, `tokens[j] = mask` and `item["x"] = …` then write into the data set, and the next epoch starts from
    what the last one left: normalized twice, masked in more and more places, noise on noise. The signal fades or
    explodes over the epochs, in training and validation alike.

    Observed: the tensors, arrays and lists that the data set holds, before and after a fetch. Where they have changed,
    a copy of the process fetches the same samples with the same random numbers, from the same state (the control: they
    are equal) and from the state that other fetches of them leave. A finding only where these differ. The line is the
    one after which the storage is another.

    Not reported: caches, which are written once; counters and scores, which the samples do not depend on; writes that
    change nothing the second time, as clamping does. Samples fetched in workers are not observed: each works on a copy.

    The fix: an operation that makes a new tensor, `x = x - mean`, or `.clone()` first (of a list or a dict a copy).
    """

    code: ClassVar[str] = "BB107"
    title: ClassVar[str] = "fetching samples changes the data set"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._looks: dict[int, int] = {}  # by the `id` of the data set, which may be a list; another one may inherit it
        self._held: list[tuple[Store, str]] = []

    def fetch_begins(self, fetch: Fetch) -> Findings:
        self._held = []
        number = self._looks[id(fetch.dataset)] = self._looks.get(id(fetch.dataset), 0) + 1
        if number <= LOOKED_AT and fetch.indices:
            self._held = [(store, store.content()) for store in stores(fetch.dataset, fetch.indices)]
        return ()

    def fetch_ends(self, fetch: Fetch) -> Findings:
        held, self._held = self._held, []
        changed = [store for store, before in held if store.content() != before]
        if not changed or any(len(store.holder) != int(before.split()[0]) for store, before in held):
            return
        found = in_copy(functools.partial(trial, fetch.again, changed, fetch.dataset))
        if not found:
            return
        self._looks[id(fetch.dataset)] = LOOKED_AT + 1
        place = Place(found["file"], found["line"], found["function"]) if found["file"] else fetch.place
        name = changed[0].name
        yield self.finding(
            f"fetching a sample writes into the data set ({type(fetch.dataset).__name__}, `{name}`), so that the same "
            "sample is another one in every epoch",
            place,
            fix="x = x - mean  # a new tensor; or x = self.data[i].clone(), copy.deepcopy(self.items[i]) first",
            evidence={
                "the samples now": found["first"],
                "after two other fetches": found["later"],
                "with the same random numbers and storage": "equal",
            },
        )
