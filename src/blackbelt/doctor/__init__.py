"""The doctor: failures that throw nothing, found while the training runs.

``blackbelt doctor train.py`` observes a script; :func:`watch` a block of code. Taps (``taps/``) tell of events
(``events.py``), rules (``rules/``, one per file) conclude findings from them.
"""

from blackbelt.doctor.finding import Finding, Severity
from blackbelt.doctor.observing import Observation, watch
from blackbelt.doctor.report import DoctorReport, assert_healthy
from blackbelt.doctor.rule import Rule, all_rules

__all__ = ["DoctorReport", "Finding", "Observation", "Rule", "Severity", "all_rules", "assert_healthy", "watch"]
