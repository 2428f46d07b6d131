"""Every cryptogram of the product against strangers: `python -m tests.oracles --cases 100000`.

strangers      gmssl (SM4, SM3), psec (DES, TR-31), pyemv (where it has the same function)
purse          session keys, MAC1 to MAC3, TACs
keyed          derivation, secure messaging, WRITE KEY, seals, TR-31
exchanges      whole exchanges with the software card, which reads the standards a second time
"""
