"""What a closed date comes to: net positions by class, and each operator's statement (rules 11, 13; docs/ledger.md)."""
