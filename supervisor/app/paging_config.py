"""Which receivers of incidents the configuration names."""

from __future__ import annotations

from dataclasses import replace

from supervisor.config import Config
from supervisor.core.views.status_json import DaemonIdentity
from supervisor.reports.paging.routing import PagingConfig


def paging(identity: DaemonIdentity, config: Config) -> PagingConfig:
    """Which receivers are paged, and through which key."""
    own = {name: t.alert.routing_key for name, t in config.tunnels.items() if t.alert.routing_key is not None}
    pagerduty, webhook = config.alerts.pagerduty, config.alerts.webhook
    found = PagingConfig(
        identity.facilitator,
        tunnels=own,
        runbooks=identity.runbooks,
        status_page=str(config.http.external_url or ""),
    )
    if webhook is not None:
        found = replace(found, webhook=webhook.url, webhook_format=webhook.format)
    if pagerduty is not None:
        found = replace(found, url=str(pagerduty.url), routing_key=pagerduty.routing_key)
    return found
