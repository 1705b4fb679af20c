"""Metrics for those who host the page."""

import urllib.request

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from webpage import served

from dear.ui import metrics
from dear.ui.metrics import RunCounts


def lines(counts: RunCounts) -> dict[str, str]:
    return dict(line.rsplit(" ", 1) for line in counts.text(4).splitlines() if not line.startswith("#"))


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
    assert (found["audiodear_runs_running"], found["audiodear_runs_waiting"]) == ("0", "4")
    assert float(found["audiodear_run_seconds_total"]) >= 0


def test_runs_of_the_page_and_of_programs_are_served_where_the_host_asks_for_them(student, monkeypatch):
    monkeypatch.setattr(metrics, "RUNS", RunCounts())
    monkeypatch.setenv(metrics.METRICS, "1")
    with served(student) as page:
        client = Client(page.local_url, verbose=False)
        client.predict("rain", iterations=2, api_name="/generate")
        with pytest.raises(AppError, match="cfg_scale must be"):
            client.predict("rain", cfg_scale=99, api_name="/generate")
        with urllib.request.urlopen(f"{page.local_url}metrics", timeout=60) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            text = answer.read().decode()
    for line in ('runs_total{result="done"} 1', 'runs_total{result="failed"} 1', "runs_waiting 0", "runs_running 0"):
        assert f"\naudiodear_{line}\n" in text
