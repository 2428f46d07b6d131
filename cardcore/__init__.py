"""What a card is and says. Pure: no input or output but its own profiles, no clock, no threads, and no keys.

    record, cryptogram    the TapRecord and what a cryptogram covers
    apdu, tlv, bcd        the forms of bytes
    status, commands      what is said to a card, what it answers, what its status words mean (`status_tables`)
    secure_messaging      what the MACs and encipherments of protected commands are made over
    selection             what SELECT says: open, blocked, absent, in each layout
    card_map, card_files  applications, file and key ids; the contents of files
    switches, profile     where sources differ, by name; a kind of card as data (TOML)
    order, batch          one card or PSAM to be made; many of them, checked before the first
    script, step          the ordered steps that make a card or a PSAM of a blank
    purse                 how a purse transaction ends: committed, refused, or unknown until the card tells
    metro                 what an exit makes of the entry that a card shows
    authority             what needs a key, asked of a `CardAuthority` that `keys` implements
    errors                the error tree of the whole product

Cards are reached in `readers`, keys live in `keys`, money is moved in `clearing`.
"""
