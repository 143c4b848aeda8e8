"""Which receivers of incidents the configuration names."""

from __future__ import annotations

from supervisor.config import Config
from supervisor.core.views.status_json import DaemonIdentity
from supervisor.reports.paging.routing import PagingConfig


def paging(identity: DaemonIdentity, config: Config) -> PagingConfig:
    """Which receivers are paged, and through which key."""
    own = {name: t.alert.routing_key for name, t in config.tunnels.items() if t.alert.routing_key is not None}
    pagerduty, webhook = config.alerts.pagerduty, config.alerts.webhook
    address = None if webhook is None else webhook.url
    if pagerduty is None:
        return PagingConfig(identity.facilitator, tunnels=own, webhook=address, runbooks=identity.runbooks)
    url, key = str(pagerduty.url), pagerduty.routing_key
    return PagingConfig(identity.facilitator, url, key, own, address, identity.runbooks)
