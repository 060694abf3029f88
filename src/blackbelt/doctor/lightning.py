"""The doctor as a callback of Lightning: ``Trainer(callbacks=[DoctorCallback()])``.

Needs ``lightning`` (or ``pytorch_lightning``), which is not installed with this package. A whole script needs no
callback: ``blackbelt doctor train.py`` observes Lightning's trainer as any other, the making of the model included.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from blackbelt.doctor.observing import Observation, watch
from blackbelt.doctor.report import DoctorReport
from blackbelt.doctor.rule import Rule

if TYPE_CHECKING:
    Callback: Any = object
else:
    try:
        from lightning.pytorch.callbacks import Callback
    except ImportError:
        from pytorch_lightning.callbacks import Callback


class DoctorCallback(Callback):  # type: ignore[misc]  # Lightning's classes have no types where it is not installed
    """Observe ``fit``; print the report at its end where something was found, and keep it in :attr:`report`.

    ``rules`` are all where None. What was made before ``fit`` began has no line of construction to
    point to. Observes one process; with several, each prints its own.

    Raises ImportError where neither ``lightning`` nor ``pytorch_lightning`` is installed.
    """

    def __init__(self, rules: Iterable[type[Rule]] | None = None) -> None:
        super().__init__()
        self.rules = rules
        self._stack = contextlib.ExitStack()
        self._observation: Observation | None = None

    @property
    def report(self) -> DoctorReport:
        """The findings of the latest ``fit``, or so far."""
        return DoctorReport((), 0) if self._observation is None else self._observation.report

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002  (Lightning's signature)
        """Begin to observe, before Lightning makes the optimizers."""
        if stage == "fit":
            self._stack.close()
            self._observation = self._stack.enter_context(watch(self.rules))

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002  (likewise)
        """End the observation and tell."""
        if stage == "fit":
            self._end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002  (likewise)
        """Tell what was found until then: Lightning does not tear down a fit that fails."""
        self._end()

    def _end(self) -> None:
        self._stack.close()
        if self.report.findings:
            print(self.report)  # noqa: T201  (what the callback is for)
