"""What a log says of work that goes on."""

import pytest

from deeprec import console


def test_a_log_tells_rate_and_time_left_after_ten_seconds_and_every_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("deeprec.console.time.monotonic", lambda: clock[0])
    with console.progress("ranking", 100, "users") as advance:
        for _ in range(20):
            clock[0] += 5
            advance(5)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "ranking: 10 of 100, 1.0 a second, 90 seconds left",
        "ranking: 70 of 100, 1.0 a second, 30 seconds left",
        "ranking: 100 users",
    ]
