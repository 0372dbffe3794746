"""Alerts reach the webhook, say what happened, and never stop a run."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from megatron_ipt.errors import UserError
from megatron_ipt.observability.webhook import read_webhook_url
from megatron_ipt.training.alerts import Alerts
from megatron_ipt.training.anomalies import Anomalies, RollBack
from megatron_ipt.training.callbacks import PendingUpdate
from megatron_ipt.training.context import RunContext
from megatron_ipt.training.state import TrainState

BUNDLE: Any = None


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What a server at the URL in HOOK has been sent."""
    messages: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HOOK", f"http://127.0.0.1:{server.server_port}/secret")
    yield messages
    server.shutdown()
    server.server_close()


@pytest.fixture
def context(make_context: Callable[..., RunContext]) -> Callable[..., RunContext]:
    def make(**sections: Any) -> RunContext:
        alerts = {"url_variable": "HOOK", "stall_seconds": 1, **sections.pop("alerts", {})}
        return make_context({"alerts": alerts, **sections})

    return make


def test_restart_stall_and_end(context: Callable[..., RunContext], received: list[dict[str, Any]]) -> None:
    alerts = Alerts(context())
    alerts.setup(context(), BUNDLE)
    [thread] = [thread for thread in threading.enumerate() if thread.name == "alerts"]
    assert thread.daemon, "it would keep a process that has failed"
    alerts.start(TrainState(iteration=5))
    deadline = time.monotonic() + 30
    while len(received) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.5)  # a stall is told of once
    alerts.between_steps(TrainState(iteration=6))
    alerts.finish(TrainState(iteration=6))
    alerts.close()
    assert [(one["event"], one["iteration"], one["text"]) for one in received] == [
        ("restart", 5, "r: resumes from iteration 5"),
        ("stall", 5, "r: no step has completed for 1 s after iteration 5"),
        ("end", 6, "r: finished iteration 6"),
    ]


def test_spike_is_told_of_though_the_run_ignores_it(
    context: Callable[..., RunContext], received: list[dict[str, Any]]
) -> None:
    run = context(faults={"loss_spike_window": 3}, alerts={"events": ["spike"], "stall_seconds": 60})
    unused: Any = None
    callbacks = [Anomalies(run, unused, str, ()), Alerts(run)]
    for callback in callbacks:
        callback.setup(run, BUNDLE)
        callback.start(TrainState())
    for iteration, loss in enumerate((3.0, 3.1, 2.9, 3.0, 9.0)):
        update = PendingUpdate(loss, has_finite_gradients=True)
        for callback in callbacks:
            callback.before_optimizer_step(TrainState(iteration=iteration), update)
        assert not update.is_rejected
    callbacks[-1].close()
    assert [one["text"] for one in received] == ["r: iteration 5: the loss is 9.0000, recently 3.0000 on average"]


def test_failure_is_told_with_its_cause(context: Callable[..., RunContext], received: list[dict[str, Any]]) -> None:
    for error in (ValueError("a broken shard"), RollBack(6)):
        alerts = Alerts(context(alerts={"stall_seconds": 60}))
        alerts.setup(context(), BUNDLE)
        alerts.start(TrainState())
        with pytest.raises(type(error)):
            close_after(error, alerts)
    assert [(one["event"], one["text"]) for one in received] == [
        ("end", "r: failed after iteration 0: a broken shard"),
        ("spike", "r: iteration 7 is anomalous: rolling back to the newest checkpoint"),
    ]


def close_after(error: Exception, alerts: Alerts) -> None:
    try:
        raise error
    finally:
        alerts.close()


def test_server_that_is_gone_does_not_stop_the_run(
    context: Callable[..., RunContext], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOOK", "http://127.0.0.1:9/secret")
    alerts = Alerts(context(alerts={"stall_seconds": 60}))
    alerts.setup(context(), BUNDLE)
    alerts.finish(TrainState())
    alerts.close()
    assert "an alert could not be sent" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(("value", "said"), [(None, "is not set"), ("somewhere", "does not hold an http(s) URL")])
def test_variable_has_to_hold_a_url(value: str | None, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOOK", raising=False)
    if value is not None:
        monkeypatch.setenv("HOOK", value)
    with pytest.raises(UserError) as caught:
        read_webhook_url("HOOK")
    assert said in str(caught.value)
    assert value is None or value not in str(caught.value)
