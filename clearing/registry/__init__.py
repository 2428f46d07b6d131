"""Who takes part and by which rules: parties, terminals, PSAMs, cards, dated policies, and the dates they give to a
tap.

`take` brings a document in, `RegistryFeed` gives the services a snapshot. Names of holders do not live here.
"""

from clearing.registry.document import parse_declared, parse_registry
from clearing.registry.snapshot import Policy, Registry, RegistryFeed, read_registry
from clearing.registry.take import declare, take

__all__ = ["Policy", "Registry", "RegistryFeed", "declare", "parse_declared", "parse_registry", "read_registry", "take"]
