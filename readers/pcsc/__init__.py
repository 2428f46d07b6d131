"""PC/SC and in-process channels, one worker per reader, card scripts, personalisation with its journal, purse flows.

The way in: `channel` (what a channel is), `direct` and `worker` (the two kinds), `monitor` (cards coming and going),
`personalise` with `journal` (issuing), `purse` (reading, loading and acts). Only `scard` imports the PC/SC library.
"""
