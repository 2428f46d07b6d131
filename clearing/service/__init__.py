"""The door of clearing: HTTP on the loopback, one problem shape, no answer before its commit (docs/wire.md)."""

from clearing.service.serve import Running, ServiceSettings, daily_quotas, running, serve

__all__ = ["Running", "ServiceSettings", "daily_quotas", "running", "serve"]
