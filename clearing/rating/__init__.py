"""What a ride should have cost. A sector is one module here, and its dated tariffs are rows of the registry.

Pure functions: no store, no clock. Money is int fen. Small payments and utility bills cost what the bill says, so that
only transit has a tariff to check; social security and medical acts are split before the card sees them.
"""
