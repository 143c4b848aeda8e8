"""The fleet's effects: the engine that holds locks, orders and status (etcd or Consul), over HTTP."""
