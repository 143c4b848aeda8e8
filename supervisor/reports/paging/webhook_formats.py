"""What a webhook gets instead of the facilitator's own JSON: `alerts.webhook.format`.

slack: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks/ with attachments, which
Mattermost and Rocket.Chat understand as well.
alertmanager: version 4 of the payload of its webhook receivers,
https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any

Document = Mapping[str, Any]

ALERT_NAME = "FacilitatorIncident"
MAX_LINES = 10  # of the client's output, in a chat message
MAX_TEXT_CHARS = 3000  # of a text in a chat message
_NO_END = "0001-01-01T00:00:00Z"  # what Alertmanager sends while an alert fires
_COLOURS = {"critical": "danger", "error": "danger", "warning": "warning", "info": "#439FE0"}
_SHOWN = {  # details that a chat message has as fields: name -> title
    "destinations": "Destinations",
    "dead_leg": "Failed path segment",
    "last_error": "Last error",
    "next_attempt": "Next attempt",
    "answer_with": "Answer with",
    "look_further": "Next steps",
}


def shaped(event: Document, wanted: str, facilitator: str, page: str) -> Document | None:
    """An event of `reports.paging.webhook` in this format; None: the format has no place for it. `page`: the
    status page's address, or "".
    """
    if wanted == "slack":
        return _slack(event, facilitator, page)
    if wanted == "alertmanager":
        return None if event["action"] == "change" else _alertmanager(event, facilitator, page)
    return event


# --- Slack


def _slack(event: Document, facilitator: str, page: str) -> Document:
    details = event.get("details", {})
    at = event.get("at") or event["since"]
    if event["action"] == "resolve":
        title, colour = f"Resolved: {_subject(event)} on {facilitator}", "good"
    else:
        title, colour = event["summary"], _COLOURS.get(event.get("severity", "info"), "danger")
    attachment: dict[str, Any] = {
        "fallback": _escaped(title),
        "color": colour,
        "title": _escaped(title),
        "ts": int(datetime.fromisoformat(at).timestamp()),
    }
    if link := details.get("status_page") or page:
        attachment["title_link"] = link
    if fields := [
        {"title": shown, "value": _escaped(str(details[name])), "short": False}
        for name, shown in _SHOWN.items()
        if details.get(name)
    ]:
        attachment["fields"] = fields
    if text := _text(event, details):
        attachment |= {"text": text, "mrkdwn_in": ["text"]}
    return {"text": _escaped(title), "attachments": [attachment]}


def _text(event: Document, details: Document) -> str:
    lines = "\n".join(map(_escaped, event.get("last_lines", ())[-MAX_LINES:]))[-MAX_TEXT_CHARS:]
    quoted = f"```{lines.replace('```', '')}```" if lines else ""
    page = details.get("runbook_url", "")
    runbook = f"<{page}|Runbook>" if page.startswith("http") else ""
    return "\n".join(filter(None, (quoted, runbook)))


def _escaped(text: str) -> str:
    """So that no text of a remote gateway is a link or a mention (`<!channel>`)."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")[:MAX_TEXT_CHARS]


# --- Alertmanager


def _alertmanager(event: Document, facilitator: str, page: str) -> Document:
    firing = event["action"] == "trigger"
    status = "firing" if firing else "resolved"
    details = event.get("details", {})
    # The same for both statuses, so that the receiver knows which alert is resolved.
    labels = {"alertname": ALERT_NAME, "facilitator": facilitator, "subject": _subject(event)}
    annotations = {name: str(text) for name, text in details.items()}
    if firing:
        annotations |= {"summary": event["summary"], "reason": event["reason"], "severity": event["severity"]}
    alert = {
        "status": status,
        "labels": labels,
        "annotations": annotations,
        "startsAt": event.get("since") or event["at"],  # not in a resolve of an earlier version
        "endsAt": _NO_END if firing else event["at"],
        "generatorURL": details.get("status_page") or page,
        "fingerprint": sha256(event["dedup_key"].encode()).hexdigest()[:16],
    }
    return {
        "version": "4",
        "groupKey": event["dedup_key"],
        "truncatedAlerts": 0,
        "status": status,
        "receiver": "facilitator",
        "groupLabels": labels,
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": page,
        "alerts": [alert],
    }


def _subject(event: Document) -> str:
    """Tunnel, group or condition; of a key that was too long to name it, the key."""
    parts = str(event["dedup_key"]).split("/", 2)
    return parts[2] if len(parts) == 3 else str(event["dedup_key"])
