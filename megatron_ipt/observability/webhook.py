"""Messages to a webhook, sent in the background: a service that cannot be reached never stops a run."""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from megatron_ipt.errors import UserError

_TIMEOUT_SECONDS = 10.0

logger = logging.getLogger(__name__)


def read_webhook_url(variable: str) -> str:
    """Read the URL from an environment variable.

    The URL is a secret, and settings are recorded in checkpoints and trackers.

    Raises:
        UserError: the variable is not set, or does not hold an http(s) URL.
    """
    url = os.environ.get(variable, "")
    if urlsplit(url).scheme not in ("http", "https"):
        reason = f"this environment variable {'does not hold an http(s) URL' if url else 'is not set'}"
        raise UserError("alerts.url_variable", variable, reason, f"export {variable}=https://...")
    return url


class Webhook:
    """Posts messages, in order, from a background thread."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, name="webhook", daemon=True)
        self._thread.start()

    def send(self, message: Mapping[str, Any]) -> None:
        """Queue a message to be sent as a JSON object."""
        self._messages.put(json.dumps(message).encode())

    def close(self) -> None:
        """Send the queued messages, for a limited time."""
        self._messages.put(None)
        self._thread.join(2 * _TIMEOUT_SECONDS)

    def _send_all(self) -> None:
        while (message := self._messages.get()) is not None:
            request = urllib.request.Request(self._url, message, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):
                    pass
            except OSError as error:  # the URL is not shown: it is a secret
                logger.warning("an alert could not be sent: %s", error)
