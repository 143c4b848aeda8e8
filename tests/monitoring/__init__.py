"""What is shipped for Prometheus, Alertmanager and Grafana."""
