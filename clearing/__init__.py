"""What a tap is worth. The rooms, in the order of the way: `service` takes requests, `intake` stores them once only,
`verdict` judges records, `rating` prices them, `ledger` says what is posted, `close` ends a day, `settlement` nets it,
`reconcile` finds what does not match. Beside the way: `registry`, `desk` (online acts), `store` (PostgreSQL).

No APDU is known here, and no key: proofs come from `keys` as verdicts.
"""
