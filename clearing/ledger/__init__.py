"""The double-entry books: what is posted for a record, and nothing else (docs/ledger.md)."""
