"""What a card is and says: commands, files, the card map, cryptogram inputs, the TapRecord.

Pure: no input or output, no clock, no threads, and no keys. What needs a key is asked of a `CardAuthority`, which `keys` implements.
"""
