"""Online acts, decided while a card waits: loads, acts of social security and medical, loss reports, replacements.

`Desk` implements the `LoadAuthority` and `ActAuthority` of `cardcore`; `routes` speaks them over HTTP (docs/wire.md).
"""

from clearing.desk.desk import Desk
from clearing.desk.routes import desk_routes

__all__ = ["Desk", "desk_routes"]
