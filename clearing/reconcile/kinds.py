"""The kinds of cases that resolve by themselves, and the word for it; every other kind takes two persons (rule 23)."""

RESOLVED_BY_ITSELF = {
    "bad-proof": "taken up",
    "unknown-psam": "taken up",
    "unknown-issuer": "taken up",
    "no-key": "taken up",
    "unknown-card": "taken up",
    "malformed": "taken up",
    "terminal-suspended": "taken up",
    "bad-seal": "adopted",
    "card-gap": "filled",
    "gap-or-load": "evidence",
    "load-in-doubt": "committed",
    "sequence-gap": "filled",
    "torn": "void",
    "missing-exit": "exit",
    "missing-entry": "entry",
    "operator-total": "equal",
}
# Kinds that freeze the card: it says things that only a second card, or a broken one, can say.
FREEZING = ("fork", "unexplained-credit", "rogue-load")
OWNERS = {"card-gap": "clearing", "gap-or-load": "clearing"}
