"""The words that an operator or engineer searches for first lead to the right module, by its first three
lines.
"""

from __future__ import annotations

import ast

import pytest

from tests.architecture.document import ROOT

WORDS = {
    "takeover": "supervisor/app/adoption.py",
    "adoption": "supervisor/app/adoption.py",
    "standby": "supervisor/core/session/handover.py",
    "make-before-break": "supervisor/core/session/handover.py",
    "state machine": "supervisor/core/session/machine.py",
    "lockout": "supervisor/core/session/pacing.py",
    "rate limit": "common/token_bucket.py",
    "backoff": "supervisor/core/session/retry.py",
    "preflight": "supervisor/core/preflight/__init__.py",
    "facilitator doctor": "supervisor/app/preflight/__init__.py",
    "facilitator why": "supervisor/core/diagnosis/answer.py",
    "dashboard": "supervisor/app/api/status_page_model.py",
    "reconcile": "supervisor/kernel/network.py",
    "drift": "supervisor/core/network/drift.py",
    "policy routing": "supervisor/core/network/rules.py",
    "failover": "supervisor/core/network/failover.py",
    "flap damping": "supervisor/core/alerting/flapping.py",
    "graceful shutdown": "supervisor/app/shutdown.py",
    "composition root": "supervisor/app/wiring.py",
    "audit": "supervisor/reports/audit/writer.py",
    "webhook": "supervisor/reports/paging/webhook.py",
}


@pytest.mark.parametrize(("word", "module"), WORDS.items(), ids=WORDS)
def test_the_word_is_in_the_first_lines_of_the_module(word: str, module: str) -> None:
    text = ast.get_docstring(ast.parse((ROOT / module).read_text()), clean=False) or ""
    assert word in " ".join(text.splitlines()[:3]).lower()
