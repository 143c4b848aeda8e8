"""Incidents at PagerDuty and webhooks: outbox, retries, routing keys."""
