"""The demo: two business days of a city, from blank cards to books that prove themselves (docs/demo.md).

command      the command and its sequence
stage        the parts on the stage: state directory, database, keys, the service in its own process, the clock
issuing      cards and PSAMs from blanks, through channels
front_desk   the clerk's steps between the taps, through the desk over HTTP
report       auditors, invariants, report.json, the table at the end
"""

from onecard.demo.command import command

__all__ = ["command"]
