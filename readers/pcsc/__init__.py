"""PC/SC and in-process channels, one worker per reader, card scripts, personalisation with its journal, purse flows.

The way in: `channel` (what a channel is), `direct` and `worker` (the two kinds), `monitor` and `presence` (cards coming
and going), `personalise` with `journal` and `batch` (issuing), `look` (reading any card), `purse`, `debit` and `unload`
with `recovery` (money), `sam_pool` (PSAMs on lease), `trace` (what was sent, without its content). Only `scard` imports
the PC/SC library.
"""
