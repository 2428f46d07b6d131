"""How we reach a card.

Two floors: `readers.pcsc` (driver, workers, scripts, personalisation) and, on top of it, `readers.counter`.

No key lives here: what needs one is asked of a `cardcore.authority` that the front door hands in.
"""
