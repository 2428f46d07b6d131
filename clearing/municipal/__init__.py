"""Taps of a source without cryptograms: the public tap files of a city (scheme `municipal-taps`).

`rows` reads and judges lines, `encoding` decodes them, `importer` stores and posts them. Nothing here is proven, so
nothing touches the purse: a ride is a claim on the source, in the transit ledger only.
"""
