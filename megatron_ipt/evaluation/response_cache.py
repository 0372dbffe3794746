"""What a model has answered so far, on the disk, so that a stopped evaluation goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def keep_responses(lm: Any, file: Path) -> Any:
    """`lm` as lm-evaluation-harness's own CachingLM, with its database in `file`.

    The database holds JSON instead of the harness's pickles, which could run code when they are read.
    """
    from lm_eval.api.model import LM, CachingLM
    from sqlitedict import SqliteDict

    class JsonCachingLM(CachingLM):
        """Answers what it has been asked before from its database."""

        def __init__(self) -> None:
            self.lm, self.cache_db = lm, str(file)
            self.dbdict = SqliteDict(self.cache_db, autocommit=True, encode=json.dumps, decode=json.loads)
            lm.set_cache_hook(self.get_cache_hook())

    LM.register(JsonCachingLM)  # simple_evaluate takes nothing else
    return JsonCachingLM()
