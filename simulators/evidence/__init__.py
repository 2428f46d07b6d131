"""Auditor E, taken apart: what a stranger can prove from the uploads alone.

Reads the evidence files of docs/demo.md, proves every cryptogram and seal with its own reading of the standards, and
recomputes books, cases and nets by docs/ledger.md in plain dictionaries. It never opens the database and shares no code
with the product, with the simulated card or with the other auditor: a wrong reading must show as a disagreement.
"""
