"""What a host can count."""

import urllib.request

import pytest
from webpage import served

from dear.ui import metrics
from dear.ui.metrics import RunCounts


def lines(counts: RunCounts) -> dict[str, str]:
    return dict(line.rsplit(" ", 1) for line in counts.text().splitlines() if not line.startswith("#"))


def test_runs_are_counted_by_how_they_end():
    counts = RunCounts()

    def run(fails=False):
        with counts.run():
            yield
            if fails:
                raise ValueError("broken")

    list(run())
    with pytest.raises(ValueError, match="broken"):
        list(run(fails=True))
    stopped = run()
    next(stopped)
    assert lines(counts)["audiodear_runs_running"] == "1"
    stopped.close()
    found = lines(counts)
    assert [found[f'audiodear_runs_total{{result="{name}"}}'] for name in metrics.RESULTS] == ["1", "1", "1"]
    assert found["audiodear_runs_running"] == "0" and float(found["audiodear_run_seconds_total"]) >= 0


def test_they_are_served_where_the_host_asks_for_them(student, monkeypatch):
    monkeypatch.setenv(metrics.METRICS, "1")
    with served(student) as page, urllib.request.urlopen(f"{page.local_url}metrics", timeout=60) as answer:
        assert "audiodear_runs_total" in answer.read().decode()
