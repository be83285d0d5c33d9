from pathlib import Path

from support.churn import Plan, churn


def test_no_change_is_missed_and_no_answer_is_torn_under_churn(tmp_path: Path) -> None:
    """Several writers, everything of theirs at once, quiet points in between; `make soak` runs it long."""
    report = churn(Plan(operations=3000, tenants=30, rounds=3), tmp_path)
    assert report.operations == 3000
    assert report.answers > 100
    assert len(report.milliseconds) > 3
    assert report.missed == []
    assert report.torn == []
