"""Everything that is not us: the card's operating system, a PSAM, the virtual-reader link, and the city around them.

What lives here reads the standards a second time, so that a wrong reading of the product shows as a disagreement
instead of cancelling out. Therefore nothing here imports cardcore, keys, readers or clearing: the two sides meet in
APDUs, HTTP and files.
"""
