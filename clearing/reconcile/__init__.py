"""What does not match, as named cases with owners: their kinds, and what closes which (docs/ledger.md, "Cases")."""
