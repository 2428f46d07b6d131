"""The end of a business date: one restartable command, in one transaction (docs/ledger.md, "Postings at the close").

`command.close` asks what is true of all records known now, posts the difference to what earlier closes posted, opens
and resolves cases, folds balances and opens the next date. `gaps` judges what lies between two known records of a card,
`fees` what clearing earns.
"""
