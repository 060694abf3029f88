"""Measurement: bytes are exact, contestants take turns, inputs are fresh, growth exponents are slopes."""

from __future__ import annotations

import time

import pytest
import torch

from blackbelt import measure, measure_growth
from blackbelt.measurement import Allocation, GrowthReport, MeasureReport, Timing, allocation


def test_allocation_counts_result_and_temporaries_at_the_peak():
    x = torch.ones(1000)
    assert allocation(lambda: x.expand(50, 1000)) == Allocation(0, 0)
    assert allocation(x.clone).peak_bytes == 4000
    chain = allocation(lambda: x.clone().relu_().clone().clone())
    assert chain.total_bytes == 12_000
    assert chain.peak_bytes == 8_000


def test_allocation_sees_temporaries_inside_an_operator():
    x = torch.ones(64, 64)
    assert allocation(lambda: torch.cdist(x, x)).peak_bytes > 64 * 64 * 4


def test_measure_gives_fresh_inputs_and_takes_turns():
    order = []
    seen = []

    def inputs():
        seen.append(torch.zeros(1))
        return (seen[-1],)

    def first(x):
        assert x.item() == 0, "an earlier call's input came back"
        x.add_(1)
        order.append("first")
        time.sleep(0.001)  # long enough to be timed one call at a time

    def second(x):
        order.append("second")
        time.sleep(0.001)

    measure(inputs=inputs, rounds=3, warmup=1, first=first, second=second)
    warm_up, rounds, profiled = order[:2], order[2:8], order[8:]
    assert warm_up == profiled == ["first", "second"]
    assert rounds == ["first", "second"] * 3
    assert len(seen) == 2 + 6 + 2 + 1


def test_report_of_a_measurement():
    report = measure(inputs=lambda: (torch.ones(10),), rounds=3, one=lambda x: x + 1, two=lambda x: x.expand(2, 10))
    assert report["two"].peak_bytes == 0
    assert report["one"].peak_bytes >= 40
    assert len(report["one"].round_seconds) == 3
    assert report.ratio("one", "one") == 1
    with pytest.raises(KeyError, match="nothing named 'three' was measured; there are one, two"):
        report["three"]
    assert all(len(line) <= 80 for line in str(report).splitlines())


def test_measure_needs_a_function():
    with pytest.raises(ValueError, match="pass at least one by name"):
        measure()


def test_ratio_is_the_median_of_the_ratios_of_the_rounds():
    slow = Timing("slow", (2.0, 4.0, 100.0), 0, 0)
    fast = Timing("fast", (1.0, 2.0, 10.0), 0, 0)
    assert MeasureReport((slow, fast), "CPU").ratio("slow", "fast") == 2


def test_growth_exponent_is_the_slope_on_log_log_axes():
    points = tuple(MeasureReport((Timing("f", (n**2 * 3.0,), n**3, 0),), "CPU") for n in (2, 4, 8))
    growth = GrowthReport((2, 4, 8), points)
    assert growth.exponent("f") == pytest.approx(2)
    assert growth.exponent("f", "peak_bytes") == pytest.approx(3)
    with pytest.raises(ValueError, match="needs values above 0"):
        growth.exponent("f", "total_bytes")


def test_measured_bytes_grow_as_they_must():
    growth = measure_growth(
        [32, 64, 128],
        inputs=lambda n: (torch.ones(n),),
        rounds=1,
        outer=lambda x: x[:, None] * x,
        view=lambda x: x[:, None],
    )
    assert growth.exponent("outer", "peak_bytes") == pytest.approx(2, abs=0.01)
    html = growth._repr_html_()
    assert html.count("data:image/svg+xml;base64,") == 1, "time is drawn; bytes of 0 are a table"
